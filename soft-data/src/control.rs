//! Control tokens that a text spells out, such as `<|im_end|>`.
//!
//! Knows their spellings; encodes nothing. Text of a data file or a prompt is text, whatever it
//! spells, unless its reader asks otherwise: who writes `<|im_end|>` into a message could end its
//! turn and begin one of the system's.

use std::collections::{BTreeMap, HashMap};

use tokenizers::Tokenizer as HfTokenizer;

use crate::Conversation;

/// How a control token that a text spells out is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ControlText {
    /// It is encoded as the characters it is: the way for text of strangers.
    #[default]
    Characters,
    /// It is encoded as the control token, as transformers does: for text that was rendered by a
    /// chat template before.
    Tokens,
}

/// The control tokens of a tokenizer.
#[derive(Clone, Debug, Default)]
pub(crate) struct ControlTokens {
    /// Their spellings, by the first character; the longest first.
    spellings: HashMap<char, Vec<String>>,
    ids: HashMap<u32, String>,
}

/// Around the spelling of a control token that is to stay text. They are noncharacters, which texts
/// must not hold, and outside the spelling, so that templates still find it.
pub(crate) const AROUND: [char; 2] = ['\u{FDD2}', '\u{FDD3}'];

impl ControlTokens {
    pub(crate) fn of(hf: &HfTokenizer) -> Self {
        let added = hf.get_added_tokens_decoder().into_iter();
        let special = added.filter(|(_, token)| token.special);
        Self::named(special.map(|(id, token)| (id, token.content)))
    }

    fn named(tokens: impl Iterator<Item = (u32, String)>) -> Self {
        let mut named = Self::default();
        for (id, spelling) in tokens {
            if let Some(first) = spelling.chars().next() {
                let alike = named.spellings.entry(first).or_default();
                alike.push(spelling.clone());
                named.ids.insert(id, spelling);
            }
        }
        for alike in named.spellings.values_mut() {
            alike.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        }
        named
    }

    /// Whether a token is a control token.
    pub(crate) fn contains_id(&self, id: u32) -> bool {
        self.ids.contains_key(&id)
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

    /// The last control token in a text with masks that none but white space follows, and where it
    /// ends.
    pub(crate) fn at_end<'a>(&'a self, text: &'a str) -> Option<(usize, &'a str)> {
        let found = self
            .find(text)
            .map(|(start, token)| (start, start + token.len(), token));
        let open = found.filter(|&(start, end, _)| !is_masked_at(text, start, end));
        let (_, end, token) = open.last()?;
        text[end..].trim().is_empty().then_some((end, token))
    }

    /// `text` with [`AROUND`] every control token.
    pub(crate) fn masked(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut end = 0;
        for (start, spelling) in self.find(text) {
            masked += &text[end..start];
            masked.push(AROUND[0]);
            masked += spelling;
            masked.push(AROUND[1]);
            end = start + spelling.len();
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
    text.contains(AROUND)
}

/// Whether what stands at `start..end` of a text is a masked control token.
pub(crate) fn is_masked_at(text: &str, start: usize, end: usize) -> bool {
    let (before, behind) = (text.get(..start), text.get(end..));
    before.is_some_and(|text| text.ends_with(AROUND[0]))
        && behind.is_some_and(|text| text.starts_with(AROUND[1]))
}

/// The text, also of masks that a template has torn apart.
pub(crate) fn without_mask(text: &str) -> String {
    text.replace(AROUND, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls(spellings: &[&str]) -> ControlTokens {
        let spellings = spellings.iter().map(|&it| it.to_owned());
        ControlTokens::named((0..).zip(spellings))
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
        let mut found = controls.find(&masked);
        assert!(found.all(|(start, it)| is_masked_at(&masked, start, start + it.len())));
        assert_eq!(without_mask(&masked), text);
        assert!(is_masked(&masked) && !is_masked(text));
        assert!(!is_masked_at("<s>", 0, 3));
        let ended = format!("{masked}</s> ");
        assert_eq!(controls.at_end(&ended), Some((ended.len() - 1, "</s>")));
        assert_eq!(controls.at_end(&controls.masked("a</s>")), None);
        assert_eq!(controls.at_end("a</s>b"), None);
    }
}
