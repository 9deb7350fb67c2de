//! A model that is evaluated: its name in tables, its folder, weights, tokenizer, and what its folder says of decoding.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use soft_burn::burn::tensor::Device;
use soft_burn::{Llama, LlamaConfig};
use soft_core::{DecodeSettings, Decoder, Prompt};
use soft_data::Tokenizer;
use soft_eval::Journal;
use soft_eval::results::Sample;

use crate::decoding::{DecodingArgs, Trained};

/// A model folder with a name: `SoFT=runs/soft/model`; without one, the folder's is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFolder {
    /// The name in tables.
    pub name: String,
    /// The folder.
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

/// `runs/soft/model` is called `soft`: every run has a `model`.
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

/// A loaded model.
pub struct Subject {
    /// The name in tables.
    pub name: String,
    /// The weights.
    pub model: Llama,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What its folder says of decoding.
    pub trained: Trained,
}

/// An answer and the depth that named each of its tokens.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// As many depths.
    pub depths: Vec<usize>,
}

/// Prompts to answer, and how.
pub struct Questions<'a> {
    /// What the answers are kept under, beside the model's name and the mode.
    pub name: &'a str,
    /// The prompts' tokens.
    pub prompts: &'a [Vec<u32>],
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Prompts decoded at a time.
    pub batch: usize,
}

impl Subject {
    /// Loads a model.
    pub fn load(named: &NamedFolder, device: &Device) -> Result<Self> {
        let config = LlamaConfig::load(&named.folder)?;
        let tokenizer = Tokenizer::from_folder(&named.folder, config.vocab)?;
        let trained = Trained::load(&named.folder, &config)?;
        Ok(Self {
            name: named.name.clone(),
            model: Llama::from_pretrained(&named.folder, device)?,
            tokenizer,
            trained,
        })
    }

    /// The settings of a greedy mode.
    pub fn settings(&self, mode: &str, max_new_tokens: usize) -> Result<DecodeSettings> {
        DecodingArgs::of_mode(mode, max_new_tokens).settings(&self.trained, &self.tokenizer)
    }

    /// Greedy answers; those that the journal holds are taken from it, the others put there. `progress` is called after each prompt.
    pub fn answers(
        &self,
        mode: &str,
        questions: &Questions,
        journal: &mut Journal,
        mut progress: impl FnMut(),
    ) -> Result<Vec<Answer>> {
        let key = |index: usize| format!("{}/{}/{mode}/{index}", questions.name, self.name);
        let mut answers: Vec<Option<Answer>> = Vec::new();
        for index in 0..questions.prompts.len() {
            answers.push(journal.get(&key(index))?);
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
            let settings = self.settings(mode, questions.max_new_tokens)?;
            let mut decoder = Decoder::new(&self.model, &prompts, settings)?;
            let mut found = vec![
                Answer {
                    tokens: vec![],
                    depths: vec![]
                };
                indices.len()
            ];
            for step in decoder.by_ref() {
                let step = step?;
                found[step.row].tokens.push(step.token);
                found[step.row].depths.push(step.exit.depth());
            }
            for (&index, answer) in indices.iter().zip(found) {
                journal.record(&key(index), &answer)?;
                answers[index] = Some(answer);
                progress();
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// An answer as text.
    pub fn text(&self, answer: &Answer) -> Result<String> {
        Ok(self.tokenizer.decode(&answer.tokens)?)
    }

    /// An answer as pieces of text, each with the depth that named it.
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
