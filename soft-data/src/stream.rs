//! The text of one row while its tokens come in.
//!
//! Knows how the tokenizer joins tokens to text; knows neither models nor stop strings.
//!
//! Decoding everything again at each token would take longer with each one, and decoding each
//! token alone would break characters and lose spaces. So only the few tokens whose text is not
//! certain yet are kept.

use crate::decoder::{Joints, bytes_of, may_be_byte};
use crate::{DataError, Tokenizer};

/// Text as it becomes certain, token by token.
///
/// What [`push`](TextStream::push) and [`finish`](TextStream::finish) give, joined, is what
/// [`Tokenizer::decode`] gives for all tokens at once. A text is given as soon as no later token
/// can change it, and never half a character: with byte-level BPE a character waits for its last
/// byte; with SentencePiece a run of byte tokens waits for the token behind it, because one
/// malformed byte makes all of the run unreadable. A tokenizer whose decoder is not known here
/// gives everything at the end. The work per token does not grow with the text.
///
/// # Answers
/// An answer's text depends on the prompt before it: SentencePiece's tokenizers strip a space
/// from the start of a text, but the answer `▁Paris` to `Answer:` is ` Paris`. A stream
/// [after](TextStream::after) the prompt keeps that space, so that prompt and streamed answer read
/// as one text. Whoever shows the answer alone may want to trim it.
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
    /// What is not certain yet: bytes where tokens are bytes, else tokens.
    bytes: Vec<u8>,
    tokens: Vec<u32>,
    /// Whether the start of the text, where spaces are stripped, has passed.
    started: bool,
    /// Text of the above that the prompt ended with.
    prompted: String,
}

impl<'a> TextStream<'a> {
    /// A text that starts with the first token pushed.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            bytes: Vec::new(),
            tokens: Vec::new(),
            started: false,
            prompted: String::new(),
        }
    }

    /// A text that continues `prompt`.
    ///
    /// The prompt's text joined with the streamed one is the text of all tokens, wherever that
    /// begins with the prompt's. It does unless the prompt ends within a character, which then
    /// comes whole with the answer.
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

    /// The text that has become certain with `token`; often empty.
    ///
    /// Special tokens and ids that the tokenizer has no token for have no text.
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

    /// The text that was not certain before the end; U+FFFD stands for bytes that are no text.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String, DataError> {
        let text = self.held()?;
        Ok(self.unprompted(text))
    }

    /// The text of what is held, if nothing follows.
    fn held(&self) -> Result<String, DataError> {
        if self.tokenizer.joints() == Joints::Bytes {
            Ok(String::from_utf8_lossy(&self.bytes).into_owned())
        } else if self.started {
            self.tokenizer.decode_continuation(&self.tokens)
        } else {
            self.tokenizer.decode(&self.tokens)
        }
    }

    /// Releases the bytes of whole characters.
    fn characters(&mut self) -> String {
        let whole = whole_characters(&self.bytes);
        let bytes: Vec<_> = self.bytes.drain(..whole).collect();
        self.unprompted(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Releases all tokens, the last of which has settled those before it.
    fn pieces(&mut self) -> Result<String, DataError> {
        let text = self.held()?;
        // As long as all of a text is stripped away, what follows may be stripped too.
        if self.started || !text.is_empty() {
            self.started = true;
            self.tokens.clear();
        }
        Ok(self.unprompted(text))
    }

    /// `text` without what the prompt has shown of it.
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

/// How many of `bytes` come before a character that lacks bytes at the end.
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
