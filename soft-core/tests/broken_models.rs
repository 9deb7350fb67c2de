//! Each of these defects of a model must violate its law, or the laws would be useless.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use std::ops::Range;

use soft_core::conformance::{DecodingLaws, Laws, Observed};
use soft_core::model::{Head, Score, TargetScore};
use soft_core::toy::{ToyDraftHead, ToyError, ToyHidden, ToyModel, ToyStore};
use soft_core::{
    Batch, BatchModel, DecodeModel, Exit, Exits, NestedModel, Past, Prompt, Target, TrainModel,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    /// Mixes the next token into every embedding.
    SeesTheFuture,
    /// Runs blocks without the cache.
    IgnoresTheCache,
    /// Reads the first stale position instead of the last valid one.
    ReadsStalePositions,
    /// Counts every token twice.
    DoublesTheLoss,
    /// Computes other states when a pass stops at an exit.
    StumblesAtExits,
    /// Trains on padding.
    LearnsFromPadding,
    /// Loses the last valid position when it overwrites stale ones.
    OverwritesTooMuch,
    /// Gathers states in another order than requested.
    GathersInItsOwnOrder,
    /// Concatenates parts in reverse order.
    ConcatenatesBackwards,
    /// Gives many tokens equal scores, and returns the highest id of equal ones.
    NamesTheLastOfEqual,
    /// The same scores with the lowest id, which is not a defect.
    ScoresAlike,
    /// Reports higher probabilities than its logits imply.
    Overconfident,
    /// Assigns the logits of a draft head to other tokens.
    ShiftsDraftTokens,
    /// Appends other states to an exit's own block.
    AppendsBackwards,
    /// No defect.
    Sound,
}

struct Broken {
    model: ToyModel,
    defect: Defect,
}

impl NestedModel for Broken {
    type Tokens = Vec<Vec<u32>>;
    type Hidden = ToyHidden;
    type Logits = ToyHidden;
    type KvStore = ToyStore;
    type Error = ToyError;

    fn depth(&self) -> usize {
        self.model.depth()
    }

    fn exit_blocks(&self) -> usize {
        self.model.exit_blocks()
    }

    fn exit_block(&self, exit: Exit) -> Option<usize> {
        self.model.exit_block(exit)
    }

    fn embed(&self, tokens: &Self::Tokens) -> Result<ToyHidden, ToyError> {
        let mut hidden = self.model.embed(tokens)?;
        if self.defect == Defect::SeesTheFuture {
            for row in &mut hidden {
                for position in 1..row.len() {
                    row[position - 1][0] += row[position][0];
                }
            }
        }
        Ok(hidden)
    }

    fn blocks(
        &self,
        hidden: ToyHidden,
        range: Range<usize>,
        past: Option<Past<ToyStore>>,
    ) -> Result<ToyHidden, ToyError> {
        let past = past.filter(|_| self.defect != Defect::IgnoresTheCache);
        let after_an_exit = range.start > 0 && past.is_none();
        let mut past = past;
        if let Some(past) = &mut past {
            self.damage(past, &range)?;
        }
        let mut hidden = self.model.blocks(hidden, range, past)?;
        if after_an_exit && self.defect == Defect::StumblesAtExits {
            hidden[0][0][0] += 1.0;
        }
        Ok(hidden)
    }

    fn logits(&self, hidden: &ToyHidden, exit: Exit) -> Result<ToyHidden, ToyError> {
        let mut logits = self.model.logits(hidden, exit)?;
        for logit in logits.iter_mut().flatten().flatten() {
            *logit = self.coarse(*logit);
        }
        Ok(logits)
    }
}

impl Broken {
    /// Damages the stored values of rows with stale positions.
    fn damage(&self, past: &mut Past<ToyStore>, range: &Range<usize>) -> Result<(), ToyError> {
        // Appending nothing returns the store.
        let nothing = vec![0; past.query_lens.len()];
        let (starts, store) = past.cache.append(range, &nothing, 0)?;
        for block in &mut store[range.clone()] {
            let rows = block.iter_mut().zip(&starts).zip(past.query_lens);
            for ((held, &start), &new) in rows {
                if new == 0 || start == 0 || held.len() <= start {
                    continue;
                }
                match self.defect {
                    Defect::ReadsStalePositions => held.swap(start - 1, start),
                    Defect::OverwritesTooMuch => held[start - 1].fill(0.0),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn coarse(&self, logit: f64) -> f64 {
        match self.defect {
            Defect::NamesTheLastOfEqual | Defect::ScoresAlike => logit.round(),
            _ => logit,
        }
    }
}

impl TrainModel for Broken {
    type Targets = Vec<Target>;
    type Loss = f64;

    fn loss(&self, hidden: &ToyHidden, exit: Exit, targets: &Vec<Target>) -> Result<f64, ToyError> {
        let loss = self.model.loss(hidden, exit, targets)?;
        let doubled = self.defect == Defect::DoublesTheLoss;
        Ok(if doubled { 2.0 * loss } else { loss })
    }

    fn weighted_sum(&self, terms: &[(f64, f64)]) -> Result<f64, ToyError> {
        self.model.weighted_sum(terms)
    }
}

impl BatchModel for Broken {
    fn prepare(&self, batch: &Batch) -> Result<(Vec<Vec<u32>>, Vec<Target>), ToyError> {
        let (mut tokens, mut targets) = self.model.prepare(batch)?;
        if self.defect == Defect::LearnsFromPadding {
            let seq = batch.seq();
            for (row, &length) in batch.lengths().iter().enumerate() {
                tokens[row].resize(seq, 0);
                let padding = length..seq;
                targets.extend(padding.map(|position| Target {
                    row,
                    position,
                    token: 0,
                }));
            }
        }
        Ok((tokens, targets))
    }

    fn target_scores(
        &self,
        hidden: &ToyHidden,
        exit: Exit,
        targets: &Vec<Target>,
    ) -> Result<Vec<TargetScore>, ToyError> {
        self.model.target_scores(hidden, exit, targets)
    }
}

impl DecodeModel for Broken {
    type DraftHead = ToyDraftHead;

    fn tokens(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, ToyError> {
        self.model.tokens(rows)
    }

    fn vocab(&self) -> usize {
        self.model.vocab()
    }

    fn context(&self) -> usize {
        self.model.context()
    }

    fn empty_store(&self, rows: usize, capacity: usize) -> Result<ToyStore, ToyError> {
        self.model.empty_store(rows, capacity)
    }

    fn append_states(
        &self,
        hidden: ToyHidden,
        block: usize,
        past: Past<ToyStore>,
    ) -> Result<(), ToyError> {
        let mut hidden = hidden;
        if self.defect == Defect::AppendsBackwards {
            hidden[0].reverse();
        }
        self.model.append_states(hidden, block, past)
    }

    fn gather(&self, parts: &[&ToyHidden], states: &[usize]) -> Result<ToyHidden, ToyError> {
        let (mut parts, mut states) = (parts.to_vec(), states.to_vec());
        if self.defect == Defect::GathersInItsOwnOrder {
            states.sort_unstable();
            states.reverse();
        }
        if self.defect == Defect::ConcatenatesBackwards {
            parts.reverse();
        }
        self.model.gather(&parts, &states)
    }

    fn draft_head(&self, exit: Exit, tokens: &[u32]) -> Result<ToyDraftHead, ToyError> {
        self.model.draft_head(exit, tokens)
    }

    fn best_tokens(
        &self,
        hidden: &ToyHidden,
        head: Head<ToyDraftHead>,
    ) -> Result<Vec<u32>, ToyError> {
        let last_of_equal = self.defect == Defect::NamesTheLastOfEqual;
        let best = |row: &Vec<f32>| {
            let tokens = 0..row.len();
            let mut tokens: Vec<usize> = tokens.collect();
            if last_of_equal {
                tokens.reverse();
            }
            let higher = |best, next| if row[next] > row[best] { next } else { best };
            tokens.into_iter().reduce(higher).unwrap() as u32
        };
        Ok(self.logit_rows(hidden, head)?.iter().map(best).collect())
    }

    fn scores(&self, hidden: &ToyHidden, head: Head<ToyDraftHead>) -> Result<Vec<Score>, ToyError> {
        let rows = self.logit_rows(hidden, head)?;
        let mut scores: Vec<_> = rows.iter().map(|row| Score::of_logits(row)).collect();
        if self.defect == Defect::Overconfident {
            for score in &mut scores {
                score.probability = score.probability.sqrt();
            }
        }
        Ok(scores)
    }

    fn logit_rows(
        &self,
        hidden: &ToyHidden,
        head: Head<ToyDraftHead>,
    ) -> Result<Vec<Vec<f32>>, ToyError> {
        let mut rows = self.model.logit_rows(hidden, head)?;
        if matches!(head, Head::Draft(_)) && self.defect == Defect::ShiftsDraftTokens {
            rows.iter_mut().for_each(|row| row.rotate_left(1));
        }
        for logit in rows.iter_mut().flatten() {
            *logit = self.coarse(f64::from(*logit)) as f32;
        }
        Ok(rows)
    }

    fn read_states(&self, hidden: &ToyHidden) -> Result<Vec<Vec<f32>>, ToyError> {
        self.model.read_states(hidden)
    }
}

impl Observed for Broken {
    fn logit_values(&self, logits: &ToyHidden) -> Result<ToyHidden, ToyError> {
        Ok(logits.clone())
    }

    fn loss_value(&self, loss: &f64) -> Result<f64, ToyError> {
        Ok(*loss)
    }
}

fn broken(defect: Defect) -> Broken {
    Broken {
        model: ToyModel::new(4, 5, 9, 1)
            .restless()
            .with_exit_blocks([Exit::new(2).unwrap()]),
        defect,
    }
}

fn laws(model: &Broken) -> Laws<'_, Broken> {
    Laws {
        model,
        rows: vec![vec![1, 2, 3, 4, 5], vec![5, 4, 3, 2, 6]],
        exits: Exits::new([1, 2, 4]).unwrap(),
        // Logit rows are in single precision.
        tolerance: 1e-6,
    }
}

fn decoding_laws(model: &Broken) -> DecodingLaws<'_, Broken> {
    let prompt = |seed, tokens: &[u32]| Prompt {
        tokens: tokens.to_vec(),
        seed,
    };
    let prompts = vec![
        prompt(1, &[1, 2, 3, 4]),
        prompt(2, &[8]),
        prompt(3, &[0, 7, 7, 5, 1, 2]),
    ];
    DecodingLaws::new(model, prompts, Exits::new([1, 2, 4]).unwrap())
}

#[test]
fn sound_models_obey_all_laws() {
    laws(&broken(Defect::Sound)).check().unwrap();
    for defect in [Defect::Sound, Defect::ScoresAlike] {
        decoding_laws(&broken(defect)).check().unwrap();
    }
}

#[test]
fn every_defect_breaks_its_law() {
    for (defect, law) in [
        (Defect::SeesTheFuture, "later tokens"),
        (Defect::IgnoresTheCache, "cached = uncached"),
        (Defect::ReadsStalePositions, "truncated"),
        (Defect::OverwritesTooMuch, "truncated"),
        (Defect::DoublesTheLoss, "sorted loss"),
        (Defect::StumblesAtExits, "one pass"),
        (Defect::LearnsFromPadding, "padded batch"),
        (Defect::GathersInItsOwnOrder, "late"),
        (Defect::ConcatenatesBackwards, "late"),
        (Defect::NamesTheLastOfEqual, "best tokens, scores"),
        (Defect::Overconfident, "best tokens, scores"),
        (Defect::ShiftsDraftTokens, "best tokens, scores"),
        (Defect::AppendsBackwards, "appended to an exit's own block"),
    ] {
        let error = laws(&broken(defect)).check().unwrap_err().to_string();
        assert!(error.contains(law), "{defect:?}: {error}");
    }
}

#[test]
fn defects_that_show_in_answers_break_laws_of_decoding() {
    for (defect, law) in [
        (Defect::SeesTheFuture, "waited at any exits"),
        (Defect::IgnoresTheCache, "waited at any exits"),
        (Defect::ReadsStalePositions, "self-speculation"),
        (Defect::OverwritesTooMuch, "self-speculation"),
        (Defect::StumblesAtExits, "static exit"),
        (Defect::GathersInItsOwnOrder, "waited at any exits"),
        (Defect::ConcatenatesBackwards, "waited at any exits"),
        (Defect::NamesTheLastOfEqual, "static exit"),
        (Defect::Overconfident, "left early"),
    ] {
        let error = decoding_laws(&broken(defect))
            .check()
            .unwrap_err()
            .to_string();
        assert!(error.contains(law), "{defect:?}: {error}");
    }
}
