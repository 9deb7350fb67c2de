//! The interface of a model that can be cut at any depth, independent of how it computes.
//!
//! A single forward primitive, [`NestedModel::blocks`] over a range of blocks, serves nested
//! training, fixed exits, dynamic exits, drafting and verification. Sub-model f_n consists of the
//! token embedding, the first n blocks, the final norm and the language-model head (Sorted LLaMA,
//! section 3). Norm and head are part of [`NestedModel::logits`] and the same for every exit,
//! unless a backend has one head per exit. An exit may have a block of its own between the first n
//! blocks and the head (Balcony, arXiv 2503.05005).

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::exit::{Exit, Exits};
use crate::model::cache::KvCache;

/// A decoder-only language model with a sub-model at every depth.
pub trait NestedModel {
    /// Token ids on the model's device, `[batch, seq]`.
    type Tokens;
    /// The residual stream, `[batch, seq, d_model]`, before the final norm.
    type Hidden: Clone;
    /// Logits, `[batch, seq, vocab]`.
    type Logits;
    /// Storage for the keys and values of earlier positions; `()` for a model without attention.
    type KvStore;
    /// Errors of the model.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Number of decoder blocks.
    fn depth(&self) -> usize;

    /// Number of blocks that belong to a single exit each, in addition to the
    /// [`depth`](Self::depth) blocks that all sub-models share.
    fn exit_blocks(&self) -> usize {
        0
    }

    /// The index of the block of `exit`, if it has its own. These are numbered after the shared
    /// ones, from [`depth`](Self::depth) on.
    fn exit_block(&self, _exit: Exit) -> Option<usize> {
        None
    }

    /// Embeds `tokens`: the hidden state before block 0.
    ///
    /// # Errors
    /// Backend-specific.
    fn embed(&self, tokens: &Self::Tokens) -> Result<Self::Hidden, Self::Error>;

    /// Runs the blocks in `range`, causally.
    ///
    /// Without a past, `hidden` is `[batch, seq, d_model]` and starts at position 0. With one,
    /// `hidden` is packed, `[1, n, d_model]`: the concatenated new states of all rows,
    /// [`Past::query_lens`] of each. Row r continues after the positions that the cache already
    /// holds for r in these blocks, and the new keys and values are appended.
    ///
    /// `range` holds shared blocks, or the block of one exit ([`exit_block`](Self::exit_block)).
    ///
    /// # Errors
    /// When `range` is outside the model, the cache is full, or counts and states do not match.
    fn blocks(
        &self,
        hidden: Self::Hidden,
        range: Range<usize>,
        past: Option<Past<Self::KvStore>>,
    ) -> Result<Self::Hidden, Self::Error>;

    /// Runs states that went through `exit.depth()` shared blocks through the block of `exit`, if
    /// it has its own. Its head takes the result.
    ///
    /// # Errors
    /// See [`blocks`](Self::blocks).
    fn at_exit(
        &self,
        hidden: Self::Hidden,
        exit: Exit,
        past: Option<Past<Self::KvStore>>,
    ) -> Result<Self::Hidden, Self::Error> {
        match self.exit_block(exit) {
            None => Ok(hidden),
            Some(block) => self.blocks(hidden, block..block + 1, past),
        }
    }

    /// Final norm and head of `exit` on a hidden state at this exit ([`at_exit`](Self::at_exit)).
    ///
    /// # Errors
    /// Backend-specific, such as an exit that has no head.
    fn logits(&self, hidden: &Self::Hidden, exit: Exit) -> Result<Self::Logits, Self::Error>;

    /// The sub-model f_n from tokens to logits, without a cache.
    ///
    /// # Errors
    /// Errors of the methods it calls.
    fn sub_model(&self, tokens: &Self::Tokens, exit: Exit) -> Result<Self::Logits, Self::Error> {
        let hidden = self.blocks(self.embed(tokens)?, 0..exit.depth(), None)?;
        self.logits(&self.at_exit(hidden, exit, None)?, exit)
    }

    /// Runs the model once and passes the hidden state at every exit ([`at_exit`](Self::at_exit))
    /// to `visit`, shallowest first.
    ///
    /// # Errors
    /// Errors of the methods it calls and of `visit`.
    fn visit_exits(
        &self,
        tokens: &Self::Tokens,
        exits: &Exits,
        mut visit: impl FnMut(Exit, &Self::Hidden) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error>
    where
        Self: Sized,
    {
        exits.walk(
            self.embed(tokens)?,
            |_| true,
            |hidden, range| self.blocks(hidden, range, None),
            |stop, hidden| visit(stop.exit, &self.at_exit(hidden.clone(), stop.exit, None)?),
        )
    }
}

/// The earlier positions of a pass, and the number of new ones in each row.
#[derive(Debug)]
pub struct Past<'a, Store> {
    /// Keys and values of the earlier positions.
    pub cache: &'a mut KvCache<Store>,
    /// Number of new states of each row of the cache, in order; 0 for a row without new states.
    pub query_lens: &'a [usize],
}

/// A nested model that can be trained with the sorted loss.
pub trait TrainModel: NestedModel {
    /// The targets: for a language model, the supervised positions and their next tokens.
    type Targets;
    /// A differentiable scalar.
    type Loss: Clone;

    /// Cross-entropy in nats of sub-model `exit` from the hidden state at this exit
    /// ([`at_exit`](NestedModel::at_exit)), **summed** over the targets. The caller divides by the
    /// number of targets in the whole optimizer batch.
    ///
    /// # Errors
    /// See [`NestedModel::logits`].
    fn loss(
        &self,
        hidden: &Self::Hidden,
        exit: Exit,
        targets: &Self::Targets,
    ) -> Result<Self::Loss, Self::Error>;

    /// Σ weight · loss. `terms` is never empty.
    ///
    /// # Errors
    /// Backend-specific.
    fn weighted_sum(&self, terms: &[(f64, Self::Loss)]) -> Result<Self::Loss, Self::Error>;
}

/// A model that can be trained and evaluated on batches of token rows.
pub trait BatchModel: TrainModel {
    /// Moves a batch to the model's device.
    ///
    /// # Errors
    /// When a token is outside the vocabulary.
    fn prepare(&self, batch: &Batch) -> Result<(Self::Tokens, Self::Targets), Self::Error>;

    /// Loss and correctness of the prediction of every target as plain numbers, which are not
    /// differentiable, in the order of the batch's targets.
    ///
    /// # Errors
    /// See [`NestedModel::logits`].
    fn target_scores(
        &self,
        hidden: &Self::Hidden,
        exit: Exit,
        targets: &Self::Targets,
    ) -> Result<Vec<TargetScore>, Self::Error>;

    /// [`target_scores`](Self::target_scores) of every exit on one batch, in one pass.
    ///
    /// # Errors
    /// Errors of the methods it calls.
    fn batch_scores(
        &self,
        batch: &Batch,
        exits: &Exits,
    ) -> Result<Vec<Vec<TargetScore>>, Self::Error>
    where
        Self: Sized,
    {
        let (tokens, targets) = self.prepare(batch)?;
        let mut scores = Vec::with_capacity(exits.len());
        self.visit_exits(&tokens, exits, |exit, hidden| {
            scores.push(self.target_scores(hidden, exit, &targets)?);
            Ok(())
        })?;
        Ok(scores)
    }
}

/// The result of a sub-model for one target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TargetScore {
    /// Cross-entropy in nats.
    pub nats: f64,
    /// Whether the target has the highest score.
    pub correct: bool,
}

/// The results of a sub-model for several targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreSum {
    /// Cross-entropy in nats, summed over the targets.
    pub nats: f64,
    /// Number of targets that have the highest score.
    pub correct: u64,
    /// Number of targets.
    pub targets: u64,
    /// Those of the targets that are stop tokens, where they are told apart.
    #[serde(default)]
    pub ends: u64,
    /// Those of the stop tokens that have the highest score.
    #[serde(default)]
    pub correct_ends: u64,
}

impl ScoreSum {
    /// Adds one target.
    pub fn add(&mut self, score: TargetScore) {
        self.nats += score.nats;
        self.correct += u64::from(score.correct);
        self.targets += 1;
    }

    /// Adds a target that is a stop token.
    pub fn add_end(&mut self, score: TargetScore) {
        self.add(score);
        self.ends += 1;
        self.correct_ends += u64::from(score.correct);
    }

    /// Adds several targets.
    pub fn add_all(&mut self, scores: &[TargetScore]) {
        scores.iter().for_each(|score| self.add(*score));
    }
}
