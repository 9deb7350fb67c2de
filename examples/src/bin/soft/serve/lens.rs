//! The best next token at every depth, for the page's view of a prompt (`soft lens` in a server).
//!
//! One depth is computed between two decoding rounds, so that running answers do not stall.

use serde_json::{Value, json};
use soft_burn::Llama;
use soft_core::model::Head;
use soft_core::{DecodeModel, Exit, NestedModel};
use tokio::sync::oneshot::Sender;

use super::refusal::Refusal;

/// Maximum number of tokens of a prompt.
pub const MOST_TOKENS: usize = 64;

/// A prompt on its way through the blocks.
pub struct LensJob {
    pub tokens: Vec<u32>,
    pub answer: Sender<Result<Vec<DepthView>, Refusal>>,
    hidden: Option<<Llama as NestedModel>::Hidden>,
    depths: Vec<DepthView>,
}

/// The best next token after each token of the prompt, and its probability, at one depth.
#[derive(Debug)]
pub struct DepthView {
    pub depth: usize,
    pub best: Vec<(u32, f32)>,
}

impl DepthView {
    pub fn json(&self, text: impl Fn(u32) -> String) -> Value {
        let tokens: Vec<String> = self.best.iter().map(|(token, _)| text(*token)).collect();
        let probabilities: Vec<f32> = self
            .best
            .iter()
            .map(|(_, probability)| *probability)
            .collect();
        json!({"depth": self.depth, "tokens": tokens, "probabilities": probabilities})
    }
}

impl LensJob {
    pub fn new(tokens: Vec<u32>, answer: Sender<Result<Vec<DepthView>, Refusal>>) -> Self {
        Self {
            tokens,
            answer,
            hidden: None,
            depths: Vec::new(),
        }
    }

    /// Computes one more depth; returns the job unless it is done or its client is gone.
    pub fn advance(mut self, model: &Llama) -> Option<Self> {
        if self.answer.is_closed() {
            return None;
        }
        match self.next_depth(model) {
            Ok(()) if self.depths.len() < model.depth() => Some(self),
            Ok(()) => {
                let _ = self.answer.send(Ok(self.depths));
                None
            }
            Err(error) => {
                let _ = self.answer.send(Err(Refusal::failed(error.to_string())));
                None
            }
        }
    }

    fn next_depth(&mut self, model: &Llama) -> Result<(), soft_burn::Error> {
        let hidden = match self.hidden.take() {
            Some(hidden) => hidden,
            None => model.embed(&model.tokens(std::slice::from_ref(&self.tokens))?)?,
        };
        let before = self.depths.len();
        let hidden = model.blocks(hidden, before..before + 1, None)?;
        let exit = Exit::new(before + 1).map_err(soft_burn::Error::from)?;
        let at_exit = model.at_exit(hidden.clone(), exit, None)?;
        let scores = model.scores(&at_exit, Head::Full(exit))?;
        self.depths.push(DepthView {
            depth: exit.depth(),
            best: scores
                .iter()
                .map(|score| (score.token, score.probability))
                .collect(),
        });
        self.hidden = Some(hidden);
        Ok(())
    }
}
