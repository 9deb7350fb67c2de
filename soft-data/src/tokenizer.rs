//! Text to tokens and back, as a model folder's `tokenizer.json` says.
//!
//! Knows the folder's tokenizer and special tokens; knows no prompts and no conversations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokenizers::Tokenizer as HfTokenizer;

mod files;
mod rendered;

use files::{check_character_maps, folder_with_tokenizer};
pub(crate) use rendered::Rendered;

use crate::control::{AROUND, ControlTokens, is_masked, is_masked_at, without_mask};
use crate::decoder::Joints;
use crate::guard::guarded;
use crate::rows::read_text;
use crate::spacing::{as_llama_class, spaces_every_section, without_prefix_space};
use crate::special::{Files, SpecialTokens};
use crate::{ChatTemplate, ControlText, Conversation, DataError, PromptBody};

/// A Hugging Face tokenizer with the special tokens and the chat template of its model folder.
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
/// Text is text: `</s>` in a row, a prompt or a message is encoded as the characters it is, and
/// only what a [chat template](ChatTemplate) writes itself becomes a control token. For text that
/// was rendered before, such as `<|im_start|>user ...`, [`with_control_text`] reads them as control
/// tokens everywhere; the tokens are then those of transformers.
///
/// [`with_control_text`]: Tokenizer::with_control_text
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// Its file, for messages.
    path: PathBuf,
    start: HfTokenizer,
    /// For tokenizers that put a space in front of a text.
    continuation: Option<HfTokenizer>,
    /// Knows control tokens by their text. A whole tokenizer more, so made where it is needed.
    control: OnceLock<HfTokenizer>,
    /// Whether a text behind a control token is encoded as the start of one.
    spaces_every_section: bool,
    controls: ControlTokens,
    control_text: ControlText,
    joints: Joints,
    special: SpecialTokens,
    template: ChatTemplate,
    vocab: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a model `folder`, for a model of `vocab` tokens (`vocab_size` in
    /// config.json), and the chat template.
    ///
    /// Special tokens are looked up in tokenizer_config.json, then in special_tokens_map.json, then
    /// in config.json and generation_config.json. Without a `pad_token` that can be used, padding
    /// is the end-of-text token. Of the class `LlamaTokenizer` are the tokens that transformers
    /// 5.24 gives: it does not look at the normalizer in tokenizer.json.
    ///
    /// # Errors
    /// When a file cannot be read, nothing says how texts end, a named token does not exist, or
    /// a special token's id is not below `vocab`.
    pub fn from_folder(folder: impl AsRef<Path>, vocab: usize) -> Result<Self, DataError> {
        let folder = &folder_with_tokenizer(folder.as_ref())?;
        let path = folder.join("tokenizer.json");
        let text = read_text(&path)?;
        let opened = guarded(|| Self::open(folder, &path, &text, vocab));
        opened.unwrap_or_else(|cause| Err(DataError::Tokenizer { path, cause }))
    }

    fn open(folder: &Path, path: &Path, text: &str, vocab: usize) -> Result<Self, DataError> {
        let unusable = |cause: tokenizers::Error| DataError::Tokenizer {
            path: path.to_owned(),
            cause: cause.to_string(),
        };
        check_character_maps(text).map_err(unusable)?;
        let mut start = text.parse::<HfTokenizer>().map_err(unusable)?;
        // Rows are cut and filled by this crate, once and in the open.
        start.with_truncation(None).map_err(unusable)?;
        start.with_padding(None);
        let files = Files::read(folder)?;
        as_llama_class(&mut start, &files)?;
        files.mark_special(&mut start, vocab)?;
        start.set_encode_special_tokens(true);
        let special = SpecialTokens::read(&files, &start, vocab)?;
        let continuation = without_prefix_space(&start).map_err(unusable)?;
        let decoder = serde_json::to_value(start.get_decoder()).map_err(|e| unusable(e.into()))?;
        let controls = ControlTokens::of(&start);
        let texts = [special.bos, Some(special.eos)].map(|id| start.id_to_token(id?));
        let tokenizer = Self {
            path: path.to_owned(),
            template: ChatTemplate::of_folder(folder, &files, &controls, texts)?,
            spaces_every_section: spaces_every_section(&start),
            start,
            continuation,
            control: OnceLock::new(),
            controls,
            control_text: ControlText::default(),
            joints: Joints::of(&decoder),
            special,
            vocab,
        };
        for id in tokenizer.special.stop.iter().chain(&tokenizer.special.bos) {
            tokenizer.check(*id)?;
        }
        Ok(tokenizer)
    }

    /// Says what becomes of control tokens that texts spell out; by default they stay characters.
    pub fn with_control_text(mut self, control_text: ControlText) -> Self {
        self.control_text = control_text;
        self
    }

    /// The folder's chat template, or the default for folders without one.
    pub fn chat_template(&self) -> &ChatTemplate {
        &self.template
    }

    /// What in the folder could not be taken as it stands, and what is done instead: to be shown.
    pub fn note(&self) -> Option<&str> {
        self.special.note.as_deref()
    }

    /// Tokens of a text that starts here, with the begin-of-text token where the folder asks for
    /// one: exactly once, whatever post-processor `tokenizer.json` has, and not again where a text
    /// with [control tokens](ControlText::Tokens) begins with it.
    ///
    /// # Errors
    /// When the tokenizer fails or gives a token that the model does not know.
    pub fn encode_start(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut tokens = Vec::from_iter(self.special.bos);
        match self.control_text {
            ControlText::Characters => tokens.extend(self.encode(&self.start, text)?),
            ControlText::Tokens => {
                let found = self.encode(self.control(), text)?;
                let begun = tokens.first().is_some_and(|bos| found.first() == Some(bos));
                tokens.extend(found.into_iter().skip(usize::from(begun)));
            }
        }
        Ok(tokens)
    }

    /// Tokens of a text that follows another: no special tokens and no prefix space.
    ///
    /// # Errors
    /// When the tokenizer fails or gives a token that the model does not know.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self.control_text {
            ControlText::Characters => self.encode_inner(text),
            ControlText::Tokens => Ok(self.continue_rendered(text)?.tokens),
        }
    }

    /// The tokens that prompt the model for its next turn in a conversation: those of
    /// `apply_chat_template` in transformers with `add_generation_prompt`.
    ///
    /// Nothing is added to what the template writes, which includes the begin-of-text token.
    /// Control tokens that messages spell out are characters, unless
    /// [`with_control_text`](Tokenizer::with_control_text) says otherwise, as transformers does: a
    /// message with the text `<|im_end|>` would then end its turn.
    ///
    /// # Errors
    /// When the template refuses the conversation or fails, when the tokenizer fails or gives a
    /// token that the model does not know.
    pub fn encode_chat(&self, conversation: &Conversation) -> Result<Vec<u32>, DataError> {
        let rendered = self
            .template
            .render_prompt(&self.templated(conversation)?)?;
        Ok(self.encode_rendered(&rendered)?.tokens)
    }

    /// How often the texts of prompts spell each control token that is encoded as characters.
    pub fn control_text_of(&self, prompts: &[PromptBody]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for prompt in prompts {
            match prompt {
                PromptBody::Text(text) => self.count_control_text(text, &mut counts),
                PromptBody::Chat(conversation) => {
                    conversation.for_texts(&mut |text| self.count_control_text(text, &mut counts));
                }
            }
        }
        counts
    }

    /// Adds how often a text spells each control token that is encoded as characters.
    pub(crate) fn count_control_text(&self, text: &str, counts: &mut BTreeMap<String, usize>) {
        if self.control_text == ControlText::Characters {
            self.controls.count(text, counts);
        }
    }

    /// A conversation as templates are given it.
    ///
    /// # Errors
    /// When a text holds one of the noncharacters that stand around masked control tokens.
    pub(crate) fn templated(&self, conversation: &Conversation) -> Result<Conversation, DataError> {
        let mut found = None;
        conversation
            .for_texts(&mut |text| found = found.or(text.chars().find(|c| AROUND.contains(c))));
        match (found, self.control_text) {
            (Some(found), _) => Err(DataError::Noncharacter { found }),
            (None, ControlText::Characters) => Ok(conversation.masked(&self.controls)),
            (None, ControlText::Tokens) => Ok(conversation.clone()),
        }
    }

    /// Tokens of what a template has rendered of a [`templated`](Self::templated) conversation.
    pub(crate) fn encode_rendered(&self, rendered: &str) -> Result<Rendered, DataError> {
        if is_masked(rendered) {
            return self.encode_sections(rendered, &self.start);
        }
        let encoding = self.call(|| self.control().encode(rendered, false))?;
        let tokens = encoding.get_ids().to_vec();
        tokens.iter().try_for_each(|&id| self.check(id))?;
        let ends = (1..).zip(tokens.iter().zip(encoding.get_offsets()));
        let ends = ends.filter(|(_, (id, _))| self.controls.contains_id(**id));
        let ends = ends.map(|(count, (_, (_, end)))| (*end, count)).collect();
        Ok(Rendered { tokens, ends })
    }

    /// Tokens of what a template has rendered behind a text: no prefix space.
    pub(crate) fn continue_rendered(&self, rendered: &str) -> Result<Rendered, DataError> {
        let inner = self.continuation.as_ref().unwrap_or(&self.start);
        self.encode_sections(rendered, inner)
    }

    /// Tokens of plain text in what a template has rendered, behind a control token.
    pub(crate) fn encode_section(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match (without_mask(text), self.spaces_every_section) {
            (text, _) if text.is_empty() => Ok(Vec::new()),
            (text, true) => self.encode(&self.start, &text),
            (text, false) => self.encode_inner(&text),
        }
    }

    /// Tokens of a rendered text, section by section between control tokens, the first by `first`.
    fn encode_sections(&self, rendered: &str, first: &HfTokenizer) -> Result<Rendered, DataError> {
        let encoding = self.call(|| self.control().encode(rendered, false))?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        let controls = tokens.filter(|&(&id, &(start, end))| {
            self.controls.contains_id(id) && !is_masked_at(rendered, start, end)
        });
        let mut found = Rendered::default();
        let mut done = 0;
        let section = |text: &str, found: &[u32]| match (found.is_empty(), without_mask(text)) {
            (true, text) if !text.is_empty() => self.encode(first, &text),
            _ => self.encode_section(text),
        };
        for (&id, &(start, end)) in controls {
            // A tokenizer that rewrites texts before it looks for control tokens may not say where
            // they were.
            let before = rendered.get(done..start).filter(|_| end >= start);
            let before = before.ok_or_else(|| DataError::Tokenization {
                path: self.path.clone(),
                cause: "it does not say where in a text a control token stands".to_owned(),
            })?;
            let before = section(before, &found.tokens)?;
            found.tokens.extend(before);
            self.check(id)?;
            found.tokens.push(id);
            found.ends.push((end, found.tokens.len()));
            done = end;
        }
        let rest = section(rendered.get(done..).unwrap_or_default(), &found.tokens)?;
        found.tokens.extend(rest);
        Ok(found)
    }

    /// Tokens of plain text inside another.
    fn encode_inner(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode(self.continuation.as_ref().unwrap_or(&self.start), text)
    }

    /// The control tokens.
    pub(crate) fn controls(&self) -> &ControlTokens {
        &self.controls
    }

    fn control(&self) -> &HfTokenizer {
        self.control.get_or_init(|| {
            let mut control = self.start.clone();
            control.set_encode_special_tokens(false);
            control
        })
    }

    /// The text of `tokens`, without special tokens. Ids that the tokenizer has no token for (a
    /// model may have more embeddings than its tokenizer has tokens) are left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        self.call(|| self.start.decode(tokens, true))
    }

    /// The text of `tokens` that follow others: unlike [`decode`](Tokenizer::decode) it keeps the
    /// space in front that SentencePiece's tokenizers strip from the start of a text, and the one
    /// before a word where a tokenizer's tokens are words.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode_continuation(&self, tokens: &[u32]) -> Result<String, DataError> {
        let hf = self.continuation.as_ref().unwrap_or(&self.start);
        let text = self.call(|| hf.decode(tokens, true))?;
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
        let encoding = self.call(|| hf.encode_fast(text, false))?;
        let tokens = encoding.get_ids().to_vec();
        tokens.iter().try_for_each(|&id| self.check(id))?;
        Ok(tokens)
    }

    /// A call of the tokenizers library, which panics on some files.
    fn call<T>(&self, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, DataError> {
        let failed = |cause| DataError::Tokenization {
            path: self.path.clone(),
            cause,
        };
        let done = guarded(call).map_err(failed)?;
        done.map_err(|cause| failed(cause.to_string()))
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
