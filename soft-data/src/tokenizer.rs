//! Text to tokens and back, as a model folder's `tokenizer.json` says.
//!
//! Knows the folder's tokenizer and special tokens; knows no prompts and no conversations.

use std::path::Path;
use std::sync::OnceLock;

use tokenizers::Tokenizer as HfTokenizer;

use crate::DataError;
use crate::continuation::without_prefix_space;
use crate::decoder::Joints;
use crate::rows::read_text;
use crate::special::{SpecialTokens, tokenization};

/// A Hugging Face tokenizer with the special tokens of its model folder.
///
/// # Where a prompt meets its response
/// A prompt and its response are encoded one after the other and their
/// tokens joined, the prompt as the [start](Tokenizer::encode_start) of a text, the response as
/// its [continuation](Tokenizer::encode_continuation). So the tokens of a training row begin with
/// exactly the tokens that the model is prompted with later, whatever the response is.
///
/// Differs from the paper, if it follows Stanford's `train.py`, which encodes both at once: that
/// may melt the end of the prompt and the start of the response into tokens that no prompt ends
/// with. With SmolLM2's tokenizer this concerns 441 of 16,000 rows of Alpaca.
///
/// # Control tokens
/// Text is text: `</s>` in a row is encoded as the characters it is, never as the control token.
/// The one exception is a rendered chat template, see [`encode_chat`](Tokenizer::encode_chat).
#[derive(Clone, Debug)]
pub struct Tokenizer {
    start: HfTokenizer,
    /// For tokenizers that put a space in front of a text.
    continuation: Option<HfTokenizer>,
    /// Knows control tokens by their text. A whole tokenizer more, so made where it is needed.
    chat: OnceLock<HfTokenizer>,
    joints: Joints,
    special: SpecialTokens,
    vocab: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a model `folder`, for a model of `vocab` tokens (`vocab_size` in
    /// config.json).
    ///
    /// Special tokens are looked up in tokenizer_config.json, then in config.json, then in
    /// generation_config.json. Without a `pad_token`, padding is the end-of-text token.
    ///
    /// # Errors
    /// When a file cannot be read, nothing says how texts end, a named token does not exist, or
    /// a special token's id is not below `vocab`.
    pub fn from_folder(folder: impl AsRef<Path>, vocab: usize) -> Result<Self, DataError> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer.json");
        let text = read_text(&path)?;
        let unusable = |cause: tokenizers::Error| DataError::Tokenizer {
            path: path.clone(),
            cause: cause.to_string(),
        };
        let mut start = text.parse::<HfTokenizer>().map_err(unusable)?;
        // Rows are cut and filled by this crate, once and in the open.
        start.with_truncation(None).map_err(unusable)?;
        start.with_padding(None);
        start.set_encode_special_tokens(true);
        let special = SpecialTokens::read(folder, &start)?;
        let continuation = without_prefix_space(&start).map_err(unusable)?;
        let decoder = serde_json::to_value(start.get_decoder()).map_err(|e| unusable(e.into()))?;
        let tokenizer = Self {
            start,
            continuation,
            chat: OnceLock::new(),
            joints: Joints::of(&decoder),
            special,
            vocab,
        };
        for id in tokenizer.special.stop.iter().chain(&tokenizer.special.bos) {
            tokenizer.check(*id)?;
        }
        tokenizer.check(tokenizer.special.pad)?;
        Ok(tokenizer)
    }

    /// Tokens of a text that starts here, with the begin-of-text token where the folder asks for
    /// one: exactly once, whatever post-processor `tokenizer.json` has.
    ///
    /// # Errors
    /// When the tokenizer fails or gives a token that the model does not know.
    pub fn encode_start(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut tokens: Vec<_> = self.special.bos.into_iter().collect();
        tokens.extend(self.encode_opening(text)?);
        Ok(tokens)
    }

    /// Tokens of a text that starts here, without the begin-of-text token.
    pub(crate) fn encode_opening(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode(&self.start, text)
    }

    /// Tokens of a text that follows another: no special tokens and no prefix space.
    ///
    /// # Errors
    /// When the tokenizer fails or gives a token that the model does not know.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode(self.continuation.as_ref().unwrap_or(&self.start), text)
    }

    /// Tokens of a conversation that a [`ChatTemplate`](crate::ChatTemplate) has rendered.
    ///
    /// Control tokens that the text spells out, such as `<|im_start|>`, become control tokens,
    /// and nothing is added: templates write the begin-of-text token themselves. These are the
    /// tokens of `apply_chat_template` in transformers.
    ///
    /// # Messages can forge control tokens
    /// Rendered text does not say who wrote it: a message with the text `<|im_end|>` ends its
    /// turn, as it does in transformers unless it is asked to sanitise. Before rendering messages
    /// of strangers, ask [`control_token_in`](Tokenizer::control_token_in) about their contents.
    ///
    /// # Errors
    /// When the tokenizer fails or gives a token that the model does not know.
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>, DataError> {
        self.encode(self.chat(), rendered)
    }

    /// The first control token that `text` would become in
    /// [`encode_chat`](Tokenizer::encode_chat), by its name; `None` for harmless text.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn control_token_in(&self, text: &str) -> Result<Option<String>, DataError> {
        let encoding = self.chat().encode_fast(text, false).map_err(tokenization)?;
        let known = self.start.get_added_vocabulary();
        let names = encoding.get_ids().iter();
        let mut names = names.filter_map(|&id| self.start.id_to_token(id));
        Ok(names.find(|name| known.is_special_token(name)))
    }

    fn chat(&self) -> &HfTokenizer {
        self.chat.get_or_init(|| {
            let mut chat = self.start.clone();
            chat.set_encode_special_tokens(false);
            chat
        })
    }

    /// The text of `tokens`, without special tokens. Ids that the tokenizer has no token for (a
    /// model may have more embeddings than its tokenizer has tokens) are left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        self.start.decode(tokens, true).map_err(tokenization)
    }

    /// The text of `tokens` that follow others: unlike [`decode`](Tokenizer::decode) it keeps the
    /// space in front that SentencePiece's tokenizers strip from the start of a text, and the one
    /// before a word where a tokenizer's tokens are words.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode_continuation(&self, tokens: &[u32]) -> Result<String, DataError> {
        let hf = self.continuation.as_ref().unwrap_or(&self.start);
        let text = hf.decode(tokens, true).map_err(tokenization)?;
        // The decoder of words joins with spaces and leaves out the one before the first.
        let joined =
            self.joints == Joints::Words && tokens.iter().any(|&id| self.spelling(id).is_some());
        Ok(if joined { format!(" {text}") } else { text })
    }

    /// How the texts of tokens join.
    pub(crate) fn joints(&self) -> Joints {
        self.joints
    }

    /// The tokenizer's own spelling of a token that has a text; `None` for special tokens and
    /// for ids that the tokenizer has no token for.
    pub(crate) fn spelling(&self, id: u32) -> Option<String> {
        let special = self.start.get_added_vocabulary();
        let spelling = self.start.id_to_token(id);
        spelling.filter(|spelling| !special.is_special_token(spelling))
    }

    /// The id of a token given by its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.start.token_to_id(token)
    }

    /// The begin-of-text token, where texts begin with one.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> u32 {
        self.special.eos
    }

    /// The token that fills short rows.
    pub fn pad(&self) -> u32 {
        self.special.pad
    }

    /// Every token that ends a generation: [`eos`](Tokenizer::eos), then others that config.json
    /// or generation_config.json list, such as an end of turn.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.special.stop
    }

    /// Number of tokens that the model knows.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    fn encode(&self, hf: &HfTokenizer, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = hf.encode_fast(text, false).map_err(tokenization)?;
        let tokens = encoding.get_ids().to_vec();
        tokens.iter().try_for_each(|&id| self.check(id))?;
        Ok(tokens)
    }

    pub(crate) fn check(&self, id: u32) -> Result<(), DataError> {
        if (id as usize) < self.vocab {
            return Ok(());
        }
        let token = self.start.id_to_token(id).unwrap_or_default();
        Err(DataError::OutsideVocabulary {
            token,
            id,
            vocab: self.vocab,
        })
    }
}

#[cfg(test)]
mod tests;
