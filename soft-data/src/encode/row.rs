//! A record as rows of tokens, each marked as given or learnt.
//!
//! A completion is its prompt, its response and the end of the text. A conversation is what its
//! model's chat template makes of it.

use crate::chat::Turn;
use crate::{Body, Conversation, DataError, Record, Tokenizer};

/// A row of tokens.
#[derive(Debug)]
pub(super) struct EncodedRow {
    pub tokens: Vec<u32>,
    pub supervised: Vec<bool>,
    /// What ends the assistant's turns.
    pub turn_end: Option<u32>,
}

impl EncodedRow {
    /// The rows of a record: one, or several of a conversation whose template writes past turns
    /// otherwise than present ones.
    pub fn all_of(record: &Record, tokenizer: &Tokenizer) -> Result<Vec<Self>, DataError> {
        match &record.body {
            Body::Completion { prompt, response } => {
                Ok(vec![Self::of_completion(prompt, response, tokenizer)?])
            }
            Body::Chat(conversation) => Self::of_conversation(conversation, tokenizer)
                .map_err(|cause| cause.in_row(record.row)),
        }
    }

    fn of_completion(
        prompt: &str,
        response: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Self, DataError> {
        let given = tokenizer.encode_start(prompt)?;
        let started = !prompt.is_empty();
        let learnt = match (response.is_empty(), started) {
            (true, _) => Vec::new(),
            (false, true) => tokenizer.encode_continuation(response)?,
            (false, false) => tokenizer.encode_start(response)?.split_off(given.len()),
        };
        let mut row = Self::given(given);
        row.learn(&learnt);
        row.end(tokenizer);
        Ok(row.without_first())
    }

    fn of_conversation(
        conversation: &Conversation,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Self>, DataError> {
        let conversation = tokenizer.templated(conversation);
        let mut rows: Vec<Self> = Vec::new();
        // Backwards: an answer is mostly part of the rendering with the answers after it.
        for turn in tokenizer.chat_template().turns(&conversation)?.iter().rev() {
            let turn = EncodedTurn::new(turn, tokenizer)?;
            let later = rows
                .iter_mut()
                .find(|row| row.tokens.starts_with(turn.answered()));
            match later {
                Some(row) => row.supervised[turn.learnt.clone()].fill(true),
                None => rows.push(turn.row(tokenizer)),
            }
        }
        rows.reverse();
        Ok(rows.into_iter().map(Self::without_first).collect())
    }

    fn given(tokens: Vec<u32>) -> Self {
        Self {
            supervised: vec![false; tokens.len()],
            tokens,
            turn_end: None,
        }
    }

    fn learn(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.supervised.resize(self.tokens.len(), true);
    }

    /// Ends the text, unless a token that ends one is there already.
    fn end(&mut self, tokenizer: &Tokenizer) {
        let learnt = self.tokens.iter().zip(&self.supervised).next_back();
        let ended = learnt
            .is_some_and(|(id, is_learnt)| *is_learnt && tokenizer.stop_tokens().contains(id));
        if !ended {
            self.learn(&[tokenizer.eos()]);
        }
    }

    /// No position predicts the first token, even where it is a response's.
    fn without_first(mut self) -> Self {
        if let Some(first) = self.supervised.first_mut() {
            *first = false;
        }
        self
    }
}

/// An answer as tokens, with what comes before it.
struct EncodedTurn {
    tokens: Vec<u32>,
    /// Which of them are the answer and the end of its turn.
    learnt: std::ops::Range<usize>,
    /// Whether a control token ends the turn.
    is_ended: bool,
}

impl EncodedTurn {
    fn new(turn: &Turn, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let prompt = tokenizer.encode_rendered(&turn.prompt)?;
        // With the control token that ends the turn, where `generation` tags leave it out.
        let after = &turn.whole[turn.answered.len()..];
        let end = tokenizer.control_at_start(after).map_or(0, str::len);
        let answered = &turn.whole[..turn.answered.len() + end];
        let encode = |text: &str| -> Result<Vec<u32>, DataError> {
            let tokens = tokenizer.encode_rendered(text)?;
            if tokens.starts_with(&prompt) {
                return Ok(tokens);
            }
            // The answer's first characters would melt into the prompt's last token, with which no
            // prompt ends.
            let rest = tokenizer.continue_rendered(&text[turn.prompt.len()..])?;
            Ok([&prompt[..], &rest].concat())
        };
        let (tokens, with_end) = (encode(&turn.whole)?, encode(answered)?);
        // What the template writes behind the turn must not change how the turn is read.
        let tokens = match tokens.starts_with(&with_end) {
            true => tokens,
            false => with_end.clone(),
        };
        let answer = &with_end[prompt.len()..];
        let last_control = answer.iter().rposition(|&id| tokenizer.is_control(id));
        let length = last_control.map_or(answer.len(), |last| last + 1);
        Ok(Self {
            tokens,
            learnt: prompt.len()..prompt.len() + length,
            is_ended: last_control.is_some(),
        })
    }

    /// The tokens up to the end of the turn.
    fn answered(&self) -> &[u32] {
        &self.tokens[..self.learnt.end]
    }

    fn row(self, tokenizer: &Tokenizer) -> EncodedRow {
        let mut row = EncodedRow::given(self.tokens);
        row.supervised[self.learnt.clone()].fill(true);
        match self.is_ended {
            true => row.turn_end = Some(row.tokens[self.learnt.end - 1]),
            false => {
                row.tokens.truncate(self.learnt.end);
                row.supervised.truncate(self.learnt.end);
                row.end(tokenizer);
            }
        }
        row
    }
}
