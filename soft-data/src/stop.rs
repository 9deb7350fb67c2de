//! Stop strings, which end an answer.

use crate::DataError;

/// Finds stop strings in streamed text.
///
/// A stop string may span any number of pieces: text that may be the beginning of one is held back.
/// The first stop string to be complete ends the text; among those that end at the same character,
/// the longest.
///
/// Holds the state of one text; clone it for each row of a batch.
///
/// ```
/// use soft_data::StopStrings;
///
/// let mut stops = StopStrings::new(vec!["\nQ:".to_owned()])?;
/// assert_eq!(stops.push("Paris\n").text, "Paris");
/// assert_eq!(stops.push("or so\nQ").text, "\nor so");
/// let last = stops.push(": Where");
/// assert!(last.stopped && last.text.is_empty());
/// assert_eq!(stops.finish(), "");
/// # Ok::<(), soft_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

/// Text released by [`StopStrings`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Text that is not part of a stop string.
    pub text: String,
    /// Whether a stop string ended the text; it and the text after it are discarded.
    pub stopped: bool,
}

impl StopStrings {
    /// A matcher of `stops`, which may be empty.
    ///
    /// # Errors
    /// When a stop string is empty, since it would end every text at its start.
    pub fn new(stops: Vec<String>) -> Result<Self, DataError> {
        if stops.iter().any(String::is_empty) {
            return Err(DataError::Setting {
                setting: "stop strings",
                expected: "at least one character in each",
                found: "an empty string".to_owned(),
            });
        }
        Ok(Self {
            stops,
            held: String::new(),
            stopped: false,
        })
    }

    /// Adds text and releases what cannot be part of a stop string.
    pub fn push(&mut self, text: &str) -> Passed {
        if !self.stopped {
            self.held.push_str(text);
        }
        let end = self.first_stop();
        self.stopped |= end.is_some();
        let after = self.held.split_off(end.unwrap_or_else(|| self.safe()));
        let text = std::mem::replace(&mut self.held, after);
        if self.stopped {
            self.held.clear();
        }
        Passed {
            text,
            stopped: self.stopped,
        }
    }

    /// Releases the text still held back.
    pub fn finish(self) -> String {
        self.held
    }

    /// Start of the stop string that is complete first.
    fn first_stop(&self) -> Option<usize> {
        let ends = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start))
        });
        ends.min().map(|(_, start)| start)
    }

    /// Length of the held text that cannot be the beginning of a stop string.
    fn safe(&self) -> usize {
        let begins = |start: &usize| {
            let tail = &self.held[*start..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        starts.find(begins).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], pieces: &[String]) -> (String, bool) {
        let mut matcher = StopStrings::new(stops.to_vec()).unwrap();
        let mut shown = String::new();
        let mut stopped = false;
        for piece in pieces {
            let passed = matcher.push(piece);
            assert!(!stopped || passed.text.is_empty());
            shown += &passed.text;
            stopped = passed.stopped;
        }
        (shown + &matcher.finish(), stopped)
    }

    /// Tries every stop string at every end, in order.
    fn brute_force(stops: &[String], text: &str) -> (String, bool) {
        for end in 0..=text.len() {
            let ending = |stop: &&String| text.as_bytes()[..end].ends_with(stop.as_bytes());
            if let Some(longest) = stops.iter().filter(ending).map(String::len).max() {
                return (text[..end - longest].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn the_first_complete_string_ends_the_text() {
        let stops = strings(&["abcd", "c", "bc"]);
        assert_eq!(run(&stops, &strings(&["xab", "cd"])), ("xa".into(), true));
        assert_eq!(run(&stops, &strings(&["xab"])), ("xab".into(), false));
        assert_eq!(run(&[], &strings(&["xab", "cd"])), ("xabcd".into(), false));
    }

    #[test]
    fn text_waits_no_longer_than_it_must() {
        let mut stops = StopStrings::new(strings(&["aab"])).unwrap();
        let texts = ["a", "a", "a", "c", "a"].map(|text| stops.push(text).text);
        assert_eq!(texts, ["", "", "a", "aac", ""]);
        assert_eq!(stops.finish(), "a");
    }

    #[test]
    fn refuses_the_empty_string() {
        let error = StopStrings::new(strings(&["a", ""])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`stop strings`: expected at least one character in each, found an empty string"
        );
    }

    proptest! {
        #[test]
        fn agrees_with_brute_force_however_the_text_is_cut(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abéx]{0,4}", 0..12),
        ) {
            let expected = brute_force(&stops, &pieces.concat());
            prop_assert_eq!(run(&stops, &pieces), expected.clone());
            let characters: Vec<_> = pieces.concat().chars().map(String::from).collect();
            prop_assert_eq!(run(&stops, &characters), expected);
        }

        #[test]
        fn what_is_held_may_begin_a_stop_string(stops in prop::collection::vec("[ab]{1,4}", 1..4), text in "[abx]{0,12}") {
            let mut matcher = StopStrings::new(stops.clone()).unwrap();
            if !matcher.push(&text).stopped {
                let held = matcher.finish();
                prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(&held)));
            }
        }
    }
}
