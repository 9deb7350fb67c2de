//! Records as rows of tokens with supervision masks.
//!
//! A completion is its prompt, its response and the end-of-text token. A conversation is rendered
//! by the chat template.

use std::ops::Range;
use std::sync::Arc;

use crate::chat::Turn;
use crate::tokenizer::Rendered;
use crate::{Body, Conversation, DataError, Record, Tokenizer};

#[derive(Debug)]
pub(super) struct EncodedRow {
    pub tokens: Vec<u32>,
    pub supervised: Vec<bool>,
    /// The control token that ends the assistant's turns.
    pub turn_end: Option<u32>,
}

impl EncodedRow {
    /// The rows of a record: one, or several for a conversation whose template renders past turns
    /// differently from the last one.
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
        let conversation = tokenizer.templated(conversation)?;
        let mut texts: Vec<EncodedText> = Vec::new();
        let mut rows: Vec<Self> = Vec::new();
        // In reverse, since an answer is usually part of a later rendering.
        for turn in tokenizer.chat_template().turns(&conversation)?.iter().rev() {
            let answer = Answer::of(turn, tokenizer);
            let mut later = texts.iter().zip(&mut rows);
            let later = later.find(|(text, _)| Arc::ptr_eq(&text.text, &turn.text));
            if let Some((text, row)) = later
                && let Some(learnt) = text.find(&answer, tokenizer)?
            {
                row.supervised[learnt].fill(true);
                continue;
            }
            let (text, learnt) = EncodedText::new(&answer, tokenizer)?;
            rows.push(text.row(&answer, learnt, tokenizer));
            texts.push(text);
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

    /// Adds the end-of-text token, unless the row ends in a supervised stop token.
    fn end(&mut self, tokenizer: &Tokenizer) {
        let learnt = self.tokens.iter().zip(&self.supervised).next_back();
        let ended = learnt
            .is_some_and(|(id, is_learnt)| *is_learnt && tokenizer.stop_tokens().contains(id));
        if !ended {
            self.learn(&[tokenizer.eos()]);
        }
    }

    /// No position predicts the first token, so it is never supervised.
    fn without_first(mut self) -> Self {
        if let Some(first) = self.supervised.first_mut() {
            *first = false;
        }
        self
    }
}

/// An answer within a text, including the end of its turn.
struct Answer<'a> {
    text: &'a Arc<str>,
    prompt: usize,
    /// End of the supervised text, in bytes.
    end: usize,
    turn_end: Option<u32>,
}

impl<'a> Answer<'a> {
    /// An answer extends to the control token that ends its turn, which may follow the generation
    /// tags. Without such a token it is the whole answer; with tags, at least everything they
    /// enclose.
    fn of(turn: &'a Turn, tokenizer: &Tokenizer) -> Self {
        let controls = tokenizer.controls();
        let within = controls.at_end(&turn.text[turn.prompt..turn.answered]);
        let behind = turn.text[turn.answered..].trim_start();
        let (end, token) = match within {
            Some((_, token)) if turn.is_marked => (turn.answered, Some(token)),
            Some((end, token)) => (turn.prompt + end, Some(token)),
            None => match controls.at_start(behind).filter(|_| turn.is_marked) {
                Some(token) => (turn.text.len() - behind.len() + token.len(), Some(token)),
                None => (turn.answered, None),
            },
        };
        Self {
            text: &turn.text,
            prompt: turn.prompt,
            end,
            turn_end: token.and_then(|token| tokenizer.token_id(token)),
        }
    }
}

/// The tokens of a rendered text up to the end of an answer. The tokens of the prompt are exactly
/// those used at inference.
struct EncodedText {
    text: Arc<str>,
    rendered: Rendered,
}

impl EncodedText {
    /// Encodes the text of an answer; the range is its supervised tokens.
    fn new(answer: &Answer, tokenizer: &Tokenizer) -> Result<(Self, Range<usize>), DataError> {
        let text = Arc::clone(answer.text);
        let prompt = tokenizer.encode_rendered(&text[..answer.prompt])?;
        let given = prompt.tokens.len();
        let mut rendered = tokenizer.encode_rendered(&text[..answer.end])?;
        if !rendered.tokens.starts_with(&prompt.tokens) {
            // Encoding the whole text would merge the start of the answer into the last token of
            // the prompt, which differs from the prompt at inference.
            let rest = tokenizer.continue_rendered(&text[answer.prompt..answer.end])?;
            rendered = prompt.and(answer.prompt, rest);
        }
        let learnt = given..rendered.tokens.len();
        Ok((Self { text, rendered }, learnt))
    }

    /// The tokens of an earlier answer; `None` unless they are known to equal those of a separate
    /// example. Sections between control tokens are encoded independently, so only the last section
    /// of the prompt is compared.
    fn find(
        &self,
        answer: &Answer,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Range<usize>>, DataError> {
        let Rendered { tokens, ends } = &self.rendered;
        let Some((_, last)) = ends.iter().find(|(end, _)| *end == answer.end) else {
            let (alone, learnt) = Self::new(answer, tokenizer)?;
            return Ok(tokens.starts_with(&alone.rendered.tokens).then_some(learnt));
        };
        let before = ends.iter().rev().find(|(end, _)| *end <= answer.prompt);
        let (first, section) = match before {
            Some(&(end, count)) => {
                let section = self.text.get(end..answer.prompt).unwrap_or_default();
                (count, tokenizer.encode_section(section)?)
            }
            None => {
                let section = tokenizer.encode_rendered(&self.text[..answer.prompt])?;
                (0, section.tokens)
            }
        };
        let start = first + section.len();
        let is_there = start <= *last && tokens[first..].starts_with(&section);
        Ok(is_there.then_some(start..*last))
    }

    fn row(&self, answer: &Answer, learnt: Range<usize>, tokenizer: &Tokenizer) -> EncodedRow {
        let mut row = EncodedRow::given(self.rendered.tokens.clone());
        row.supervised[learnt.clone()].fill(true);
        row.turn_end = answer.turn_end;
        if row.turn_end.is_none() {
            row.tokens.truncate(learnt.end);
            row.supervised.truncate(learnt.end);
            row.end(tokenizer);
        }
        row
    }
}
