//! Whether asking an exit policy pays, from what it cost and saved so far.

use std::time::Duration;

/// Looks at one exit before it may be skipped.
const TRIALS: u64 = 8;
/// A skipped exit is asked again after so many tokens.
const AGAIN: u64 = 16;
/// Weight of the newest observation.
const NEWEST: f64 = 0.1;

/// What is known of one exit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worth {
    tokens: u64,
    asked: u64,
    /// Seconds to ask.
    cost: f64,
    /// Share of tokens that left.
    leaving: f64,
    /// Seconds that a token takes which goes on.
    rest: f64,
}

impl Worth {
    /// Whether to ask this time; call once a token.
    pub fn asking_pays(&mut self) -> bool {
        self.tokens += 1;
        self.asked < TRIALS
            || self.rest == 0.0
            || self.leaving * self.rest > self.cost
            || self.tokens.is_multiple_of(AGAIN)
    }

    pub fn asked(&mut self, time: Duration, leaving_share: f64) {
        let newest = if self.asked == 0 { 1.0 } else { NEWEST };
        self.asked += 1;
        self.cost += newest * (time.as_secs_f64() - self.cost);
        self.leaving += newest.max(1.0 / self.asked as f64) * (leaving_share - self.leaving);
    }

    pub fn went_on(&mut self, rest: Duration) {
        let newest = if self.rest == 0.0 { 1.0 } else { NEWEST };
        self.rest += newest * (rest.as_secs_f64() - self.rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_share(leaving: f64) -> f64 {
        let mut worth = Worth::default();
        let mut asked = 0;
        for _ in 0..1000 {
            if worth.asking_pays() {
                asked += 1;
                worth.asked(Duration::from_millis(2), leaving);
            }
            worth.went_on(Duration::from_millis(10));
        }
        f64::from(asked) / 1000.0
    }

    #[test]
    fn an_exit_that_nothing_leaves_at_is_hardly_asked() {
        assert!(asked_share(0.05) < 0.1);
        assert_eq!(asked_share(0.5), 1.0);
    }
}
