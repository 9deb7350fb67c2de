//! A model to evaluate, and its results on texts.

use std::convert::Infallible;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use soft_burn::{DecodingDefaults, Llama, LlamaConfig, Placement};
use soft_core::decode::Finish;
use soft_core::model::ScoreSum;
use soft_core::policy::ExitHead;
use soft_core::{Batch, Decoder, Exits, NestedModel, Prompt};
use soft_data::Tokenizer;
use soft_eval::results::{Input, Sample};
use soft_eval::{
    AnsweredPrompt, HeadCosts, Journal, TokenTrace, TracedStates, Tracing, trace, trace_states,
};

use crate::decoding::DecodingArgs;
use crate::device::PlaceArgs;
use crate::evaluation::{fingerprint_of, fingerprint_of_inputs, fingerprints};
use crate::hub::model_folder;
use crate::model;
use crate::prompts::Reader;
use crate::tokens::TokenArgs;

/// A model folder with a name: `SoFT=runs/soft/model`. The default name is that of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFolder {
    /// The name in tables.
    pub name: String,
    /// The folder, or the name of a model on a hub.
    pub folder: PathBuf,
}

impl FromStr for NamedFolder {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let whole = Path::new(text);
        Ok(match text.split_once('=') {
            Some((name, folder)) if !whole.exists() => Self {
                name: name.to_owned(),
                folder: folder.into(),
            },
            _ => Self {
                name: own_name(whole),
                folder: whole.to_owned(),
            },
        })
    }
}

/// `runs/soft/model` gets the name `soft`, since every run has a folder `model`.
fn own_name(folder: &Path) -> String {
    let named = match folder.file_name() {
        Some(name) if name == "model" => folder.parent().and_then(Path::file_name),
        name => name,
    };
    named.map_or_else(
        || folder.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// A model to evaluate, and how it is loaded.
#[derive(clap::Args, Debug, Clone)]
pub struct EvalModelArgs {
    /// Model folder, NAME=FOLDER to name it in tables; with the feature `hub` also
    /// `org/name[@revision]`
    #[arg(long)]
    pub model: NamedFolder,
    #[command(flatten)]
    pub tokens: TokenArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
}

impl EvalModelArgs {
    /// Loads the model.
    pub fn open(&self) -> Result<EvalModel> {
        EvalModel::load(&self.model, self.place.open()?, &self.tokens)
    }
}

/// A loaded model.
pub struct EvalModel {
    /// The name in tables.
    pub name: String,
    /// Its folder; in the cache for a model from a hub.
    pub folder: PathBuf,
    /// Its files, for the provenance of results.
    pub inputs: Vec<Input>,
    /// Fingerprint of the files, for journals.
    fingerprint: String,
    /// The weights.
    pub model: Llama,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Decoding defaults of its folder.
    pub trained: DecodingDefaults,
}

/// An answer and the exit of each of its tokens.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The depth of each token's exit.
    pub depths: Vec<usize>,
    /// Whether it ended by a stop token.
    pub ended: bool,
}

/// Prompts to answer, and settings.
pub struct Questions<'a> {
    /// Tokens of the prompts.
    pub prompts: &'a [Vec<u32>],
    /// Exits for modes that need exits, by default those the model was trained at.
    pub exits: Option<&'a Exits>,
    /// Maximum number of tokens of an answer.
    pub max_new_tokens: usize,
    /// Prompts decoded at a time.
    pub batch: usize,
}

impl EvalModel {
    /// Loads a model. A model named as on a hub is fetched first.
    pub fn load(
        named: &NamedFolder,
        place: impl Into<Placement>,
        tokens: &TokenArgs,
    ) -> Result<Self> {
        let folder = model_folder(&named.folder)?;
        let config = LlamaConfig::load(&folder)?;
        let tokenizer = tokens.open(&folder, config.vocab)?;
        let trained = DecodingDefaults::load(&folder, &config)?;
        let inputs = fingerprints(&folder)?;
        Ok(Self {
            name: named.name.clone(),
            fingerprint: fingerprint_of_inputs(&inputs),
            inputs,
            model: model::load(&folder, place)?,
            folder,
            tokenizer,
            trained,
        })
    }

    /// Encodes prompts for this model.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            folder: &self.folder,
            tokenizer: &self.tokenizer,
            context: self.model.config().max_positions,
        }
    }

    /// Arguments of a greedy mode.
    pub fn decoding(&self, mode: &str, questions: &Questions) -> DecodingArgs {
        DecodingArgs::of_mode(mode, questions.max_new_tokens).with_exits(questions.exits)
    }

    /// The journal key of the result of computation `how` on tokens.
    pub fn key(&self, how: &str, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        let (length, sum) = (tokens.len(), fingerprint_of(&bytes));
        format!("{how}/{}/{length}-{sum}", self.fingerprint)
    }

    /// Greedy answers, from the journal or computed and recorded. `progress` is called after each
    /// prompt.
    pub fn answers(
        &self,
        mode: &str,
        questions: &Questions,
        journal: &mut Journal,
        mut progress: impl FnMut(),
    ) -> Result<Vec<Answer>> {
        let decoding = self.decoding(mode, questions);
        let how = format!("answer/{}", decoding.description(&self.trained)?);
        let keys = questions
            .prompts
            .iter()
            .map(|prompt| self.key(&how, prompt));
        let keys: Vec<String> = keys.collect();
        let mut answers: Vec<Option<Answer>> = Vec::new();
        for key in &keys {
            answers.push(journal.get(key)?);
        }
        let open: Vec<usize> = (0..answers.len())
            .filter(|&i| answers[i].is_none())
            .collect();
        (open.len()..answers.len()).for_each(|_| progress());
        for indices in open.chunks(questions.batch.max(1)) {
            let prompts = indices
                .iter()
                .map(|&index| Prompt::from(questions.prompts[index].clone()));
            let prompts: Vec<_> = prompts.collect();
            let settings = decoding.settings(&self.trained, &self.tokenizer)?;
            let mut decoder = Decoder::new(&self.model, &prompts, settings)?;
            let mut found = vec![Answer::default(); indices.len()];
            for step in decoder.by_ref() {
                let step = step?;
                found[step.row].tokens.push(step.token);
                found[step.row].depths.push(step.exit.depth());
            }
            for (row, (&index, mut answer)) in indices.iter().zip(found).enumerate() {
                answer.ended = decoder.finish(row) == Some(Finish::StopToken);
                journal.record(&keys[index], &answer)?;
                answers[index] = Some(answer);
                progress();
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sums of scores, `[exit][row]`, from the journal or computed and recorded. `progress` is
    /// called after each batch.
    pub fn row_scores(
        &self,
        exits: &Exits,
        batches: &[Batch],
        journal: &mut Journal,
        mut progress: impl FnMut(),
    ) -> Result<Vec<Vec<ScoreSum>>> {
        let ends = self.tokenizer.stop_tokens();
        let mut rows: Vec<Vec<ScoreSum>> = vec![Vec::new(); exits.len()];
        for batch in batches {
            let targets = batch.targets().iter();
            let targets = targets.flat_map(|t| [t.row as u32, t.position as u32, t.token]);
            // With padding, for the keys of existing journals.
            let tokens = batch.padded(self.tokenizer.pad()).into_iter();
            let content: Vec<u32> = tokens.chain(targets).collect();
            let key = self.key(&format!("scores with ends/{exits}"), &content);
            let scores = match journal.get(&key)? {
                Some(known) => known,
                None => {
                    let one = std::slice::from_ref(batch);
                    let scores = soft_eval::row_scores(&self.model, exits, (one, ends), || ())?;
                    journal.record(&key, &scores)?;
                    scores
                }
            };
            for (rows, scores) in rows.iter_mut().zip::<Vec<Vec<ScoreSum>>>(scores) {
                rows.extend(scores);
            }
            progress();
        }
        Ok(rows)
    }

    /// Traces of every exit after the first token of each answer, from the journal or computed and
    /// recorded. The full model generates the first token in the pass over the prompt. `progress`
    /// is called after each text.
    pub fn traces(
        &self,
        (exits, head): (&Exits, ExitHead),
        texts: &[AnsweredPrompt],
        journal: &mut Journal,
        mut progress: impl FnMut(),
    ) -> Result<Vec<Vec<TokenTrace>>> {
        let tracing = self.tracing(exits, head);
        let mut traces = Vec::with_capacity(texts.len());
        for text in texts {
            let (tokens, positions) = traced_part(text);
            let signals = format!("{:?}{:?}", tracing.draft_tokens, tracing.probes);
            let signals = fingerprint_of(signals.as_bytes());
            let how = format!("trace/{exits}/{positions:?}/{signals}");
            let key = self.key(&how, &tokens);
            let traced = match journal.get(&key)? {
                Some(known) => known,
                None => {
                    let traced = trace(&self.model, tracing, &tokens, positions)?;
                    journal.record(&key, &traced)?;
                    traced
                }
            };
            traces.push(traced);
            progress();
        }
        Ok(traces)
    }

    /// As [`traces`](Self::traces) of one text, with the heads in use and without a journal, and
    /// the hidden states.
    pub fn trace_states(&self, exits: &Exits, text: &AnsweredPrompt) -> Result<TracedStates> {
        let (tokens, positions) = traced_part(text);
        let tracing = self.tracing(exits, self.exit_head());
        Ok(trace_states(&self.model, tracing, &tokens, positions)?)
    }

    fn tracing<'a>(&'a self, exits: &'a Exits, head: ExitHead) -> Tracing<'a> {
        let draft_tokens = self.trained.draft_tokens.as_deref();
        Tracing {
            exits,
            draft_tokens: draft_tokens.filter(|_| head == ExitHead::Draft),
            probes: self.trained.probes.as_ref(),
        }
    }

    /// The head of early exits: a draft head, if the model has draft tokens.
    pub fn exit_head(&self) -> ExitHead {
        match self.trained.draft_tokens {
            Some(_) => ExitHead::Draft,
            None => ExitHead::Full,
        }
    }

    /// The costs of the full model's head and of those of early exits, in blocks. An exit's own
    /// block runs before its head.
    pub fn head_costs(&self) -> HeadCosts {
        let draft = self.trained.draft_tokens.as_ref().map_or(0, Vec::len);
        let costs = self.model.config().operation_costs(draft);
        let early = match self.exit_head() {
            ExitHead::Full => costs.head,
            ExitHead::Draft => costs.draft_head,
        };
        HeadCosts {
            full: costs.head / costs.block,
            early: early / costs.block + f64::from(u8::from(self.model.exit_blocks() > 0)),
        }
    }

    /// An answer as text.
    pub fn text(&self, answer: &Answer) -> Result<String> {
        Ok(self.tokenizer.decode(&answer.tokens)?)
    }

    /// An answer as pieces of text, each with the depth of its exit.
    pub fn sample(&self, mode: &str, prompt: &[u32], answer: &Answer) -> Result<Sample> {
        let mut stream = soft_data::TextStream::after(&self.tokenizer, prompt)?;
        let mut pieces: Vec<(String, usize)> = Vec::new();
        let mut add = |text: String, depth: usize| match pieces.last_mut() {
            Some((last, same)) if *same == depth => last.push_str(&text),
            _ if text.is_empty() => {}
            _ => pieces.push((text, depth)),
        };
        for (token, depth) in answer.tokens.iter().zip(&answer.depths) {
            add(stream.push(*token)?, *depth);
        }
        let last = answer.depths.last().copied().unwrap_or_default();
        add(stream.finish()?, last);
        Ok(Sample {
            model: self.name.clone(),
            mode: mode.to_owned(),
            pieces,
        })
    }
}

/// The tokens of a text and the positions to trace: those of the answer after its first token.
fn traced_part(text: &AnsweredPrompt) -> (Vec<u32>, Range<usize>) {
    let tokens = [&text.prompt[..], &text.answer].concat();
    let last = text.prompt.len() + text.decisions();
    (tokens, text.prompt.len()..(last - 1).max(text.prompt.len()))
}
