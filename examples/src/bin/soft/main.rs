//! `soft`: the whole pipeline in one program, from fine-tuning to reports and decoding.

mod calibrate;
mod chat;
mod compare;
mod draft_tokens;
mod evaluate;
mod extract;
mod finetune;
mod generate;
mod lens;
mod plot;
mod plot_exits;
mod pretrain_tiny;
mod printer;
mod report;
#[cfg(feature = "remote-server")]
mod serve;
mod sweep;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use soft_examples::{outln, recipe, terminal};

/// Fine-tune a LLaMA once so that several of its depths are usable models, then evaluate and decode
/// it at any depth.
#[derive(Parser, Debug)]
#[command(version, after_help = PIPELINE, subcommand_required = true, arg_required_else_help = true)]
struct Soft {
    #[command(subcommand)]
    command: Command,
}

const PIPELINE: &str = "The pipeline in order:
  soft finetune --model SmolLM2-135M --data rows.jsonl --format jsonl --exits 12:30:6 --out runs/a
  soft evaluate --model runs/a/model --data held-out.jsonl --format jsonl
  soft calibrate --model runs/a/model --prompts prompts.jsonl --exits 12:30:6
  soft generate --model runs/a/model --prompt \"Once upon a time\" --mode auto";

#[derive(Subcommand, Debug)]
enum Command {
    /// Fine-tune a model so that its first n blocks are usable models
    Finetune(Box<finetune::Args>),
    /// Loss, perplexity, accuracy and answers at every exit of a model
    Evaluate(evaluate::Args),
    /// Compare two models: losses and answers in pairs, agreement by position, responses by a judge
    Compare(Box<compare::Args>),
    /// Find exit thresholds that keep a promised agreement, and store them with the model
    Calibrate(calibrate::Args),
    /// Measure decoding modes side by side and recommend one
    Sweep(sweep::Args),
    /// Make a report of a folder of evaluations
    Report(report::Args),
    /// Generate text at any depth of a model
    Generate(generate::Args),
    /// Talk with a model in the terminal
    Chat(chat::Args),
    /// Check on your model and prompts that fast modes generate what plain decoding generates
    Verify(verify::Args),
    /// The best next token and its probability at every depth of a model
    Lens(lens::Args),
    /// Write the first n blocks of a model as a model folder of its own
    Extract(extract::Args),
    /// Store frequent tokens with a model, for cheaper drafts
    DraftTokens(draft_tokens::Args),
    /// Draw training logs: the loss at every exit over steps
    Plot(plot::Args),
    /// Draw the loss at every depth of several models
    PlotExits(plot_exits::Args),
    /// Print the devices that this build finds here
    Devices,
    /// Let fine-tuning on other machines compute on this one's device
    #[cfg(feature = "remote-server")]
    Serve(serve::Args),
    /// Pre-train the quickstart's small LLaMA from scratch
    PretrainTiny(pretrain_tiny::Args),
}

fn main() -> ExitCode {
    terminal::run_with_status(|| {
        let given: Vec<OsString> = std::env::args_os().collect();
        let given = recipe::expanded(&Soft::command(), given)?;
        Soft::parse_from(given).command.run()
    })
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Finetune(args) => finetune::run(*args),
            Self::Evaluate(args) => evaluate::run(args),
            Self::Compare(args) => compare::run(*args),
            Self::Calibrate(args) => calibrate::run(args),
            Self::Sweep(args) => sweep::run(args),
            Self::Report(args) => report::run(args),
            Self::Generate(args) => generate::run(args),
            Self::Chat(args) => chat::run(args),
            Self::Verify(args) => return verify::run(args),
            Self::Lens(args) => lens::run(args),
            Self::Extract(args) => extract::run(args),
            Self::DraftTokens(args) => draft_tokens::run(args),
            Self::Plot(args) => plot::run(args),
            Self::PlotExits(args) => plot_exits::run(args),
            Self::Devices => {
                for name in soft_burn::list_devices() {
                    outln!("{name}");
                }
                Ok(())
            }
            #[cfg(feature = "remote-server")]
            Self::Serve(args) => serve::run(args),
            Self::PretrainTiny(args) => pretrain_tiny::run(args),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
