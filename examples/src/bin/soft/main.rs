//! `soft`: fine-tunes, evaluates and decodes LLaMA checkpoints with exits.
//!
//! Each subcommand is a module with `Args` and `run`. The other modules are shared.

mod answers;
mod calibrate;
mod chat;
mod compare;
mod devices;
mod draft_tokens;
mod evaluate;
mod extract;
mod finetune;
mod generate;
mod lens;
mod lm_eval;
mod output;
mod plot;
mod plot_exits;
mod pretrain_tiny;
mod report;
mod rows;
mod serve;
#[cfg(feature = "remote-server")]
mod serve_device;
mod statistics;
mod sweep;
mod texts;
mod trivia;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use soft_examples::{kernels, recipe, terminal};

const PIPELINE: &str = "\
A pipeline:
  soft finetune  --model SmolLM2-135M --data rows.jsonl --format jsonl --out runs/mine
  soft evaluate  --model runs/mine/model --data held-out.jsonl --format jsonl
  soft calibrate --model runs/mine/model --prompts prompts.jsonl
  soft generate  --model runs/mine/model --mode dynamic --max-new-tokens 64 --prompt \"The capital of France is\"

`soft NAME --help` describes a subcommand.";

/// Fine-tune a LLaMA so that its first n layers are models of their own, measure every depth, and
/// decode at any of them
#[derive(Parser)]
#[command(name = "soft", version, after_help = PIPELINE)]
struct Soft {
    #[command(subcommand)]
    command: Command,
    /// Folder of compiled kernels (cuda and vulkan) [default: soft/kernels in the user's cache]
    #[arg(long, global = true, help_heading = "Device")]
    kernel_cache: Option<PathBuf>,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant)] // there is one value
enum Command {
    /// Fine-tune a LLaMA so that its first n layers are models of their own
    Finetune(finetune::Args),
    /// Loss, perplexity, accuracy and answers at every exit of a model
    Evaluate(evaluate::Args),
    /// Tasks of lm-evaluation-harness at every exit, with its scores and files
    LmEval(lm_eval::Args),
    /// Compare two checkpoints: paired losses and answers, agreement token by token, judged
    /// responses
    Compare(compare::Args),
    /// Find exit thresholds that keep disagreement below a limit, and store them with the model
    Calibrate(calibrate::Args),
    /// Measure decoding modes side by side and recommend one
    Sweep(sweep::Args),
    /// Make a report of a folder of evaluations
    Report(report::Args),
    /// Generate text at any depth of a model
    Generate(generate::Args),
    /// Have a conversation with a model in the terminal
    ///
    /// Each line of input is a turn. /reset begins a new conversation; /exit or the end of the
    /// input ends it. Every turn decodes the whole conversation from an empty KV cache.
    Chat(chat::Args),
    /// Serve a model with OpenAI's API: every request chooses its depth or decoding mode
    Serve(serve::Args),
    /// Check that fast decoding gives the text of plain decoding, on your model and prompts
    Verify(verify::Args),
    /// The most probable next token at every depth of a model
    Lens(lens::Args),
    /// Write the first n blocks of a model as a model folder
    Extract(extract::Args),
    /// Store frequent tokens with a model, for cheaper drafts
    DraftTokens(draft_tokens::Args),
    /// Draw training logs: the loss at every exit over steps
    Plot(plot::Args),
    /// Draw the loss at every depth of several models
    PlotExits(plot_exits::Args),
    /// List the devices that this build finds on this machine
    Devices,
    /// Serve this machine's device to training runs elsewhere
    #[cfg(feature = "remote-server")]
    ServeDevice(serve_device::Args),
    /// Pre-train the quickstart's small LLaMA from scratch
    PretrainTiny(pretrain_tiny::Args),
}

fn main() -> ExitCode {
    terminal::run_with_status(run)
}

fn run() -> Result<ExitCode> {
    let given = std::env::args_os().collect();
    let given = recipe::expanded(&Soft::command(), "finetune", given)?;
    let Soft {
        command,
        kernel_cache,
    } = Soft::parse_from(given);
    kernels::keep(kernel_cache.as_deref());
    match command {
        Command::Finetune(args) => finetune::run(args)?,
        Command::Evaluate(args) => evaluate::run(args)?,
        Command::LmEval(args) => lm_eval::run(args)?,
        Command::Compare(args) => compare::run(args)?,
        Command::Calibrate(args) => calibrate::run(args)?,
        Command::Sweep(args) => sweep::run(args)?,
        Command::Report(args) => report::run(args)?,
        Command::Generate(args) => generate::run(args)?,
        Command::Chat(args) => chat::run(args)?,
        Command::Serve(args) => serve::run(args)?,
        Command::Verify(args) => return verify::run(args),
        Command::Lens(args) => lens::run(args)?,
        Command::Extract(args) => extract::run(args)?,
        Command::DraftTokens(args) => draft_tokens::run(args)?,
        Command::Plot(args) => plot::run(args)?,
        Command::PlotExits(args) => plot_exits::run(args)?,
        Command::Devices => devices::run()?,
        #[cfg(feature = "remote-server")]
        Command::ServeDevice(args) => serve_device::run(args)?,
        Command::PretrainTiny(args) => pretrain_tiny::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
