//! Control tokens that a text spells out, such as `<|im_end|>`.
//!
//! Knows their spellings; encodes nothing. Text of a data file or a prompt is text, whatever it
//! spells, unless its reader asks otherwise: who writes `<|im_end|>` into a message could end its
//! turn and begin one of the system's.

use std::collections::{BTreeMap, HashMap};

use tokenizers::Tokenizer as HfTokenizer;

use crate::Conversation;

/// What becomes of a control token that a text spells out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ControlText {
    /// It is encoded as the characters it is: the way for text of strangers.
    #[default]
    Characters,
    /// It is encoded as the control token, as transformers does: for text that was rendered by a
    /// chat template before.
    Tokens,
}

/// The spellings of a tokenizer's control tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct ControlTokens {
    /// By their first character; the longest first.
    spellings: HashMap<char, Vec<String>>,
}

/// Stands in a control token's spelling that is to stay text. It is a noncharacter, which no text
/// has.
const MASK: char = '\u{FDD2}';

impl ControlTokens {
    pub(crate) fn of(hf: &HfTokenizer) -> Self {
        let added = hf.get_added_tokens_decoder();
        let special = added.into_values().filter(|token| token.special);
        let mut spellings: HashMap<char, Vec<String>> = HashMap::new();
        for token in special {
            if let Some(first) = token.content.chars().next() {
                spellings.entry(first).or_default().push(token.content);
            }
        }
        for alike in spellings.values_mut() {
            alike.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        }
        Self { spellings }
    }

    pub(crate) fn contains(&self, spelling: &str) -> bool {
        self.at_start(spelling).is_some_and(|it| it == spelling)
    }

    /// The control token that `text` begins with.
    pub(crate) fn at_start(&self, text: &str) -> Option<&str> {
        let alike = self.spellings.get(&text.chars().next()?)?;
        let mut alike = alike.iter().map(String::as_str);
        alike.find(|spelling| text.starts_with(spelling))
    }

    /// Where control tokens begin in `text`, and their spellings.
    pub(crate) fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let mut end = 0;
        text.char_indices().filter_map(move |(start, first)| {
            // Most characters begin none.
            if start < end || !self.spellings.contains_key(&first) {
                return None;
            }
            let found = self.at_start(&text[start..])?;
            end = start + found.len();
            Some((start, found))
        })
    }

    /// `text` with a [`MASK`] in every control token, so that a tokenizer sees none.
    pub(crate) fn masked(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut end = 0;
        for (start, spelling) in self.find(text) {
            let first = spelling.chars().next().map_or(0, char::len_utf8);
            masked += &text[end..start + first];
            masked.push(MASK);
            end = start + first;
        }
        masked + &text[end..]
    }

    /// Adds how often a text spells each control token.
    pub(crate) fn count(&self, text: &str, counts: &mut BTreeMap<String, usize>) {
        for (_, spelling) in self.find(text) {
            *counts.entry(spelling.to_owned()).or_default() += 1;
        }
    }
}

impl Conversation {
    /// The same with the control tokens of its texts masked.
    pub(crate) fn masked(&self, controls: &ControlTokens) -> Self {
        self.clone().map_texts(&|text| controls.masked(text))
    }
}

pub(crate) fn is_masked(text: &str) -> bool {
    text.contains(MASK)
}

pub(crate) fn without_mask(text: &str) -> String {
    text.replace(MASK, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls(spellings: &[&str]) -> ControlTokens {
        let mut by_first: HashMap<char, Vec<String>> = HashMap::new();
        for spelling in spellings {
            let first = spelling.chars().next().unwrap();
            by_first
                .entry(first)
                .or_default()
                .push((*spelling).to_owned());
        }
        for alike in by_first.values_mut() {
            alike.sort_by_key(|it| std::cmp::Reverse(it.len()));
        }
        ControlTokens {
            spellings: by_first,
        }
    }

    #[test]
    fn the_longest_of_those_that_begin_alike_is_found() {
        let controls = controls(&["<s>", "<s>>", "</s>", "é!"]);
        let found: Vec<_> = controls.find("a<s>>b<s><x></s>é!é").collect();
        assert_eq!(found, [(1, "<s>>"), (6, "<s>"), (12, "</s>"), (16, "é!")]);
        assert!(controls.contains("<s>") && !controls.contains("<s"));
    }

    #[test]
    fn masks_hide_every_spelling_and_come_off() {
        let controls = controls(&["<s>", "</s>"]);
        let text = "a<s>b</s><<s>";
        let masked = controls.masked(text);
        assert_eq!(controls.find(&masked).count(), 0);
        assert_eq!(without_mask(&masked), text);
        assert!(is_masked(&masked) && !is_masked(text));
    }
}
