//! Locates the assistant's answers in a rendered conversation.

use std::sync::Arc;

use super::{ChatTemplate, Ending, MARKS, source, without_marks};
use crate::{Conversation, DataError, Role};

/// An answer within a rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// A rendering that contains the answer. Answers in the same rendering share it.
    pub text: Arc<str>,
    /// Length of the prompt for this answer, in bytes.
    pub prompt: usize,
    /// End of the answer, in bytes.
    pub answered: usize,
    /// Whether `generation` tags delimit the answer.
    pub is_marked: bool,
}

struct Rendered {
    message: usize,
    prompt: String,
    whole: String,
}

impl ChatTemplate {
    /// The assistant's answers, in order.
    ///
    /// If the template has `generation` tags, answers are what they enclose. Otherwise an answer is
    /// what its rendering adds to the prompt, and messages before the first user or tool message,
    /// such as a greeting, are not answers.
    ///
    /// # Errors
    /// As for [`render`](ChatTemplate::render); when the prompt for an answer is not a prefix of
    /// the rendering with the answer, or the tags enclose nothing.
    pub(crate) fn turns(&self, conversation: &Conversation) -> Result<Vec<Turn>, DataError> {
        let asked = |message: &crate::Message| matches!(message.role, Role::User | Role::Tool);
        let first_asked = conversation.messages.iter().position(asked).unwrap_or(0);
        let answers = conversation.answers().filter(|&index| index >= first_asked);
        let mut answers: Vec<usize> = answers.collect();
        let Some(&last) = answers.last() else {
            return Ok(Vec::new());
        };
        let has_tags = source::has_generation_tags(&self.of(conversation).source);
        if has_tags {
            answers = vec![last];
        }
        let whole = conversation.clone();
        let mut rendered = self.with_program(conversation, move |program| {
            let rendered = answers.into_iter().map(|message| {
                let prompt = program.render(&whole.first(message), Ending::Prompt)?;
                let whole = program.render(&whole.first(message + 1), Ending::Messages)?;
                Ok(Rendered {
                    message,
                    prompt,
                    whole,
                })
            });
            rendered.collect::<Result<Vec<_>, _>>()
        })?;
        if has_tags {
            let marked = rendered.swap_remove(0);
            self.check_prompt(
                conversation,
                &Rendered {
                    prompt: without_marks(&marked.prompt),
                    whole: without_marks(&marked.whole),
                    ..marked
                },
            )?;
            return self.marked_turns(conversation, &marked.whole);
        }
        for turn in &rendered {
            self.check_prompt(conversation, turn)?;
        }
        Ok(plain_turns(rendered))
    }

    /// The turns of a text in which [`MARKS`] enclose the answers.
    fn marked_turns(
        &self,
        conversation: &Conversation,
        marked: &str,
    ) -> Result<Vec<Turn>, DataError> {
        let text: Arc<str> = without_marks(marked).into();
        let [start, end] = MARKS;
        let mut turns = Vec::new();
        let mut plain = 0;
        let mut begun = None;
        for character in marked.chars() {
            if character == start {
                begun = Some(plain);
            } else if character == end {
                turns.extend(begun.take().map(|prompt| Turn {
                    text: Arc::clone(&text),
                    prompt,
                    answered: plain,
                    is_marked: true,
                }));
            } else {
                plain += character.len_utf8();
            }
        }
        if turns.is_empty() {
            Err(DataError::ChatTemplate {
                path: self.of(conversation).name(),
                line: 1,
                cause: "its generation tags mark nothing of a conversation with answers".to_owned(),
            })
        } else {
            Ok(turns)
        }
    }

    fn check_prompt(&self, conversation: &Conversation, turn: &Rendered) -> Result<(), DataError> {
        let (prompt, whole) = (&turn.prompt, &turn.whole);
        if whole.starts_with(prompt) {
            return Ok(());
        }
        let same = prompt.chars().zip(whole.chars());
        let same: usize = same
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        let shown = |text: &str| text[same..].chars().take(40).collect::<String>();
        Err(DataError::ChatPrompt {
            path: self.of(conversation).name(),
            message: turn.message,
            prompt: shown(prompt),
            found: shown(whole),
        })
    }
}

/// In reverse, since an earlier rendering is usually a prefix of a later one.
fn plain_turns(rendered: Vec<Rendered>) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for rendered in rendered.into_iter().rev() {
        let later = turns.iter().map(|turn| &turn.text);
        let later = later.rev().find(|text| text.starts_with(&rendered.whole));
        turns.push(Turn {
            prompt: rendered.prompt.len(),
            answered: rendered.whole.len(),
            is_marked: false,
            text: later.map_or_else(|| rendered.whole.as_str().into(), Arc::clone),
        });
    }
    turns.reverse();
    turns
}
