//! A record as the runs of text and control tokens it is encoded from.
//!
//! Knows the order of the parts and which are learnt; encodes nothing.
//!
//! A completion is its prompt, its response and the end of the text. A conversation is ChatML
//! (OpenAI, 2023): `<|im_start|>role\ncontent<|im_end|>`, a line break between turns; each
//! assistant's content and its `<|im_end|>` are learnt, so that the model learns to stop. A model
//! folder's own template ([`ChatTemplate`](crate::ChatTemplate)) does not say which parts are learnt.
//!
//! Turns after the assistant's last are left out: nothing is learnt from them and, attention
//! being causal, nothing sees them.

use crate::{Body, DataError, Message, Record, Role, Tokenizer};

/// A run of text, or one control token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Text that is given.
    Given(String),
    /// Text that is learnt.
    Learnt(String),
    /// A control token that is given.
    GivenToken(u32),
    /// A control token that is learnt.
    LearntToken(u32),
}

/// The parts of `record`, in order, without what the tokenizer puts in front.
pub(crate) fn segments(record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Segment>, DataError> {
    match &record.body {
        Body::Completion { prompt, response } => Ok(vec![
            Segment::Given(prompt.clone()),
            Segment::Learnt(response.clone()),
            Segment::LearntToken(tokenizer.eos()),
        ]),
        Body::Chat(messages) => {
            let token = |token| {
                let missing = DataError::ChatToken {
                    row: record.row,
                    token,
                };
                tokenizer.token_id(token).ok_or(missing)
            };
            let (start, end) = (token("<|im_start|>")?, token("<|im_end|>")?);
            Ok(chat_ml(messages, start, end, tokenizer.eos()))
        }
    }
}

fn chat_ml(messages: &[Message], start: u32, end: u32, eos: u32) -> Vec<Segment> {
    let last = messages
        .iter()
        .rposition(|message| message.role == Role::Assistant);
    let mut segments = Vec::new();
    for message in &messages[..last.map_or(messages.len(), |last| last + 1)] {
        if !segments.is_empty() {
            segments.push(Segment::Given("\n".to_owned()));
        }
        segments.push(Segment::GivenToken(start));
        let (role, content) = (message.role.name(), &message.content);
        if message.role == Role::Assistant {
            segments.push(Segment::Given(format!("{role}\n")));
            segments.push(Segment::Learnt(content.clone()));
            segments.push(Segment::LearntToken(end));
        } else {
            segments.push(Segment::Given(format!("{role}\n{content}")));
            segments.push(Segment::GivenToken(end));
        }
    }
    if last.is_some() && end != eos {
        segments.push(Segment::LearntToken(eos));
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message {
            role,
            content: content.into(),
        }
    }

    #[test]
    fn only_the_assistants_turns_are_learnt() {
        let messages = [
            message(Role::System, "Be brief."),
            message(Role::User, "Hi"),
            message(Role::Assistant, "Hello"),
            message(Role::User, "and so on"),
        ];
        let expected = [
            Segment::GivenToken(1),
            Segment::Given("system\nBe brief.".into()),
            Segment::GivenToken(2),
            Segment::Given("\n".into()),
            Segment::GivenToken(1),
            Segment::Given("user\nHi".into()),
            Segment::GivenToken(2),
            Segment::Given("\n".into()),
            Segment::GivenToken(1),
            Segment::Given("assistant\n".into()),
            Segment::Learnt("Hello".into()),
            Segment::LearntToken(2),
        ];
        assert_eq!(chat_ml(&messages, 1, 2, 2), expected);
        let with_eos = chat_ml(&messages, 1, 2, 0);
        assert_eq!(with_eos[..expected.len()], expected);
        assert_eq!(with_eos[expected.len()..], [Segment::LearntToken(0)]);
    }
}
