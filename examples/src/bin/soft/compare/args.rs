//! The command line of `soft compare`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args as ClapArgs;
use soft_core::Exits;
use soft_data::Format;
use soft_examples::device::PlaceArgs;
use soft_examples::eval_model::NamedFolder;
use soft_examples::evaluation::OutputArgs;
use soft_examples::tokens::TokenArgs;

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder, or org/name[@revision] of a hub, whose figures come first; NAME=FOLDER to name
    /// it in tables
    #[arg(long)]
    pub ours: NamedFolder,
    /// Model it is compared with, likewise
    #[arg(long)]
    pub theirs: NamedFolder,
    /// Exits to compare, the last one the full depth [default: those ours was trained at]
    #[arg(long)]
    pub exits: Option<Exits>,
    /// File of rows to score both on
    #[arg(long, requires = "format")]
    pub data: Option<PathBuf>,
    /// Layout of the rows: alpaca, triviaqa or jsonl
    #[arg(long)]
    pub format: Option<Format>,
    /// Use the first N rows only
    #[arg(long)]
    pub limit: Option<usize>,
    /// Exits that answer the rows' questions (triviaqa) [default: the full depth]
    #[arg(long)]
    pub answer_exits: Option<Exits>,
    /// File of instructions: a JSON array or JSON lines of {"instruction", "input"}
    #[arg(long)]
    pub instructions: Option<PathBuf>,
    /// Use the first N instructions only
    #[arg(long)]
    pub instructions_limit: Option<usize>,
    /// Positions of an answer at which exits are compared with the full depth, on the answers to
    /// the instructions, else to the rows; 0 for none
    #[arg(long, default_value_t = 20)]
    pub positions: usize,
    /// Who judges the responses to the instructions: verdict=FOLDER (a model that is asked which is
    /// better), response=FOLDER (the response that this model finds likelier), chat=MODEL (a
    /// server, see --url) or file (people, through --verdicts)
    #[arg(long, requires = "verdicts")]
    pub judge: Option<String>,
    /// File that keeps verdicts as they come, and lists those that people are to give
    #[arg(long)]
    pub verdicts: Option<PathBuf>,
    /// Exits whose responses are judged [default: all]
    #[arg(long)]
    pub judge_exits: Option<Exits>,
    /// Chat server up to the version; its key is read from OPENAI_API_KEY
    #[arg(long, default_value = "https://api.openai.com/v1")]
    pub url: String,
    /// Seconds to wait for one reply of the server
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// Attempts for one verdict of the server
    #[arg(long, default_value_t = 5)]
    pub attempts: u32,
    /// Pairs that people have judged, PandaLM's testset-v1.json: how good is the judge?
    #[arg(long, requires = "judge")]
    pub people: Option<PathBuf>,
    /// Use the first N pairs of people only
    #[arg(long)]
    pub people_limit: Option<usize>,
    /// Most tokens of a response or an answer
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Rows per batch
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Longest row in tokens
    #[arg(long, default_value_t = 512)]
    pub max_len: usize,
    #[command(flatten)]
    pub tokens: TokenArgs,
    #[command(flatten)]
    pub device: PlaceArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Who judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JudgeChoice {
    /// A model that is asked.
    Verdict(NamedFolder),
    /// A model that finds one response likelier.
    Response(NamedFolder),
    /// A model behind a server.
    Chat(String),
    /// People, or other tools.
    File,
}

impl Args {
    /// Refuses what has nothing to work on.
    pub fn check(&self) -> Result<()> {
        self.output.check()?;
        ensure!(
            self.ours.name != self.theirs.name,
            "both models are called {:?}: name them, as in --ours SoFT=FOLDER --theirs SFT=FOLDER",
            self.ours.name
        );
        ensure!(
            self.data.is_some() || self.instructions.is_some() || self.people.is_some(),
            "nothing to compare on: give --data, --instructions or --people"
        );
        ensure!(
            self.judge.is_none() || self.instructions.is_some() || self.people.is_some(),
            "--judge has nothing to judge: give --instructions or --people"
        );
        ensure!(
            self.people.is_none() || self.judge_choice()? != Some(JudgeChoice::File),
            "--people measures a judge: people's own verdicts need none"
        );
        Ok(())
    }

    /// The judge asked for.
    pub fn judge_choice(&self) -> Result<Option<JudgeChoice>> {
        let Some(judge) = &self.judge else {
            return Ok(None);
        };
        let folder = |text: &str| -> Result<NamedFolder> { Ok(text.parse()?) };
        Ok(Some(match judge.split_once('=').unwrap_or((judge, "")) {
            ("verdict", path) if !path.is_empty() => JudgeChoice::Verdict(folder(path)?),
            ("response", path) if !path.is_empty() => JudgeChoice::Response(folder(path)?),
            ("chat", model) if !model.is_empty() => JudgeChoice::Chat(model.to_owned()),
            ("file", "") => JudgeChoice::File,
            _ => bail!(
                "unknown judge {judge:?}: expected verdict=FOLDER, response=FOLDER, chat=MODEL or file"
            ),
        }))
    }
}
