//! Automatic speculation: which exit drafts, how far, or none at all.
//!
//! Learns from the rounds as they come what a plain step, a drafted token and a check cost, and how often the full
//! model agrees with an exit that is so sure. A token is drafted while the whole draft is likely enough to be right
//! to pay for one token more; the exit is the one whose drafts have brought the most tokens per second; when none
//! beats plain decoding, it is plain decoding. An exit is tried while it might win by what is not known yet (optimism in
//! the face of uncertainty, Auer et al. 2002). The text does not depend on any of it.
//!
//! Knows neither model nor tokens.

use std::time::Duration;

use super::calibration::Calibration;
use crate::Exits;

/// How the next tokens are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cycle {
    /// One step of the full model.
    Plain,
    /// Drafts at the exit of this index, then their check.
    Draft { exit: usize },
}

impl Cycle {
    /// Whether tokens leave at the exit of this index.
    pub fn drafts_at(self, index: usize) -> bool {
        self == Self::Draft { exit: index }
    }
}

/// What automatic mode has learnt; hand it from one decoder to the next.
#[derive(Clone, Debug)]
pub struct Tuner {
    exits: Exits,
    /// Seconds of a plain step.
    plain: Mean,
    arms: Vec<Arm>,
    cycles: u64,
    last_plain: u64,
    /// Seconds of the drafts at hand, and tokens per row that their check brought.
    spent: f64,
    brought: f64,
}

/// One exit that may draft.
#[derive(Clone, Debug)]
struct Arm {
    depth: usize,
    /// Seconds of a round that drafts one token of every row.
    draft: Mean,
    /// Seconds a check takes longer than a plain step, per drafted token.
    extra: Mean,
    calibration: Calibration,
    /// Drafted tokens checked and accepted of late.
    checked: f64,
    accepted: f64,
    /// What this exit's cycles of late brought, in tokens per row, and took.
    tokens: f64,
    seconds: f64,
    /// Cycles altogether, hardly ever forgotten: what is known of this exit.
    known: f64,
}

/// Longest draft.
pub(crate) const MOST_DRAFTED: usize = 8;
/// Plain steps before the first draft.
const WARM_UP: u64 = 3;
/// Cycles after which the cost of a plain step is measured anew.
const REMEASURE: u64 = 64;
/// What drafting must promise over plain decoding to be worth its uncertainty.
const GAIN: f64 = 1.03;
/// How much better than it looks an exit may be of which nothing is known.
const HOPE: f64 = 1.0;
/// Plain steps that an exit's speed is mixed with: a few cycles say little.
const PRIOR: f64 = 2.0;
/// Observations are forgotten slowly: the text changes.
const MEMORY: f64 = 0.98;
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
            spent: 0.0,
            brought: 0.0,
        }
    }

    /// The exits to choose from, and the full model.
    pub fn exits(&self) -> &Exits {
        &self.exits
    }

    /// For each exit that may draft: depth, accepted share of its drafts of late (older checks count less and less), none
    /// before the first check.
    pub fn acceptance(&self) -> Vec<(usize, Option<f64>)> {
        let share = |arm: &Arm| (arm.checked > 0.0).then(|| arm.accepted / arm.checked);
        self.arms
            .iter()
            .map(|arm| (arm.depth, share(arm)))
            .collect()
    }

    pub(crate) fn next_cycle(&mut self) -> Cycle {
        self.cycles += 1;
        (self.spent, self.brought) = (0.0, 0.0);
        for arm in &mut self.arms {
            arm.known *= LONG_MEMORY;
        }
        if self.cycles <= WARM_UP || self.cycles - self.last_plain > REMEASURE {
            self.last_plain = self.cycles;
            return Cycle::Plain;
        }
        let plain = self.plain_seconds();
        let mut best = (GAIN / plain, Cycle::Plain);
        for (exit, arm) in self.arms.iter().enumerate() {
            let speed = arm.speed(plain) * (1.0 + HOPE / (arm.known + 1.0).sqrt());
            if speed > best.0 {
                best = (speed, Cycle::Draft { exit });
            }
        }
        if best.1 == Cycle::Plain {
            self.last_plain = self.cycles;
        }
        best.1
    }

    /// The chance that a token drafted at `exit` with this confidence is accepted.
    pub(crate) fn chance(&self, exit: usize, confidence: f64) -> f64 {
        self.arms[exit].calibration.chance(confidence)
    }

    /// Whether to draft one more token at `exit` when the draft, it included, is right with this probability.
    pub(crate) fn pays(&self, exit: usize, probability: f64) -> bool {
        let (arm, plain) = (&self.arms[exit], self.plain_seconds());
        let share = arm.depth as f64 / self.exits.last().depth() as f64;
        let cost = arm.draft.or(share * plain) + arm.extra.or(0.05 * plain);
        // What the time it takes would bring otherwise.
        probability > cost * arm.speed(plain).max(1.0 / plain)
    }

    pub(crate) fn plain_round(&mut self, time: Duration) {
        self.plain.learn(time.as_secs_f64());
    }

    pub(crate) fn draft_round(&mut self, exit: usize, time: Duration) {
        self.arms[exit].draft.learn(time.as_secs_f64());
        self.spent += time.as_secs_f64();
    }

    /// A token drafted at `exit` with this confidence was accepted (1), was not (0), or would have been with this
    /// probability had it been drafted.
    pub(crate) fn checked(&mut self, exit: usize, confidence: f64, accepted: f64, drafted: bool) {
        let arm = &mut self.arms[exit];
        arm.calibration.learn(confidence, accepted);
        if drafted {
            arm.accepted = arm.accepted * MEMORY + accepted;
            arm.checked = arm.checked * MEMORY + 1.0;
        }
    }

    /// The check at hand brought so many tokens per row.
    pub(crate) fn brought(&mut self, tokens: f64) {
        self.brought = tokens;
    }

    /// A check of `drafted` tokens per row, or of none because the first was too doubtful, ends a cycle.
    pub(crate) fn check_round(&mut self, exit: usize, drafted: usize, time: Duration) {
        let plain = self.plain_seconds();
        let seconds = time.as_secs_f64();
        let arm = &mut self.arms[exit];
        if drafted > 0 {
            arm.extra.learn((seconds - plain).max(0.0) / drafted as f64);
        }
        arm.tokens = arm.tokens * MEMORY + self.brought;
        arm.seconds = arm.seconds * MEMORY + self.spent + seconds;
        arm.known += 1.0;
    }

    fn plain_seconds(&self) -> f64 {
        self.plain.value.max(1e-9)
    }
}

impl Arm {
    fn new(depth: usize) -> Self {
        Self {
            depth,
            draft: Mean::default(),
            extra: Mean::default(),
            calibration: Calibration::default(),
            checked: 0.0,
            accepted: 0.0,
            tokens: 0.0,
            seconds: 0.0,
            known: 0.0,
        }
    }

    /// Tokens per row and second of this exit's cycles.
    fn speed(&self, plain: f64) -> f64 {
        (self.tokens + PRIOR) / (self.seconds + PRIOR * plain)
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

    /// Runs cycles in a world of fixed costs, where exits are `sure` of every other token, which is then accepted so
    /// often, and sure by half of the rest, which never is. Returns the share of tokens drafted at each exit, and
    /// tokens per plain step's time.
    fn world(draft: [f64; 2], extra: f64, sure: [f64; 2]) -> ([f64; 2], f64) {
        let mut tuner = Tuner::new(Exits::new([2, 4, 8]).unwrap());
        let (mut clock, mut tokens, mut drafted_at) = (0.0, 0.0, [0.0; 2]);
        let mut luck = 0.0;
        while tokens < 3000.0 {
            let cycle = tuner.next_cycle();
            let Cycle::Draft { exit } = cycle else {
                tuner.plain_round(Duration::from_secs_f64(1.0));
                clock += 1.0;
                tokens += 1.0;
                continue;
            };
            let (mut drafted, mut accepted, mut probability) = (0, 0, 1.0);
            let mut labels = Vec::new();
            while drafted < MOST_DRAFTED {
                luck = (luck + 0.618_033_988_75_f64).fract();
                let is_sure = luck < 0.5;
                let right = is_sure && 2.0 * luck < sure[exit];
                let confidence = if is_sure { 0.95 } else { 0.45 };
                probability *= tuner.chance(exit, confidence);
                labels.push((confidence, right));
                if !tuner.pays(exit, probability) {
                    break;
                }
                tuner.draft_round(exit, Duration::from_secs_f64(draft[exit]));
                clock += draft[exit];
                drafted += 1;
            }
            for (index, &(confidence, right)) in labels.iter().enumerate() {
                tuner.checked(exit, confidence, f64::from(right), index < drafted);
                if !right || index >= drafted {
                    break;
                }
                accepted += 1;
            }
            tuner.brought(f64::from(accepted + 1));
            let check = 1.0 + extra * drafted as f64;
            tuner.check_round(exit, drafted, Duration::from_secs_f64(check));
            clock += check;
            tokens += f64::from(accepted + 1);
            drafted_at[exit] += drafted as f64;
        }
        (drafted_at.map(|drafted| drafted / tokens), tokens / clock)
    }

    #[test]
    fn the_better_exit_drafts() {
        let ([shallow, deep], speed) = world([0.1, 0.6], 0.02, [0.9, 0.95]);
        assert!(
            shallow > 10.0 * deep && speed > 1.1,
            "{shallow} {deep} {speed}"
        );
    }

    #[test]
    fn drafting_that_does_not_pay_is_given_up() {
        let ([shallow, deep], speed) = world([0.4, 0.7], 0.3, [0.2, 0.4]);
        assert!(
            shallow + deep < 0.02 && speed > 0.98,
            "{shallow} {deep} {speed}"
        );
    }
}
