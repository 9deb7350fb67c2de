//! One row of a data set, from any file format.
//!
//! Knows the text and which part of it is learned; knows neither files nor tokens.

use serde::{Deserialize, Serialize};

use crate::{Conversation, PromptBody};

/// One row: a text of which some parts are learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where the row stands in its file, from 1; in JSON Lines the line of the file.
    pub row: usize,
    /// The text.
    pub body: Body,
    /// The accepted answers, for rows of TriviaQA.
    pub trivia: Option<TriviaQuestion>,
}

/// The text of a [`Record`].
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A prompt and the response to be learned, which follows it directly.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned, together with the end-of-text token after it.
        response: String,
    },
    /// A conversation of which the assistant's turns are learned.
    Chat(Conversation),
}

/// A question of TriviaQA with everything that counts as its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriviaQuestion {
    /// The data set's own name for the question.
    pub id: String,
    /// The question.
    pub question: String,
    /// The canonical answer (`Answer.Value`), which is the one learned.
    pub answer: String,
    /// Other spellings that count.
    pub aliases: Vec<String>,
    /// The spellings as the data set normalized them.
    #[serde(alias = "normalised_aliases")]
    pub normalized_aliases: Vec<String>,
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
    pub fn chat(row: usize, conversation: impl Into<Conversation>) -> Self {
        Self {
            row,
            body: Body::Chat(conversation.into()),
            trivia: None,
        }
    }

    /// What a model is prompted with for the last response.
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

    /// Calls `look` with every text.
    pub(crate) fn for_texts(&self, look: &mut impl FnMut(&str)) {
        match &self.body {
            Body::Completion { prompt, response } => {
                look(prompt);
                look(response);
            }
            Body::Chat(conversation) => conversation.for_texts(look),
        }
    }

    /// Whether nothing but the end of the text is there to learn.
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
