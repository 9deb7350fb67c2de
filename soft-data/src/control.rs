//! Control tokens spelled out in text, such as `<|im_end|>`.
//!
//! Text of data files and prompts is encoded as characters by default. Otherwise a message that
//! contains `<|im_end|>` could end its turn and start one of the system's.

use std::collections::{BTreeMap, HashMap};

use tokenizers::Tokenizer as HfTokenizer;

use crate::Conversation;

/// How control tokens spelled out in text are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ControlText {
    /// As characters; for untrusted text.
    #[default]
    Characters,
    /// As control tokens, like in transformers; for text already rendered by a chat template.
    Tokens,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ControlTokens {
    /// Spellings by first character, longest first.
    spellings: HashMap<char, Vec<String>>,
    ids: HashMap<u32, String>,
}

/// Masks around a control token that remains text. They are noncharacters, which text must not
/// contain. They do not change the spelling, so that templates still find it.
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

    pub(crate) fn contains_id(&self, id: u32) -> bool {
        self.ids.contains_key(&id)
    }

    pub(crate) fn contains(&self, spelling: &str) -> bool {
        self.at_start(spelling).is_some_and(|it| it == spelling)
    }

    /// The longest control token at the start of `text`.
    pub(crate) fn at_start(&self, text: &str) -> Option<&str> {
        let alike = self.spellings.get(&text.chars().next()?)?;
        let mut alike = alike.iter().map(String::as_str);
        alike.find(|spelling| text.starts_with(spelling))
    }

    /// Byte offsets and spellings of the control tokens in `text`.
    pub(crate) fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let mut end = 0;
        text.char_indices().filter_map(move |(start, first)| {
            // Fast path: most characters start no control token.
            if start < end || !self.spellings.contains_key(&first) {
                return None;
            }
            let found = self.at_start(&text[start..])?;
            end = start + found.len();
            Some((start, found))
        })
    }

    /// The last unmasked control token in `text` and its end, if only white space follows.
    pub(crate) fn at_end<'a>(&'a self, text: &'a str) -> Option<(usize, &'a str)> {
        let found = self
            .find(text)
            .map(|(start, token)| (start, start + token.len(), token));
        let open = found.filter(|&(start, end, _)| !is_masked_at(text, start, end));
        let (_, end, token) = open.last()?;
        text[end..].trim().is_empty().then_some((end, token))
    }

    /// `text` with masks around every control token.
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

    /// Adds the occurrences of each control token in `text`.
    pub(crate) fn count(&self, text: &str, counts: &mut BTreeMap<String, usize>) {
        for (_, spelling) in self.find(text) {
            *counts.entry(spelling.to_owned()).or_default() += 1;
        }
    }
}

impl Conversation {
    /// The conversation with masked control tokens.
    pub(crate) fn masked(&self, controls: &ControlTokens) -> Self {
        self.clone().map_texts(&|text| controls.masked(text))
    }
}

pub(crate) fn is_masked(text: &str) -> bool {
    text.contains(AROUND)
}

/// Whether `start..end` of a text is a masked control token.
pub(crate) fn is_masked_at(text: &str, start: usize, end: usize) -> bool {
    let (before, behind) = (text.get(..start), text.get(end..));
    before.is_some_and(|text| text.ends_with(AROUND[0]))
        && behind.is_some_and(|text| text.starts_with(AROUND[1]))
}

/// Removes all masks, including those that a template has separated.
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
