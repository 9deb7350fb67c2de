//! One row of a data set, whatever file it came from.
//!
//! Knows the text and which part of it is learnt; knows neither files nor tokens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::DataError;

/// One row: a text of which some parts are learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the row stands in its file, from 1; in JSON Lines the line of the file.
    pub row: usize,
    /// The text.
    pub body: Body,
    /// The accepted answers, for rows of TriviaQA.
    pub trivia: Option<TriviaQuestion>,
}

/// The text of a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A prompt and the response to be learnt, which follows it directly.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learnt, together with the end-of-text token after it.
        response: String,
    },
    /// A conversation of which the assistant's turns are learnt.
    Chat(Vec<Message>),
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The model; its turns are learnt.
    Assistant,
}

impl Role {
    /// The name used in files and in prompts.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::System, Self::User, Self::Assistant]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        Self::from_name(name).ok_or_else(|| DataError::UnknownRole {
            found: name.to_owned(),
        })
    }
}

/// A question of TriviaQA with everything that counts as its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriviaQuestion {
    /// The data set's own name for the question.
    pub id: String,
    /// The question.
    pub question: String,
    /// The canonical answer (`Answer.Value`), which is the one learnt.
    pub answer: String,
    /// Other spellings that count.
    pub aliases: Vec<String>,
    /// The spellings as the data set normalised them.
    pub normalised_aliases: Vec<String>,
}

impl TriviaQuestion {
    /// The canonical answer, then the aliases: every spelling that counts.
    pub fn accepted(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.answer)
            .chain(&self.aliases)
            .map(String::as_str)
    }
}

impl Record {
    /// A prompt and its response.
    pub fn completion(row: usize, prompt: impl Into<String>, response: impl Into<String>) -> Self {
        let body = Body::Completion {
            prompt: prompt.into(),
            response: response.into(),
        };
        Self {
            row,
            body,
            trivia: None,
        }
    }

    /// A conversation.
    pub fn chat(row: usize, messages: Vec<Message>) -> Self {
        Self {
            row,
            body: Body::Chat(messages),
            trivia: None,
        }
    }

    /// Whether nothing but the end of the text is there to learn.
    pub fn response_is_empty(&self) -> bool {
        match &self.body {
            Body::Completion { response, .. } => response.is_empty(),
            Body::Chat(messages) => messages
                .iter()
                .all(|message| message.role != Role::Assistant || message.content.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_known_by_their_names_only() {
        assert_eq!(Role::from_name("assistant"), Some(Role::Assistant));
        assert_eq!(Role::from_name("Assistant"), None);
        assert_eq!(Role::User.to_string().parse::<Role>().unwrap(), Role::User);
        let error = "tool".parse::<Role>().unwrap_err().to_string();
        let wanted = "expected a role (system, user, assistant), found `tool`";
        assert_eq!(error, wanted);
    }

    #[test]
    fn the_canonical_answer_counts_beside_the_aliases() {
        let question = TriviaQuestion {
            id: "q".into(),
            question: "?".into(),
            answer: "Paris".into(),
            aliases: vec!["City of Light".into()],
            normalised_aliases: vec!["city of light".into()],
        };
        assert!(question.accepted().eq(["Paris", "City of Light"]));
    }
}
