//! The most frequent tokens of training rows, for draft heads with a reduced vocabulary.

use soft_core::Example;

/// The `most` most frequent supervised tokens of `examples`, in descending order of frequency; ties
/// go to the lower id. Returns fewer if there are fewer distinct tokens.
pub fn frequent_tokens<'a>(
    examples: impl IntoIterator<Item = &'a Example>,
    most: usize,
) -> Vec<u32> {
    let mut counts: Vec<u64> = Vec::new();
    for example in examples {
        let marked = example.tokens().iter().zip(example.supervised());
        for (&token, _) in marked.filter(|(_, supervised)| **supervised) {
            let token = token as usize;
            if counts.len() <= token {
                counts.resize(token + 1, 0);
            }
            counts[token] += 1;
        }
    }
    let mut tokens: Vec<u32> = (0..counts.len() as u32)
        .filter(|&token| counts[token as usize] > 0)
        .collect();
    tokens.sort_by_key(|&token| (std::cmp::Reverse(counts[token as usize]), token));
    tokens.truncate(most);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_learnt_tokens_only() {
        let rows = [
            Example::text(vec![9, 5, 5, 7]),
            Example::new(vec![3, 3, 3, 7], vec![false, false, false, true]).unwrap(),
        ];
        assert_eq!(frequent_tokens(&rows, 10), [5, 7]);
        assert_eq!(frequent_tokens(&rows, 1), [5]);
    }
}
