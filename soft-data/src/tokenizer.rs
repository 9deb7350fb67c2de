//! Encodes text as tokens and decodes it, with the tokenizer of a model folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokenizers::Tokenizer as HfTokenizer;

mod files;
mod rendered;
mod sentencepiece;

use files::{SENTENCEPIECE, TOKENIZER_JSON, check_character_maps, folder_with_tokenizer};
pub(crate) use rendered::Rendered;
use sentencepiece::tokenizer_json;

use crate::control::{AROUND, ControlTokens, is_masked, is_masked_at, without_mask};
use crate::decoder::Joints;
use crate::guard::guarded;
use crate::rows::read_text;
use crate::spacing::{as_llama_class, spaces_every_section, without_prefix_space};
use crate::special::{Files, SpecialTokens};
use crate::{ChatTemplate, ControlText, Conversation, DataError, PromptBody};

/// A Hugging Face tokenizer with the special tokens and the chat template of its model folder.
///
/// # Boundary between prompt and response
/// Prompt and response are encoded separately and concatenated: the prompt as the
/// [start](Tokenizer::encode_start) of a text, the response as its
/// [continuation](Tokenizer::encode_continuation). A training row therefore begins with exactly the
/// tokens of the prompt at inference, whatever the response.
///
/// This differs from the paper if it follows Stanford's `train.py`, which encodes prompt and
/// response together. That may merge the end of the prompt and the start of the response into
/// tokens that do not occur at the end of a prompt. With SmolLM2's tokenizer this affects 441 of
/// 16,000 rows of Alpaca.
///
/// # Control tokens
/// Control tokens in text, such as `</s>` in a row, a prompt or a message, are encoded as
/// characters. Only those written by the [chat template](ChatTemplate) itself become control
/// tokens. For text that is already rendered, such as `<|im_start|>user ...`, use
/// [`with_control_text`]: control tokens are then recognized everywhere, as in transformers.
///
/// [`with_control_text`]: Tokenizer::with_control_text
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// Path of the tokenizer's file, for error messages.
    path: PathBuf,
    start: HfTokenizer,
    /// Without the prefix space; `None` if `start` neither adds nor strips one.
    continuation: Option<HfTokenizer>,
    /// Recognizes control tokens in text. Created on first use, since it is a full copy.
    control: OnceLock<HfTokenizer>,
    /// Whether text after a control token is encoded like the start of a text.
    spaces_every_section: bool,
    controls: ControlTokens,
    control_text: ControlText,
    joints: Joints,
    special: SpecialTokens,
    template: ChatTemplate,
    vocab: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` or, without it, the SentencePiece model `tokenizer.model`, and the
    /// chat template of a model `folder`, for a model with `vocab` tokens (`vocab_size` in
    /// config.json).
    ///
    /// Special tokens are looked up in tokenizer_config.json, then special_tokens_map.json, then
    /// config.json and generation_config.json. Without a usable `pad_token`, padding is the
    /// end-of-text token. For the class `LlamaTokenizer`, the tokens are those of transformers
    /// 5.24, which ignores the normalizer in tokenizer.json.
    ///
    /// # Errors
    /// When a file cannot be read, no end-of-text token is configured, a named token does not
    /// exist, or the id of a special token is not below `vocab`.
    pub fn from_folder(folder: impl AsRef<Path>, vocab: usize) -> Result<Self, DataError> {
        let folder = &folder_with_tokenizer(folder.as_ref())?;
        let mut path = folder.join(TOKENIZER_JSON);
        let pieces = folder.join(SENTENCEPIECE);
        let text = if !path.exists() && pieces.exists() {
            path = pieces;
            tokenizer_json(&path)?.to_string()
        } else {
            read_text(&path)?
        };
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
        // This crate truncates and pads rows itself.
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

    /// Sets how control tokens in text are encoded; the default is as characters.
    pub fn with_control_text(mut self, control_text: ControlText) -> Self {
        self.control_text = control_text;
        self
    }

    /// The chat template of the folder, or a default one.
    pub fn chat_template(&self) -> &ChatTemplate {
        &self.template
    }

    /// A message for the user about a setting of the folder that was replaced, if any.
    pub fn note(&self) -> Option<&str> {
        self.special.note.as_deref()
    }

    /// Encodes text at the start of a sequence. The begin-of-text token is added once if the folder
    /// requires it, whatever the post-processor in `tokenizer.json`; it is not added if the text
    /// already begins with it as a [control token](ControlText::Tokens).
    ///
    /// # Errors
    /// When the tokenizer fails or returns a token outside the model's vocabulary.
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

    /// Encodes text that follows other text, without special tokens or a prefix space.
    ///
    /// # Errors
    /// When the tokenizer fails or returns a token outside the model's vocabulary.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self.control_text {
            ControlText::Characters => self.encode_inner(text),
            ControlText::Tokens => Ok(self.continue_rendered(text)?.tokens),
        }
    }

    /// Encodes the prompt for the model's next turn in a conversation, like `apply_chat_template`
    /// of transformers with `add_generation_prompt`.
    ///
    /// Nothing is added to the output of the template, which includes the begin-of-text token.
    /// Control tokens in messages are encoded as characters, unless
    /// [`with_control_text`](Tokenizer::with_control_text) selects the behavior of transformers,
    /// where a message that contains `<|im_end|>` ends its turn.
    ///
    /// # Errors
    /// When the template rejects the conversation or fails, a text contains a noncharacter that
    /// this library reserves, or the tokenizer fails or returns a token outside the model's
    /// vocabulary.
    pub fn encode_chat(&self, conversation: &Conversation) -> Result<Vec<u32>, DataError> {
        let rendered = self
            .template
            .render_prompt(&self.templated(conversation)?)?;
        Ok(self.encode_rendered(&rendered)?.tokens)
    }

    /// Counts the control tokens in prompts that are encoded as characters.
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

    /// Adds the control tokens in `text` that are encoded as characters.
    pub(crate) fn count_control_text(&self, text: &str, counts: &mut BTreeMap<String, usize>) {
        if self.control_text == ControlText::Characters {
            self.controls.count(text, counts);
        }
    }

    /// The conversation as passed to templates, with control tokens in text masked.
    ///
    /// # Errors
    /// When a text contains one of the noncharacters used for masking.
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

    /// Encodes the rendering of a [`templated`](Self::templated) conversation.
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

    /// Encodes rendered text that follows other text, without a prefix space.
    pub(crate) fn continue_rendered(&self, rendered: &str) -> Result<Rendered, DataError> {
        let inner = self.continuation.as_ref().unwrap_or(&self.start);
        self.encode_sections(rendered, inner)
    }

    /// Encodes rendered plain text after a control token.
    pub(crate) fn encode_section(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match (without_mask(text), self.spaces_every_section) {
            (text, _) if text.is_empty() => Ok(Vec::new()),
            (text, true) => self.encode(&self.start, &text),
            (text, false) => self.encode_inner(&text),
        }
    }

    /// Encodes each section between control tokens separately, the first one with `first`.
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
            // Offsets may be missing if text is normalized before the search for control tokens.
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

    /// Encodes plain text that follows other text.
    fn encode_inner(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode(self.continuation.as_ref().unwrap_or(&self.start), text)
    }

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

    /// Decodes `tokens`, without special tokens. Ids unknown to the tokenizer are left out; a model
    /// may have more embeddings than its tokenizer has tokens.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        self.call(|| self.start.decode(tokens, true))
    }

    /// Decodes `tokens` that follow others. Unlike [`decode`](Tokenizer::decode), it keeps the
    /// leading space that SentencePiece tokenizers strip from the start of a text, and adds the
    /// space before the first word if tokens are words.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode_continuation(&self, tokens: &[u32]) -> Result<String, DataError> {
        let hf = self.continuation.as_ref().unwrap_or(&self.start);
        let text = self.call(|| hf.decode(tokens, true))?;
        // The decoder joins words by spaces and adds none before the first.
        let joined =
            self.joints == Joints::Words && tokens.iter().any(|&id| self.spelling(id).is_some());
        Ok(if joined { format!(" {text}") } else { text })
    }

    pub(crate) fn joints(&self) -> Joints {
        self.joints
    }

    /// The tokenizer's spelling of a token; `None` for special tokens and unknown ids.
    pub(crate) fn spelling(&self, id: u32) -> Option<String> {
        let special = self.start.get_added_vocabulary();
        let spelling = self.start.id_to_token(id);
        spelling.filter(|spelling| !special.is_special_token(spelling))
    }

    /// The id of a token, given its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.start.token_to_id(token)
    }

    /// The begin-of-text token, if texts begin with one.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> u32 {
        self.special.eos
    }

    /// The padding token.
    pub fn pad(&self) -> u32 {
        self.special.pad
    }

    /// All tokens that end a generation: [`eos`](Tokenizer::eos), then others from config.json or
    /// generation_config.json, such as an end of turn.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.special.stop
    }

    /// Vocabulary size of the model.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    fn encode(&self, hf: &HfTokenizer, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.call(|| hf.encode_fast(text, false))?;
        let tokens = encoding.get_ids().to_vec();
        tokens.iter().try_for_each(|&id| self.check(id))?;
        Ok(tokens)
    }

    /// Calls the tokenizers library, which panics on some files.
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
