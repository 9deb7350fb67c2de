//! Exit policies: whether a token may exit at an exit.
//!
//! A policy is called at every exit and decides from the signals so far: exit, continue, or ask for
//! another signal. Signals that are not asked for are not computed, so that a policy over hidden
//! states only never applies the head. Knows no model.
//!
//! Sources: maximum probability, Sorted LLaMA section 4.4; top-two margin and hidden-state
//! saturation, CALM (Schuster et al., arXiv 2207.07061); entropy, BranchyNet (Teerapittayanon et
//! al., arXiv 1709.01686); patience, PABEE (Zhou et al., arXiv 2006.04152).

use crate::exit::{Exit, Exits};
use crate::model::decode_model::Score;
use crate::policy::error::PolicyError;
use crate::policy::thresholds::Thresholds;

/// A signal that a policy may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The head's score: one application of the head.
    Score,
    /// Cosine between the states at this exit and at the one before: no head.
    Similarity,
}

impl Signal {
    /// Every signal, from the cheapest on: the order in which they are computed.
    pub(crate) const ALL: [Self; 2] = [Self::Similarity, Self::Score];
}

/// The signals of a token at an exit, as far as they are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExitSignals {
    /// The head's score, once asked for.
    pub score: Option<Score>,
    /// Cosine to the state at the exit before (the embedding before the first), once asked for.
    pub similarity: Option<f32>,
}

/// A policy's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitDecision {
    /// Exit here: this exit's token is taken.
    Exit,
    /// Continue to the next exit.
    Continue,
    /// Undecided until this signal is computed.
    Ask(Signal),
}

/// Decides for one row, exit by exit, whether its token exits early.
///
/// The final layer is not an early exit: tokens that reach it use the full model.
pub trait ExitPolicy: ForRow + Send + Sync {
    /// Decides about the current token at `exit`. Called again after [`ExitDecision::Ask`], with
    /// that signal.
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision;

    /// A new token starts: forget the one before.
    fn next_token(&mut self) {}

    /// Refuses settings that make no sense for these exits.
    ///
    /// # Errors
    /// A threshold outside its range or for an exit that is not there.
    fn check(&self, _exits: &Exits) -> Result<(), PolicyError> {
        Ok(())
    }
}

/// Copies a policy for another row; implemented for every policy that is `Clone`.
pub trait ForRow {
    /// The same policy for another row.
    fn for_row(&self) -> Box<dyn ExitPolicy>;
}

impl<P: ExitPolicy + Clone + 'static> ForRow for P {
    fn for_row(&self) -> Box<dyn ExitPolicy> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn ExitPolicy> {
    fn clone(&self) -> Self {
        (**self).for_row()
    }
}

impl std::fmt::Debug for dyn ExitPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExitPolicy")
    }
}

/// Asks for the score and decides on it.
fn by_score(signals: &ExitSignals, leave: impl FnOnce(&Score) -> bool) -> ExitDecision {
    match &signals.score {
        None => ExitDecision::Ask(Signal::Score),
        Some(score) if leave(score) => ExitDecision::Exit,
        Some(_) => ExitDecision::Continue,
    }
}

/// Exits at the first exit: a fixed draft depth.
#[derive(Clone, Copy, Debug)]
pub struct Always;

impl ExitPolicy for Always {
    fn decide(&mut self, _exit: Exit, _signals: &ExitSignals) -> ExitDecision {
        ExitDecision::Exit
    }
}

/// Exits when the highest probability exceeds the exit's threshold: the paper's rule.
///
/// A threshold of 1 or more is never exceeded.
#[derive(Clone, Debug)]
pub struct Confidence(pub Thresholds);

impl ExitPolicy for Confidence {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match self.0.at(exit) {
            Some(threshold) if threshold < 1.0 => {
                by_score(signals, |score| f64::from(score.probability) > threshold)
            }
            _ => ExitDecision::Continue,
        }
    }

    fn check(&self, exits: &Exits) -> Result<(), PolicyError> {
        self.0
            .check("maximum probability", 0.0..=f64::INFINITY, exits)
    }
}

/// Exits when the best two probabilities are further apart than the exit's threshold.
#[derive(Clone, Debug)]
pub struct Margin(pub Thresholds);

impl ExitPolicy for Margin {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match self.0.at(exit) {
            Some(threshold) if threshold < 1.0 => {
                by_score(signals, |score| f64::from(score.margin()) > threshold)
            }
            _ => ExitDecision::Continue,
        }
    }

    fn check(&self, exits: &Exits) -> Result<(), PolicyError> {
        self.0.check("top-two margin", 0.0..=f64::INFINITY, exits)
    }
}

/// Exits when the entropy, in nats, is below the exit's threshold; 0 never exits.
#[derive(Clone, Debug)]
pub struct Entropy(pub Thresholds);

impl ExitPolicy for Entropy {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match self.0.at(exit) {
            Some(threshold) if threshold > 0.0 => {
                by_score(signals, |score| f64::from(score.entropy) < threshold)
            }
            _ => ExitDecision::Continue,
        }
    }

    fn check(&self, exits: &Exits) -> Result<(), PolicyError> {
        self.0.check("entropy", 0.0..=f64::INFINITY, exits)
    }
}

/// Exits when the hidden state has hardly turned since the exit before: its cosine to it
/// exceeds the exit's threshold. The head is applied only to a token that leaves.
#[derive(Clone, Debug)]
pub struct Saturation(pub Thresholds);

impl ExitPolicy for Saturation {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match (self.0.at(exit), signals.similarity) {
            (Some(threshold), _) if threshold >= 1.0 => ExitDecision::Continue,
            (None, _) => ExitDecision::Continue,
            (Some(_), None) => ExitDecision::Ask(Signal::Similarity),
            (Some(threshold), Some(cosine)) if f64::from(cosine) > threshold => ExitDecision::Exit,
            _ => ExitDecision::Continue,
        }
    }

    fn check(&self, exits: &Exits) -> Result<(), PolicyError> {
        self.0.check("cosine", -1.0..=f64::INFINITY, exits)
    }
}

/// Exits when so many exits in a row name the same token.
#[derive(Clone, Debug)]
pub struct Patience {
    exits: usize,
    /// Exit and token last looked at.
    last: Option<(Exit, u32)>,
    agreeing: usize,
}

impl Patience {
    /// Exits at the exit that is the `exits`-th in a row to name its token.
    pub fn new(exits: usize) -> Self {
        Self {
            exits,
            last: None,
            agreeing: 0,
        }
    }
}

impl ExitPolicy for Patience {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        let Some(score) = signals.score else {
            return ExitDecision::Ask(Signal::Score);
        };
        self.agreeing = match self.last {
            // Asked again, because a policy beside this one wants to see more.
            Some((last, _)) if last == exit => self.agreeing,
            Some((_, token)) if token == score.token => self.agreeing + 1,
            _ => 1,
        };
        self.last = Some((exit, score.token));
        if self.agreeing >= self.exits {
            ExitDecision::Exit
        } else {
            ExitDecision::Continue
        }
    }

    fn next_token(&mut self) {
        *self = Self::new(self.exits);
    }

    fn check(&self, _exits: &Exits) -> Result<(), PolicyError> {
        if self.exits == 0 {
            return Err(PolicyError::NoPatience);
        }
        Ok(())
    }
}

/// Implements what a policy made of two others does with each of them.
macro_rules! as_for_each {
    () => {
        fn next_token(&mut self) {
            self.0.next_token();
            self.1.next_token();
        }

        fn check(&self, exits: &Exits) -> Result<(), PolicyError> {
            self.0.check(exits)?;
            self.1.check(exits)
        }
    };
}

/// Exits when both exit; the second is asked only when the first would. Put the cheap one first.
#[derive(Clone, Debug)]
pub struct Both(pub Box<dyn ExitPolicy>, pub Box<dyn ExitPolicy>);

impl ExitPolicy for Both {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match self.0.decide(exit, signals) {
            ExitDecision::Exit => self.1.decide(exit, signals),
            other => other,
        }
    }

    as_for_each!();
}

/// Exits when either exits; the second is asked only when the first would stay.
#[derive(Clone, Debug)]
pub struct Either(pub Box<dyn ExitPolicy>, pub Box<dyn ExitPolicy>);

impl ExitPolicy for Either {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match self.0.decide(exit, signals) {
            ExitDecision::Continue => self.1.decide(exit, signals),
            other => other,
        }
    }

    as_for_each!();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit at which a policy leaves that is shown `tokens`, one an exit, and only what it asks
    /// for.
    fn leaves_at(policy: &mut dyn ExitPolicy, tokens: &[u32]) -> Option<usize> {
        policy.next_token();
        let shown = |&token: &u32| Score {
            token,
            probability: 0.5,
            second: 0.1,
            entropy: 1.0,
        };
        (1..).zip(tokens).find_map(|(depth, token)| {
            let exit = Exit::new(depth).unwrap();
            let mut signals = ExitSignals::default();
            let verdict = loop {
                match policy.decide(exit, &signals) {
                    ExitDecision::Ask(Signal::Score) => signals.score = Some(shown(token)),
                    ExitDecision::Ask(Signal::Similarity) => signals.similarity = Some(0.0),
                    verdict => break verdict,
                }
            };
            (verdict == ExitDecision::Exit).then_some(depth)
        })
    }

    #[test]
    fn patience_counts_an_exit_once_however_often_it_is_asked() {
        let patience = || Box::new(Patience::new(2));
        let never = || Box::new(Saturation(Thresholds::all(0.5)));
        let ever = || Box::new(Saturation(Thresholds::all(-0.5)));
        assert_eq!(leaves_at(&mut *patience(), &[1, 2, 2]), Some(3));
        let mut either = Either(patience(), never());
        assert_eq!(leaves_at(&mut either, &[1, 2, 2]), Some(3));
        assert_eq!(leaves_at(&mut either, &[1, 2, 3]), None);
        assert_eq!(leaves_at(&mut Both(patience(), ever()), &[1, 1]), Some(2));
        let mut patient = Either(Box::new(Both(patience(), never())), patience());
        assert_eq!(leaves_at(&mut patient, &[1, 1]), Some(2));
    }
}
