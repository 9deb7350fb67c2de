//! Automatic speculation: chooses the draft exit and draft length, or plain decoding.
//!
//! Each round measures the cost of a plain step, a drafted token and a verification, and how often
//! the full model agrees with an exit at a given confidence. A token is drafted while the
//! probability of the whole draft pays for one more token. The exit is the one whose drafts gave
//! the most tokens per second, or none if plain decoding is faster. An exit is tried as long as its
//! uncertainty leaves it a chance to be the best (optimism in the face of uncertainty, Auer et al.
//! 2002). Greedy text and the distribution of sampled text do not depend on these choices.
//!
//! Independent of model and tokens.

use std::time::Duration;

use super::calibration::{Calibration, Share};
use super::mean::{Mean, OUTLIER};
use crate::exit::Exits;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cycle {
    /// One step of the full model.
    Plain,
    /// Drafts at the exit of this index, then their verification.
    Draft { exit: usize },
}

impl Cycle {
    /// Whether tokens exit at the exit of this index.
    pub fn drafts_at(self, index: usize) -> bool {
        self == Self::Draft { exit: index }
    }
}

/// The measurements of automatic mode, which can be passed from one decoder to the next.
#[derive(Clone, Debug)]
pub struct Tuner {
    exits: Exits,
    /// Open rows in the last cycle; the cost of a round depends on them.
    rows: usize,
    /// Seconds of a plain step.
    plain: Mean,
    arms: Vec<Arm>,
    cycles: u64,
    /// Plain steps due before the next draft.
    plain_due: u64,
    /// Cycles since the last plain step.
    since_plain: u64,
    /// Seconds spent on the current drafts.
    spent: f64,
}

#[derive(Clone, Debug)]
struct Arm {
    depth: usize,
    /// Seconds of a round that drafts one token per row.
    draft: Mean,
    /// Seconds that verification takes in addition to a plain step, per drafted token.
    extra: Mean,
    calibration: Calibration,
    /// Share of recently drafted tokens that were accepted.
    drafts: Share,
    /// Tokens per row and seconds of this exit's recent cycles.
    tokens: f64,
    seconds: f64,
    /// Number of cycles, discounted very slowly: how much is known about this exit.
    known: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckRound {
    /// Tokens drafted per row, of the row with the most.
    pub drafted: usize,
    /// Tokens that became final, per row.
    pub tokens: f64,
    pub time: Duration,
    /// The part of it spent at an exit whose token was then not drafted.
    pub asking: Duration,
}

/// Assumed cost of one more token in a verification before it is measured, in plain steps.
const EXTRA_GUESS: f64 = 0.05;
/// Maximum length of a draft in automatic mode.
pub(crate) const MOST_DRAFTED: usize = 8;
/// Plain steps before the first draft. The first, with one-time work, is not measured.
const WARM_UP: u64 = 3;
/// Cycles after which the cost of a plain step is measured again, and the steps used for it.
const REMEASURE: u64 = 64;
const ANEW: u64 = 2;
/// Minimum expected speed-up of drafting over plain decoding.
const GAIN: f64 = 1.03;
/// Relative speed-up over its estimate that is assumed for an exit that was never tried.
const HOPE: f64 = 1.0;
/// Number of plain steps averaged into an exit's speed, since a few cycles are noisy.
const PRIOR: f64 = 4.0;
/// Discount of observations, since the text changes.
const MEMORY: f64 = 0.98;
/// Discount, per cycle, of the costs of all exits, so that unused ones are tried again.
const IDLE_MEMORY: f64 = 0.998;
/// Discount, per cycle, of how much is known about an exit.
const LONG_MEMORY: f64 = 0.9995;

impl Tuner {
    /// A tuner without measurements. Every exit except the last, the full model, may draft.
    pub fn new(exits: Exits) -> Self {
        let drafting = exits.iter().take(exits.len() - 1);
        let arms = drafting.map(|exit| Arm::new(exit.depth())).collect();
        Self {
            exits,
            rows: 0,
            plain: Mean::default(),
            arms,
            cycles: 0,
            plain_due: WARM_UP,
            since_plain: 0,
            spent: 0.0,
        }
    }

    /// The exits to choose from; the last is the full model.
    pub fn exits(&self) -> &Exits {
        &self.exits
    }

    /// For each exit that may draft, its depth and the accepted share of its drafts, in which older
    /// ones are discounted; `None` before the first verification.
    pub fn acceptance(&self) -> Vec<(usize, Option<f64>)> {
        let share = |Share { accepted, checked }| (checked > 0.0).then(|| accepted / checked);
        let arms = self.arms.iter();
        arms.map(|arm| (arm.depth, share(arm.drafts))).collect()
    }

    /// Chooses how the next tokens of this many open rows are generated.
    pub(crate) fn next_cycle(&mut self, rows: usize) -> Cycle {
        self.cycles += 1;
        self.spent = 0.0;
        for arm in &mut self.arms {
            arm.forget_costs(IDLE_MEMORY);
            arm.known *= LONG_MEMORY;
        }
        if rows != self.rows {
            self.forget_costs(rows);
        }
        self.since_plain += 1;
        if self.since_plain > REMEASURE {
            self.plain_due = self.plain_due.max(ANEW);
        }
        if self.plain_due > 0 {
            return self.plain_cycle();
        }
        let plain = self.plain_seconds();
        let mut best = (GAIN / plain, Cycle::Plain);
        for (exit, arm) in self.arms.iter().enumerate() {
            let speed = arm.speed(plain) * (1.0 + HOPE / (arm.known + 1.0).sqrt());
            if speed > best.0 {
                best = (speed, Cycle::Draft { exit });
            }
        }
        match best.1 {
            Cycle::Plain => self.plain_cycle(),
            draft => draft,
        }
    }

    fn plain_cycle(&mut self) -> Cycle {
        self.plain_due = self.plain_due.saturating_sub(1);
        self.since_plain = 0;
        Cycle::Plain
    }

    /// Resets the costs of rounds, which depend on the number of rows.
    fn forget_costs(&mut self, rows: usize) {
        self.rows = rows;
        self.plain.forget(0.0);
        self.plain_due = self.plain_due.max(ANEW);
        self.arms.iter_mut().for_each(|arm| arm.forget_costs(0.0));
    }

    /// Probability that a token drafted at `exit` with this confidence is accepted.
    pub(crate) fn chance(&self, exit: usize, confidence: f64) -> f64 {
        self.arms[exit].calibration.chance(confidence)
    }

    /// Whether one more token per row pays at `exit`, given the mean probability of the new drafts.
    pub(crate) fn pays(&self, exit: usize, probability: f64) -> bool {
        let (arm, plain) = (&self.arms[exit], self.plain_seconds());
        let cost = arm.draft.near(self.draft_guess(exit)) + arm.extra.near(EXTRA_GUESS * plain);
        // Compared with the tokens that would otherwise be generated in the same time.
        probability > cost * arm.speed(plain).max(1.0 / plain)
    }

    pub(crate) fn plain_round(&mut self, time: Duration) {
        if self.cycles > 1 {
            let seconds = time.as_secs_f64();
            let known = self.plain.value();
            let guess = if known > 0.0 { known } else { seconds };
            self.plain.learn(seconds, guess);
        }
    }

    pub(crate) fn draft_round(&mut self, exit: usize, time: Duration) {
        let guess = self.draft_guess(exit);
        self.spent += self.arms[exit].draft.learn(time.as_secs_f64(), guess);
    }

    /// Records a token drafted at `exit` with this confidence: accepted (1) or not (0) or, if it
    /// was not drafted, the probability of its acceptance.
    pub(crate) fn checked(&mut self, exit: usize, confidence: f64, accepted: f64, drafted: bool) {
        let arm = &mut self.arms[exit];
        arm.calibration.learn(confidence, accepted);
        if drafted {
            arm.drafts.forget(MEMORY);
            arm.drafts.add(accepted);
        }
    }

    /// Records the verification that ends a cycle; no drafts if the first token was improbable.
    pub(crate) fn check_round(&mut self, exit: usize, check: CheckRound) {
        let plain = self.plain_seconds();
        let arm = &mut self.arms[exit];
        // By what this exit's verifications took so far, so that a long time is believed once it
        // repeats.
        let expected = plain + check.drafted as f64 * arm.extra.near(EXTRA_GUESS * plain);
        let seconds = check.time.as_secs_f64().min(OUTLIER * expected);
        if check.drafted > 0 {
            let longer = (seconds - check.asking.as_secs_f64() - plain).max(0.0);
            arm.extra
                .learn(longer / check.drafted as f64, EXTRA_GUESS * plain);
        }
        arm.tokens = arm.tokens * MEMORY + check.tokens;
        arm.seconds = arm.seconds * MEMORY + self.spent + seconds;
        arm.known += 1.0;
    }

    fn draft_guess(&self, exit: usize) -> f64 {
        let share = self.arms[exit].depth as f64 / self.exits.last().depth() as f64;
        share * self.plain_seconds()
    }

    fn plain_seconds(&self) -> f64 {
        self.plain.value().max(1e-9)
    }
}

impl Arm {
    fn new(depth: usize) -> Self {
        Self {
            depth,
            draft: Mean::default(),
            extra: Mean::default(),
            calibration: Calibration::default(),
            drafts: Share::default(),
            tokens: 0.0,
            seconds: 0.0,
            known: 0.0,
        }
    }

    fn forget_costs(&mut self, memory: f64) {
        self.draft.forget(memory);
        self.extra.forget(memory);
        self.tokens *= memory;
        self.seconds *= memory;
    }

    /// Tokens per row and second of this exit's cycles, averaged with plain steps.
    fn speed(&self, plain: f64) -> f64 {
        (self.tokens + PRIOR) / (self.seconds + PRIOR * plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// A simulation with fixed costs. A share of an exit's tokens has a high confidence and is
    /// accepted with probability `sure`; the others have half that confidence and are rejected.
    /// Times are in plain steps.
    struct World {
        draft: [f64; 2],
        extra: f64,
        sure: [f64; 2],
        /// Share of tokens with a high confidence.
        confident: f64,
        /// Additional time of the first round of each kind.
        hiccup: f64,
    }

    impl World {
        /// Tokens drafted at each exit per token, and tokens per time of a plain step.
        fn run(&self) -> ([f64; 2], f64) {
            let mut tuner = Tuner::new(Exits::new([2, 4, 8]).unwrap());
            let (mut clock, mut tokens, mut drafted_at) = (0.0, 0.0, [0.0; 2]);
            let mut hiccups = [self.hiccup; 3];
            let mut luck = Random::new(1);
            let seconds = |kind: usize, usual: f64, hiccups: &mut [f64; 3]| {
                Duration::from_secs_f64(usual + std::mem::take(&mut hiccups[kind]))
            };
            while tokens < 5000.0 {
                let Cycle::Draft { exit } = tuner.next_cycle(1) else {
                    tuner.plain_round(seconds(0, 1.0, &mut hiccups));
                    clock += 1.0;
                    tokens += 1.0;
                    continue;
                };
                let (mut drafted, mut accepted, mut probability) = (0, 0, 1.0);
                let mut labels = Vec::new();
                while drafted < MOST_DRAFTED {
                    let is_sure = luck.uniform() < self.confident;
                    let right = is_sure && luck.uniform() < self.sure[exit];
                    let confidence = if is_sure { 0.95 } else { 0.45 };
                    probability *= tuner.chance(exit, confidence);
                    labels.push((confidence, right));
                    if !tuner.pays(exit, probability) {
                        break;
                    }
                    tuner.draft_round(exit, seconds(1, self.draft[exit], &mut hiccups));
                    clock += self.draft[exit];
                    drafted += 1;
                }
                for (index, &(confidence, right)) in labels.iter().enumerate() {
                    tuner.checked(exit, confidence, f64::from(right), index < drafted);
                    if !right || index >= drafted {
                        break;
                    }
                    accepted += 1;
                }
                let check = 1.0 + self.extra * drafted as f64;
                tuner.check_round(
                    exit,
                    CheckRound {
                        drafted,
                        tokens: f64::from(accepted + 1),
                        time: seconds(2, check, &mut hiccups),
                        asking: Duration::ZERO,
                    },
                );
                clock += check;
                tokens += f64::from(accepted + 1);
                drafted_at[exit] += drafted as f64;
            }
            (drafted_at.map(|drafted| drafted / tokens), tokens / clock)
        }
    }

    #[test]
    fn the_better_exit_drafts_whatever_the_first_rounds_cost() {
        for hiccup in [0.0, 1.0, 20.0] {
            let ([shallow, deep], speed) = World {
                draft: [0.1, 0.6],
                extra: 0.02,
                sure: [0.9, 0.95],
                confident: 0.5,
                hiccup,
            }
            .run();
            assert!(
                shallow > 5.0 * deep && speed > 1.25,
                "{hiccup}: {shallow} {deep} {speed}"
            );
        }
    }

    #[test]
    fn drafting_that_does_not_pay_is_given_up() {
        for hiccup in [0.0, 20.0] {
            let ([shallow, deep], speed) = World {
                draft: [0.4, 0.7],
                extra: 0.3,
                sure: [0.2, 0.4],
                confident: 0.5,
                hiccup,
            }
            .run();
            assert!(
                shallow + deep < 0.02 && speed > 0.98,
                "{hiccup}: {shallow} {deep} {speed}"
            );
        }
    }

    /// Drafts that are all accepted, verified in more than three times a plain step.
    #[test]
    fn verification_that_costs_more_than_it_gains_is_given_up() {
        for hiccup in [0.0, 20.0] {
            let ([shallow, deep], speed) = World {
                draft: [0.1, 0.6],
                extra: 1.0,
                sure: [1.0, 1.0],
                confident: 1.0,
                hiccup,
            }
            .run();
            assert!(
                shallow + deep < 0.2 && speed > 0.97,
                "{hiccup}: {shallow} {deep} {speed}"
            );
        }
    }
}
