//! Exit policies, which decide whether a token exits at an exit.
//!
//! A policy is called at every exit and decides from the signals computed so far: exit, continue,
//! or ask for another signal. Signals that no policy asks for are not computed, so that a policy on
//! hidden states alone never applies the head.
//!
//! Sources: maximum probability, Sorted LLaMA section 4.4; top-two margin and hidden-state
//! saturation, CALM (Schuster et al., arXiv 2207.07061); entropy, BranchyNet (Teerapittayanon et
//! al., arXiv 1709.01686); patience, PABEE (Zhou et al., arXiv 2006.04152).

use crate::exit::{Exit, Exits};
use crate::model::decode_model::Score;
use crate::policy::error::PolicyError;
use crate::policy::thresholds::Thresholds;

/// A signal that a policy can request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The head's score: one application of the head.
    Score,
    /// Cosine similarity of the states at this exit and at the previous one; needs no head.
    Similarity,
    /// The probability that the exit's probe computes from the state; needs no head.
    Probe,
}

impl Signal {
    /// Every signal, from the cheapest on: the order in which they are computed.
    pub(crate) const ALL: [Self; 3] = [Self::Similarity, Self::Probe, Self::Score];
}

/// The signals of a token at an exit that are computed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExitSignals {
    /// The head's score, if requested.
    pub score: Option<Score>,
    /// Cosine similarity to the state at the previous exit, or to the embedding, if requested.
    pub similarity: Option<f32>,
    /// Probability, by the exit's probe, that its token is the full model's, if requested.
    pub probe: Option<f32>,
}

impl ExitSignals {
    pub(crate) fn has(&self, signal: Signal) -> bool {
        match signal {
            Signal::Score => self.score.is_some(),
            Signal::Similarity => self.similarity.is_some(),
            Signal::Probe => self.probe.is_some(),
        }
    }
}

/// A policy's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitDecision {
    /// Exit here and take this exit's token.
    Exit,
    /// Continue to the next exit.
    Continue,
    /// Undecided until this signal is computed; to continue, if it is computed already.
    Ask(Signal),
}

/// Decides for one row, exit by exit, whether its token exits early.
///
/// The final layer is not an early exit: tokens that reach it use the full model.
pub trait ExitPolicy: ForRow + Send + Sync {
    /// Decides on the current token. Called again after [`ExitDecision::Ask`], with that signal.
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision;

    /// Called when a new token starts; forgets the previous one.
    fn next_token(&mut self) {}

    /// Checks the settings for these exits.
    ///
    /// # Errors
    /// When a threshold is out of range, or for an unknown exit.
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

fn by_score(signals: &ExitSignals, leave: impl FnOnce(&Score) -> bool) -> ExitDecision {
    match &signals.score {
        None => ExitDecision::Ask(Signal::Score),
        Some(score) if leave(score) => ExitDecision::Exit,
        Some(_) => ExitDecision::Continue,
    }
}

/// Exits at the first exit, for a fixed draft depth.
#[derive(Clone, Copy, Debug)]
pub struct Always;

impl ExitPolicy for Always {
    fn decide(&mut self, _exit: Exit, _signals: &ExitSignals) -> ExitDecision {
        ExitDecision::Exit
    }
}

/// Exits when the highest probability exceeds the exit's threshold, as in the paper.
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

/// Exits when the difference of the two highest probabilities exceeds the exit's threshold.
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

/// Exits when the cosine similarity of the hidden states at this exit and at the previous one
/// exceeds the exit's threshold. The head is applied only to tokens that exit.
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

/// Exits when the probability of the exit's probe ([`ExitProbe`](crate::policy::ExitProbe))
/// exceeds its threshold. The head is applied only to tokens that exit.
#[derive(Clone, Debug)]
pub struct Probed(pub Thresholds);

impl ExitPolicy for Probed {
    fn decide(&mut self, exit: Exit, signals: &ExitSignals) -> ExitDecision {
        match (self.0.at(exit), signals.probe) {
            (Some(threshold), _) if threshold >= 1.0 => ExitDecision::Continue,
            (None, _) => ExitDecision::Continue,
            (Some(_), None) => ExitDecision::Ask(Signal::Probe),
            (Some(threshold), Some(probability)) if f64::from(probability) > threshold => {
                ExitDecision::Exit
            }
            _ => ExitDecision::Continue,
        }
    }

    fn check(&self, exits: &Exits) -> Result<(), PolicyError> {
        self.0.check("probe", 0.0..=f64::INFINITY, exits)
    }
}

/// Exits when a number of consecutive exits have the same best token.
#[derive(Clone, Debug)]
pub struct Patience {
    exits: usize,
    /// Exit and token of the last decision.
    last: Option<(Exit, u32)>,
    agreeing: usize,
}

impl Patience {
    /// Exits at the `exits`-th consecutive exit with the same best token.
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
            // Called again because the other part of a combined policy requested a signal.
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

/// Implements the other methods of a policy that combines two others.
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

/// Exits when both exit. The second is called only if the first exits; put the cheaper one first.
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

/// Exits when either exits. The second is called only if the first continues.
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

    /// The depth at which a policy exits, given the exits' best tokens and the signals it requests.
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
