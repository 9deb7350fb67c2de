//! The arguments of `soft compare`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use soft_core::Exits;
use soft_data::{Format, Instruction, Record, read_instructions};
use soft_examples::device::PlaceArgs;
use soft_examples::eval_model::NamedFolder;
use soft_examples::tokens::TokenArgs;

use crate::output::OutputArgs;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// First model folder, NAME=FOLDER to name it in tables; with the feature `hub` also
    /// `org/name[@revision]`
    #[arg(long)]
    pub ours: NamedFolder,
    /// Second model, likewise
    #[arg(long)]
    pub theirs: NamedFolder,
    /// Exits to compare, the last one the full depth [default: those that the first was trained at]
    #[arg(long)]
    pub exits: Option<Exits>,
    /// File of rows to score both on. At least one of --data, --instructions and --people
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
    /// Judge of the responses to the instructions: verdict=FOLDER (a model that is asked which is
    /// better), response=FOLDER (a model's likelihood of the responses), chat=MODEL (a server, see
    /// --url) or file (people, through --verdicts)
    #[arg(long, requires = "verdicts")]
    pub judge: Option<String>,
    /// File in which verdicts are recorded, and in which people fill in theirs
    #[arg(long)]
    pub verdicts: Option<PathBuf>,
    /// Exits whose responses are judged [default: all]
    #[arg(long)]
    pub judge_exits: Option<Exits>,
    /// Base URL of the chat server; its key is read from OPENAI_API_KEY
    #[arg(long, default_value = "https://api.openai.com/v1")]
    pub url: String,
    /// Seconds to wait for one reply of the server
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// Attempts for one verdict of the server
    #[arg(long, default_value_t = 5)]
    pub attempts: u32,
    /// Pairs that people have judged, PandaLM's testset-v1.json, to measure the judge
    #[arg(long, requires = "judge")]
    pub people: Option<PathBuf>,
    /// Use the first N pairs of people only
    #[arg(long)]
    pub people_limit: Option<usize>,
    /// Maximum number of tokens of a response or an answer
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Rows per batch
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Longest row in tokens; longer ones are cut on the right
    #[arg(long, default_value_t = 512)]
    pub max_len: usize,
    #[command(flatten)]
    pub tokens: TokenArgs,
    #[command(flatten)]
    pub device: PlaceArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The judge of `--judge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JudgeChoice {
    /// A model that is asked which response is better.
    Verdict(NamedFolder),
    /// A model whose likelihoods of the responses are compared.
    Response(NamedFolder),
    /// A model on a server.
    Chat(String),
    /// People or other tools, through a file.
    File,
}

impl Args {
    /// Refuses arguments that have nothing to compare or to judge.
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
            "--people measures a judge, and --judge file is people themselves"
        );
        Ok(())
    }

    /// The judge, if one is given.
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

    /// The rows. Empty without --data.
    pub fn records(&self) -> Result<Vec<Record>> {
        let mut records = match (&self.data, self.format) {
            (Some(path), Some(format)) => format.read(path)?,
            _ => Vec::new(),
        };
        records.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(records)
    }

    /// The instructions. Empty without --instructions.
    pub fn read_instructions(&self) -> Result<Vec<Instruction>> {
        let mut instructions = match &self.instructions {
            Some(path) => read_instructions(path)?,
            None => Vec::new(),
        };
        instructions.truncate(self.instructions_limit.unwrap_or(usize::MAX));
        Ok(instructions)
    }
}
