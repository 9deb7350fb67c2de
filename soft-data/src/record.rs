//! A row of a data set, independent of the file format.

use serde::{Deserialize, Serialize};

use crate::{Conversation, PromptBody};

/// A row of a data set: text with supervised parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Number of the row in its file, from 1; in JSON Lines the line number.
    pub row: usize,
    /// The text.
    pub body: Body,
    /// The accepted answers, for TriviaQA.
    pub trivia: Option<TriviaQuestion>,
}

/// The text of a [`Record`].
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A prompt followed directly by a supervised response.
    Completion {
        /// The prompt; not supervised.
        prompt: String,
        /// The response; supervised, together with the end-of-text token after it.
        response: String,
    },
    /// A conversation; the assistant's turns are supervised.
    Chat(Conversation),
}

/// A question of TriviaQA with its accepted answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriviaQuestion {
    /// Id of the question in the data set.
    pub id: String,
    /// The question.
    pub question: String,
    /// The canonical answer (`Answer.Value`), which is the training target.
    pub answer: String,
    /// Other accepted spellings.
    pub aliases: Vec<String>,
    /// The accepted spellings, as normalized by the data set.
    #[serde(alias = "normalised_aliases")]
    pub normalized_aliases: Vec<String>,
}

impl TriviaQuestion {
    /// The accepted spellings: the canonical answer, then the aliases.
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
    pub fn chat(row: usize, conversation: impl Into<Conversation>) -> Self {
        Self {
            row,
            body: Body::Chat(conversation.into()),
            trivia: None,
        }
    }

    /// The prompt for the last response.
    pub fn prompt(&self) -> PromptBody {
        match &self.body {
            Body::Completion { prompt, .. } => PromptBody::Text(prompt.clone()),
            Body::Chat(conversation) => {
                let answer = conversation.answers().next_back();
                let before = answer.unwrap_or(conversation.messages.len());
                PromptBody::Chat(conversation.first(before))
            }
        }
    }

    pub(crate) fn for_texts(&self, look: &mut impl FnMut(&str)) {
        match &self.body {
            Body::Completion { prompt, response } => {
                look(prompt);
                look(response);
            }
            Body::Chat(conversation) => conversation.for_texts(look),
        }
    }

    /// Whether there is no response to learn.
    pub fn response_is_empty(&self) -> bool {
        match &self.body {
            Body::Completion { response, .. } => response.is_empty(),
            Body::Chat(conversation) => conversation.has_no_answer(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_answer_counts_beside_the_aliases() {
        let question = TriviaQuestion {
            id: "q".into(),
            question: "?".into(),
            answer: "Paris".into(),
            aliases: vec!["City of Light".into()],
            normalized_aliases: vec!["city of light".into()],
        };
        assert!(question.accepted().eq(["Paris", "City of Light"]));
    }
}
