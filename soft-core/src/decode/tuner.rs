//! Automatic speculation: which exit drafts, how many tokens, or none at all.
//!
//! Learns from the rounds as they come what a plain step, a drafted token and a check cost and
//! how often drafts of each exit are accepted, and takes the plan with the most tokens per
//! second; when none beats plain decoding, it is plain decoding. An exit is tried while it might win by what
//! is not known yet (optimism in the face of uncertainty, Auer et al. 2002). The text does not depend on any of it.
//!
//! Knows neither model nor tokens. With acceptance a, k drafted tokens give (1 − a^(k+1)) / (1 − a) tokens on
//! average (Leviathan et al., arXiv 2211.17192, equation 1).

use std::time::Duration;

use crate::Exits;

/// How the next tokens are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cycle {
    /// One step of the full model.
    Plain,
    /// Drafts at the exit of this index, so many tokens.
    Draft { exit: usize, length: usize },
}

impl Cycle {
    /// Whether tokens leave at the exit of this index.
    pub fn drafts_at(self, index: usize) -> bool {
        matches!(self, Self::Draft { exit, .. } if exit == index)
    }
}

/// What automatic mode has learnt; hand it from one decoder to the next.
#[derive(Clone, Debug)]
pub struct Tuner {
    exits: Exits,
    plain: Mean,
    arms: Vec<Arm>,
    cycles: u64,
    last_plain: u64,
}

/// One exit that may draft.
#[derive(Clone, Debug)]
struct Arm {
    depth: usize,
    /// Seconds of a round that drafts one token of every row.
    draft: Mean,
    /// Seconds a check takes longer than a plain step, per drafted token.
    extra: Mean,
    accepted: f64,
    checked: f64,
    /// Checks altogether, hardly ever forgotten: what is known of this exit.
    known: f64,
}

/// Longest draft that is considered.
const MOST: usize = 8;
/// Plain steps before the first draft.
const WARM_UP: u64 = 3;
/// Cycles after which the cost of a plain step is measured anew.
const REMEASURE: u64 = 64;
/// What drafting must promise over plain decoding to be worth its uncertainty.
const GAIN: f64 = 1.03;
/// Observations are forgotten slowly: the text changes.
const MEMORY: f64 = 0.99;
/// And how much is known of an exit more slowly still.
const LONG_MEMORY: f64 = 0.9995;

impl Tuner {
    /// A tuner that knows nothing yet; every exit but the last, the full model, may draft.
    pub fn new(exits: Exits) -> Self {
        let drafting = exits.iter().take(exits.len() - 1);
        let arms = drafting.map(|exit| Arm::new(exit.depth())).collect();
        Self {
            exits,
            plain: Mean::default(),
            arms,
            cycles: 0,
            last_plain: 0,
        }
    }

    /// The exits to choose from, and the full model.
    pub fn exits(&self) -> &Exits {
        &self.exits
    }

    /// For each exit that may draft: depth, accepted share of late (older checks count less and less), none before the first
    /// check.
    pub fn acceptance(&self) -> Vec<(usize, Option<f64>)> {
        let share = |arm: &Arm| (arm.checked > 0.0).then(|| arm.accepted / arm.checked);
        self.arms
            .iter()
            .map(|arm| (arm.depth, share(arm)))
            .collect()
    }

    pub(crate) fn next_cycle(&mut self) -> Cycle {
        self.cycles += 1;
        if self.cycles <= WARM_UP || self.cycles - self.last_plain > REMEASURE {
            self.last_plain = self.cycles;
            return Cycle::Plain;
        }
        let plain = self.plain.value.max(1e-9);
        let mut best = (GAIN / plain, Cycle::Plain);
        for (exit, arm) in self.arms.iter().enumerate() {
            for length in 1..=MOST {
                let speed = arm.speed(length, plain, self.exits.last().depth());
                if speed > best.0 {
                    best = (speed, Cycle::Draft { exit, length });
                }
            }
        }
        if best.1 == Cycle::Plain {
            self.last_plain = self.cycles;
        }
        best.1
    }

    pub(crate) fn plain_round(&mut self, time: Duration) {
        self.plain.learn(time.as_secs_f64());
    }

    pub(crate) fn draft_round(&mut self, exit: usize, time: Duration) {
        self.arms[exit].draft.learn(time.as_secs_f64());
    }

    /// A check of `drafted` tokens per row, at least one, drafted at `exit`.
    pub(crate) fn check_round(&mut self, exit: usize, drafted: usize, time: Duration) {
        let longer = (time.as_secs_f64() - self.plain.value).max(0.0);
        self.arms[exit].extra.learn(longer / drafted as f64);
    }

    /// One row's draft was checked: `accepted` tokens, and one more rejected if any was.
    pub(crate) fn checked(&mut self, exit: usize, drafted: usize, accepted: usize) {
        let arm = &mut self.arms[exit];
        let checked = drafted.min(accepted + 1);
        arm.accepted = arm.accepted * MEMORY.powi(checked as i32) + accepted as f64;
        arm.checked = arm.checked * MEMORY.powi(checked as i32) + checked as f64;
        arm.known = arm.known * LONG_MEMORY.powi(checked as i32) + checked as f64;
    }
}

impl Arm {
    fn new(depth: usize) -> Self {
        Self {
            depth,
            draft: Mean::default(),
            extra: Mean::default(),
            accepted: 0.0,
            checked: 0.0,
            known: 0.0,
        }
    }

    /// Tokens per second that drafts of `length` may bring, hopeful where little is known.
    fn speed(&self, length: usize, plain: f64, full_depth: usize) -> f64 {
        let hope = 1.0 / (self.known + 2.0).sqrt();
        let accept = ((self.accepted + 1.0) / (self.checked + 2.0) + hope).min(0.99);
        let tokens = (1.0 - accept.powi(length as i32 + 1)) / (1.0 - accept);
        let share = self.depth as f64 / full_depth as f64;
        let draft = self.draft.or(plain * share);
        let extra = self.extra.or(0.05 * plain);
        tokens / (plain + length as f64 * (draft + extra))
    }
}

/// A mean that forgets slowly.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    value: f64,
    weight: f64,
}

impl Mean {
    fn learn(&mut self, value: f64) {
        self.weight = (0.9 * self.weight + 1.0).min(10.0);
        self.value += (value - self.value) / self.weight;
    }

    fn or(&self, guess: f64) -> f64 {
        if self.weight > 0.0 { self.value } else { guess }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs cycles in a world of fixed costs and acceptance; returns the share of cycles that drafted at each exit.
    fn shares(draft: [f64; 2], extra: f64, accept: [f64; 2]) -> [f64; 3] {
        let mut tuner = Tuner::new(Exits::new([2, 4, 8]).unwrap());
        let seconds = Duration::from_secs_f64;
        let (mut counts, mut luck) = ([0u32; 3], 0.0);
        for _ in 0..2000 {
            match tuner.next_cycle() {
                Cycle::Plain => {
                    tuner.plain_round(seconds(1.0));
                    counts[2] += 1;
                }
                Cycle::Draft { exit, length } => {
                    counts[exit] += 1;
                    let mut accepted = 0;
                    for _ in 0..length {
                        tuner.draft_round(exit, seconds(draft[exit]));
                    }
                    for _ in 0..length {
                        luck = (luck + 0.618_033_988_75f64).fract();
                        if luck > accept[exit] {
                            break;
                        }
                        accepted += 1;
                    }
                    tuner.check_round(exit, length, seconds(1.0 + extra * length as f64));
                    tuner.checked(exit, length, accepted);
                }
            }
        }
        counts.map(|count| f64::from(count) / 2000.0)
    }

    #[test]
    fn the_better_exit_drafts() {
        let [shallow, deep, plain] = shares([0.2, 0.6], 0.02, [0.8, 0.85]);
        assert!(shallow > 0.8, "{shallow} {deep} {plain}");
    }

    #[test]
    fn drafting_that_does_not_pay_is_given_up() {
        let [shallow, deep, plain] = shares([0.4, 0.7], 0.3, [0.1, 0.3]);
        assert!(plain > 0.8, "{shallow} {deep} {plain}");
    }
}
