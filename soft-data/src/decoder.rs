//! How the texts of tokens join into the text of a sequence.
//!
//! Source: the decoders of the tokenizers crate, which decode whole sequences; GPT-2's printable
//! characters for bytes.

use serde_json::{Value, json};

/// How the text of a token depends on its neighbors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joints {
    /// Byte-level BPE: tokens are bytes; a character may span several.
    Bytes,
    /// SentencePiece: tokens are text, but runs of byte tokens are decoded as a whole. Only the
    /// start of the text may lose spaces.
    Pieces,
    /// No decoder: tokens are words, joined by spaces.
    Words,
    /// Any other decoder: a token may change the text of all others.
    Unknown,
}

impl Joints {
    pub(crate) fn of(decoder: &Value) -> Self {
        if decoder.is_null() {
            return Self::Words;
        }
        let parts = parts(decoder);
        if parts.iter().map(|part| kind(part)).eq(["ByteLevel"]) {
            return Self::Bytes;
        }
        let fuse = parts.iter().position(|part| kind(part) == "Fuse");
        let (single, fused) = parts.split_at(fuse.unwrap_or(parts.len()));
        let mut single = single.iter().map(|part| kind(part));
        let single = single.all(|part| matches!(part, "Replace" | "ByteFallback" | "Metaspace"));
        let fused = fused.iter().skip(1).all(|part| strips_in_front(part));
        if single && fused {
            Self::Pieces
        } else {
            Self::Unknown
        }
    }
}

/// The decoder without stripping of a leading space. Only for [`Joints::Pieces`].
pub(crate) fn without_strip(decoder: &Value) -> Value {
    let mut bare = decoder.clone();
    match kind(decoder) {
        "Strip" => bare["start"] = json!(0),
        "Metaspace" => bare["prepend_scheme"] = json!("never"),
        _ => {}
    }
    if let Some(Value::Array(parts)) = decoder.get("decoders") {
        bare["decoders"] = parts.iter().map(without_strip).collect();
    }
    bare
}

/// Whether a token may represent a byte, such as `<0xE2>`.
pub(crate) fn may_be_byte(token: &str) -> bool {
    token.starts_with("<0x") && token.ends_with('>')
}

/// The bytes of a byte-level BPE token. A token outside the alphabet is taken as UTF-8 text.
pub(crate) fn bytes_of(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<_>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Printable Latin-1 bytes map to themselves, the others to U+0100 and following.
fn byte_of(stand_in: char) -> Option<u8> {
    let byte = match u32::from(stand_in) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

fn parts(decoder: &Value) -> Vec<&Value> {
    match decoder.get("decoders") {
        Some(Value::Array(decoders)) => decoders.iter().flat_map(parts).collect(),
        _ => vec![decoder],
    }
}

fn kind(decoder: &Value) -> &str {
    decoder.get("type").and_then(Value::as_str).unwrap_or("")
}

fn strips_in_front(decoder: &Value) -> bool {
    kind(decoder) == "Strip" && decoder.get("stop").and_then(Value::as_u64) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(decoders: &[Value]) -> Value {
        json!({"type": "Sequence", "decoders": decoders})
    }

    #[test]
    fn decoders_of_language_models_are_known() {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": true});
        let fallback = json!({"type": "ByteFallback"});
        let fuse = json!({"type": "Fuse"});
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        let metaspace = json!({"type": "Metaspace", "prepend_scheme": "first"});
        assert_eq!(Joints::of(&Value::Null), Joints::Words);
        assert_eq!(Joints::of(&bytes), Joints::Bytes);
        assert_eq!(
            Joints::of(&sequence(std::slice::from_ref(&bytes))),
            Joints::Bytes
        );
        assert_eq!(Joints::of(&metaspace), Joints::Pieces);
        let llama = sequence(&[fallback.clone(), fuse.clone(), strip.clone()]);
        assert_eq!(Joints::of(&llama), Joints::Pieces);
        let gemma = sequence(&[fallback.clone(), fuse.clone()]);
        assert_eq!(Joints::of(&gemma), Joints::Pieces);

        let every_token = sequence(&[fallback, strip]);
        assert_eq!(Joints::of(&every_token), Joints::Unknown);
        let end = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
        assert_eq!(Joints::of(&sequence(&[fuse, end])), Joints::Unknown);
        assert_eq!(Joints::of(&json!({"type": "WordPiece"})), Joints::Unknown);
    }

    #[test]
    fn only_the_space_in_front_is_kept() {
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        let metaspace = json!({"type": "Metaspace", "prepend_scheme": "first"});
        let fuse = json!({"type": "Fuse"});
        let bare = without_strip(&sequence(&[metaspace, fuse.clone(), strip]));
        assert_eq!(bare["decoders"][0]["prepend_scheme"], "never");
        assert_eq!(bare["decoders"][1], fuse);
        assert_eq!(bare["decoders"][2]["start"], 0);
    }

    #[test]
    fn every_byte_has_one_stand_in() {
        let mut bytes: Vec<_> = ('\0'..'\u{200}').filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert!(bytes.into_iter().eq(0..=255));
        assert_eq!(bytes_of("Ġ<é"), [b' ', b'<', 0xE9]);
        assert_eq!(bytes_of("a b"), b"a b");
    }
}
