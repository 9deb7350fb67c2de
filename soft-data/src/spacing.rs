//! The prefix space that some tokenizers put in front of a text.
//!
//! LLaMA 2 and similar tokenizers add a space to every text they encode. That is correct at the
//! start of a text and wrong for a response after a prompt: `Answer:` and ` Paris` would be joined
//! with two spaces, `Response:` and `Paris` with an extra one. This module removes it from the
//! components that add it (`Prepend`, `Metaspace` and `ByteLevel`) and makes the decoder keep a
//! leading space.
//!
//! Source: the tokenizers crate; for the class `LlamaTokenizer`, `tokenization_llama.py` of
//! transformers 5.24, which replaces the normalizer and pre-tokenizer.

use serde_json::{Value, json};
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as HfTokenizer,
};

use crate::DataError;
use crate::decoder::{Joints, without_strip};
use crate::special::Files;

/// Configures `hf` as transformers does for the class `LlamaTokenizer`: a prefix space at the start
/// of the text and, with `legacy`, after each control token, unless there is one already.
pub(crate) fn as_llama_class(hf: &mut HfTokenizer, files: &Files) -> Result<(), DataError> {
    let is_bpe = matches!(hf.get_model(), ModelWrapper::BPE(_));
    let decoder = serde_json::to_value(hf.get_decoder()).unwrap_or_default();
    if !files.is_llama_class() || !is_bpe || Joints::of(&decoder) != Joints::Pieces {
        return Ok(());
    }
    let prefix = files.is_set("add_prefix_space", true)?;
    let legacy = files.is_set("legacy", false)? && !files.is_code_llama_class();
    let scheme = match (prefix, legacy) {
        (false, _) => "never",
        (true, false) => "first",
        (true, true) => "always",
    };
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let unusable = |cause: serde_json::Error| files.unusable(cause);
    let metaspace: PreTokenizerWrapper = serde_json::from_value(metaspace).map_err(unusable)?;
    let none: Option<NormalizerWrapper> = None;
    hf.with_normalizer(none)
        .map_err(|cause| files.unusable(cause))?;
    hf.with_pre_tokenizer(Some(metaspace));
    if !prefix && !files.is_code_llama_class() {
        let bare: Option<DecoderWrapper> =
            serde_json::from_value(without_strip(&decoder)).map_err(unusable)?;
        hf.with_decoder(bare);
    }
    Ok(())
}

/// Whether text after a control token is encoded like the start of a text.
pub(crate) fn spaces_every_section(hf: &HfTokenizer) -> bool {
    let pre_tokenizer = serde_json::to_string(&hf.get_pre_tokenizer()).unwrap_or_default();
    !pre_tokenizer.contains("\"prepend_scheme\":\"first\"")
}

/// `hf` without its prefix space; `None` if it neither adds nor strips one.
pub(crate) fn without_prefix_space(
    hf: &HfTokenizer,
) -> Result<Option<HfTokenizer>, tokenizers::Error> {
    let normalizer = serde_json::to_value(hf.get_normalizer())?;
    let pre_tokenizer = serde_json::to_value(hf.get_pre_tokenizer())?;
    let decoder = serde_json::to_value(hf.get_decoder())?;
    let (bare_normalizer, bare_pre_tokenizer) = (bare(&normalizer), bare(&pre_tokenizer));
    let bare_decoder = match Joints::of(&decoder) {
        Joints::Pieces => without_strip(&decoder),
        _ => decoder.clone(),
    };
    if (&bare_normalizer, &bare_pre_tokenizer, &bare_decoder)
        == (&normalizer, &pre_tokenizer, &decoder)
    {
        return Ok(None);
    }
    let mut hf = hf.clone();
    hf.with_normalizer(serde_json::from_value::<Option<NormalizerWrapper>>(
        bare_normalizer,
    )?)?;
    let bare_pre_tokenizer =
        serde_json::from_value::<Option<PreTokenizerWrapper>>(bare_pre_tokenizer)?;
    hf.with_pre_tokenizer(bare_pre_tokenizer);
    hf.with_decoder(serde_json::from_value::<Option<DecoderWrapper>>(
        bare_decoder,
    )?);
    Ok(Some(hf))
}

/// A normalizer or pre-tokenizer without prefix space, as JSON.
fn bare(part: &Value) -> Value {
    let mut bare = part.clone();
    match part.get("type").and_then(Value::as_str) {
        Some("Prepend") => return Value::Null,
        Some("Metaspace") => bare["prepend_scheme"] = json!("never"),
        Some("ByteLevel") => bare["add_prefix_space"] = json!(false),
        _ => {}
    }
    for list in ["normalizers", "pretokenizers"] {
        if let Some(Value::Array(parts)) = part.get(list) {
            bare[list] = parts
                .iter()
                .map(self::bare)
                .filter(|part| !part.is_null())
                .collect();
        }
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_space_out_wherever_it_hides() {
        let nested = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "NFC"}]});
        assert_eq!(
            bare(&nested),
            json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]})
        );
        assert_eq!(
            bare(&json!({"type": "Prepend", "prepend": "▁"})),
            Value::Null
        );
        let nested = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits"}, {"type": "ByteLevel", "add_prefix_space": true}]});
        assert_eq!(bare(&nested)["pretokenizers"][1]["add_prefix_space"], false);
        let metaspace = json!({"type": "Metaspace", "prepend_scheme": "first"});
        assert_eq!(bare(&metaspace)["prepend_scheme"], "never");
        assert_eq!(bare(&Value::Null), Value::Null);
    }
}
