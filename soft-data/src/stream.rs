//! Incremental decoding of one row.
//!
//! Decoding the whole row at each token takes quadratic time, and decoding each token alone breaks
//! characters and loses spaces. Therefore only the few tokens whose text may still change are held.

use crate::decoder::{Joints, bytes_of, may_be_byte};
use crate::{DataError, Tokenizer};

/// Decodes tokens to text incrementally.
///
/// The concatenated results of [`push`](TextStream::push) and [`finish`](TextStream::finish) equal
/// [`Tokenizer::decode`] of all tokens. Text is returned as soon as no later token can change it,
/// and only in whole characters. With byte-level BPE, a character is held until its last byte. With
/// SentencePiece, a run of byte tokens is held until the token after it, because one malformed byte
/// makes the whole run unreadable. With an unknown decoder, all text is returned at the end. The
/// time per token does not depend on the length of the text.
///
/// # Answers
/// The text of an answer depends on the prompt: SentencePiece tokenizers strip a space from the
/// start of a text, but the answer `▁Paris` to `Answer:` is ` Paris`. A stream created
/// [after](TextStream::after) the prompt keeps that space, so that prompt and answer join into one
/// text. Trim it to show the answer alone.
///
/// ```
/// use soft_data::{TextStream, Tokenizer};
///
/// let tokenizer = Tokenizer::from_folder("tests/tokenizers/bytes", 270)?;
/// let prompt = tokenizer.encode_start("Où?")?;
/// let mut stream = TextStream::after(&tokenizer, &prompt)?;
/// let mut shown = Vec::new();
/// for token in tokenizer.encode_continuation(" À Paris")? {
///     shown.push(stream.push(token)?);
/// }
/// // `À` is two tokens of one byte each.
/// assert_eq!(shown, [" ", "", "À", " Paris"]);
/// assert_eq!(stream.finish()?, "");
/// # Ok::<(), soft_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Pending input: bytes for byte-level BPE, else tokens.
    bytes: Vec<u8>,
    tokens: Vec<u32>,
    /// Whether the start of the text, where spaces are stripped, is over.
    started: bool,
    /// Text of the pending input that belongs to the prompt.
    prompted: String,
}

impl<'a> TextStream<'a> {
    /// A stream that starts with the first token pushed.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            bytes: Vec::new(),
            tokens: Vec::new(),
            started: false,
            prompted: String::new(),
        }
    }

    /// A stream that continues `prompt`.
    ///
    /// The text of the prompt plus that of the stream is the text of all tokens, except where the
    /// prompt ends within a character: the stream then returns the whole character.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn after(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<Self, DataError> {
        let mut stream = Self::new(tokenizer);
        for &token in prompt {
            stream.push(token)?;
        }
        stream.prompted = stream.held()?;
        Ok(stream)
    }

    /// Adds a token and returns the text that is now certain, which is often empty.
    ///
    /// Special tokens and ids unknown to the tokenizer have no text.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, DataError> {
        let Some(spelling) = self.tokenizer.spelling(token) else {
            return Ok(String::new());
        };
        if self.tokenizer.joints() == Joints::Bytes {
            self.bytes.extend(bytes_of(&spelling));
            return Ok(self.characters());
        }
        self.tokens.push(token);
        match self.tokenizer.joints() {
            Joints::Unknown => Ok(String::new()),
            Joints::Pieces if may_be_byte(&spelling) => Ok(String::new()),
            _ => self.pieces(),
        }
    }

    /// Returns the remaining text; malformed bytes become U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String, DataError> {
        let text = self.held()?;
        Ok(self.unprompted(text))
    }

    /// Decodes the pending input as if nothing followed.
    fn held(&self) -> Result<String, DataError> {
        if self.tokenizer.joints() == Joints::Bytes {
            Ok(String::from_utf8_lossy(&self.bytes).into_owned())
        } else if self.started {
            self.tokenizer.decode_continuation(&self.tokens)
        } else {
            self.tokenizer.decode(&self.tokens)
        }
    }

    fn characters(&mut self) -> String {
        let whole = whole_characters(&self.bytes);
        let bytes: Vec<_> = self.bytes.drain(..whole).collect();
        self.unprompted(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Releases all tokens; the last one determines those before it.
    fn pieces(&mut self) -> Result<String, DataError> {
        let text = self.held()?;
        // While everything is stripped, the next token may be stripped too.
        if self.started || !text.is_empty() {
            self.started = true;
            self.tokens.clear();
        }
        Ok(self.unprompted(text))
    }

    /// Removes the part of `text` that belongs to the prompt.
    fn unprompted(&mut self, text: String) -> String {
        if let Some(rest) = self.prompted.strip_prefix(&text) {
            self.prompted = rest.to_owned();
            return String::new();
        }
        let prompted = std::mem::take(&mut self.prompted);
        match text.strip_prefix(&prompted) {
            Some(rest) => rest.to_owned(),
            None => text,
        }
    }
}

/// Number of bytes before an incomplete character at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let mut checked = 0;
    while let Err(error) = std::str::from_utf8(&bytes[checked..]) {
        checked += error.valid_up_to();
        match error.error_len() {
            Some(malformed) => checked += malformed,
            None => return checked,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests;
