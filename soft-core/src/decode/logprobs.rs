//! Log-probabilities of tokens under the head that generated them.

/// Which log-probabilities are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logprobs {
    /// Number of most probable tokens whose log-probabilities are kept beside that of each token.
    pub top: usize,
    /// Whether those of the prompt's tokens, from the second on, are kept too.
    pub prompt: bool,
}

/// Log-probabilities, in nats, at the position of a token: after a softmax over the logits of the
/// head that generated the token (for a draft that was accepted, the full model's), before
/// temperature and penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub token: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most probable tokens and theirs, the most probable first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    pub(super) fn of(token: u32, logits: &[f32], top: usize) -> Self {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits
            .iter()
            .map(|&logit| f64::from(logit - highest).exp())
            .sum();
        let log_sum = f64::from(highest) + sum.ln();
        let logprob = |index: u32| (f64::from(logits[index as usize]) - log_sum) as f32;
        let best = highest_of(logits, top);
        Self {
            token,
            logprob: logprob(token),
            top: best
                .into_iter()
                .map(|index| (index, logprob(index)))
                .collect(),
        }
    }
}

/// Indices of the highest logits, the highest first, the lowest of equal ones first.
fn highest_of(logits: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let order = |a: &u32, b: &u32| {
        let by_value = logits[*b as usize].total_cmp(&logits[*a as usize]);
        by_value.then(a.cmp(b))
    };
    let mut indices: Vec<u32> = (0..logits.len() as u32).collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count - 1, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_those_of_the_softmax() {
        // Probabilities 1/8, 2/8, 4/8, 1/8.
        let logits = [0.0, 2f32.ln(), 4f32.ln(), 0.0];
        let found = TokenLogprobs::of(1, &logits, 3);
        assert!((found.logprob - 0.25f32.ln()).abs() < 1e-6);
        let tokens: Vec<u32> = found.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [2, 1, 0]);
        assert!((found.top[0].1 - 0.5f32.ln()).abs() < 1e-6);
        assert!(TokenLogprobs::of(0, &logits, 0).top.is_empty());
        assert_eq!(TokenLogprobs::of(0, &logits, 9).top.len(), 4);
    }
}
