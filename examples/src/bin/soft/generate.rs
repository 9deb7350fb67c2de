//! `soft generate`: generates text at any depth of a model: at one exit, with an exit per token, by
//! self-speculation, or in the mode that is fastest on this machine.

use anyhow::{Result, ensure};
use serde_json::json;
use soft_examples::device_profile::ProfileArgs;
use soft_examples::prompts::PromptArgs;

use crate::answers::{AnswerArgs, Answers, Show, print};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    source: PromptArgs,
    #[command(flatten)]
    answers: AnswerArgs,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Prompts decoded at a time
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Print one JSON object per answer, then one with the statistics, instead of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.batch > 0, "--batch is 0: expected at least 1");
    args.answers.decoding.refuse_unused()?;
    let model = args.answers.model.open()?;
    let prompts = args.source.read(&model.reader())?;
    let show = if args.json {
        Show::Json
    } else if prompts.len() == 1 {
        Show::PromptAndStream
    } else {
        Show::Blocks
    };
    let mut answers = Answers::new(&model, &args.answers, show)?;
    answers.profile = args.profile.start("token");
    for prompts in prompts.chunks(args.batch) {
        answers.answer(prompts)?;
    }
    if let Some(profile) = answers.profile.take() {
        profile.finish();
    }
    if args.json {
        let statistics = json!({ "statistics": answers.statistics });
        return print(&format!("{statistics}\n"));
    }
    answers.print_statistics();
    Ok(())
}
