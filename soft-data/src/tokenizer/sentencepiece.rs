//! A SentencePiece model (`tokenizer.model`) as a tokenizer of the tokenizers library.
//!
//! Folders of LLaMA 2 as first published, Vicuna and others have no tokenizer.json. The model is
//! converted in memory, as transformers does for the class `LlamaTokenizer`: byte-pair encoding
//! with the merges that its pieces imply. Models of other kinds, or with character maps, are
//! refused.
//!
//! Sources: SentencePiece's `sentencepiece_model.proto`; transformers' `convert_slow_tokenizer`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use prost::Message;
use serde_json::{Value, json};

use crate::DataError;
use crate::rows::{if_there, read_bytes, read_json};

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    character_map: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// `ModelType.BPE`.
const BPE: i32 = 2;

/// `SentencePiece.Type`; bytes are 6.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Largest vocabulary and longest piece read, in bytes: merges are searched for in every piece.
const MOST_PIECES: usize = 1 << 20;
const LONGEST_PIECE: usize = 1 << 10;

/// The tokenizer.json that the model at `path` amounts to, with the tokens of `added_tokens.json`
/// beside it.
///
/// # Errors
/// When the file is no SentencePiece model, or one that this conversion does not cover.
pub(super) fn tokenizer_json(path: &Path) -> Result<Value, DataError> {
    let refused = |cause: String| DataError::Tokenizer {
        path: path.to_owned(),
        cause,
    };
    let bytes = read_bytes(path).map_err(|cause| DataError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let model = Model::decode(bytes.as_slice());
    let model = model.map_err(|cause| refused(format!("no SentencePiece model: {cause}")))?;
    model.check().map_err(refused)?;
    let added = path.with_file_name("added_tokens.json");
    let further = match if_there(read_json(&added))? {
        Some(tokens) => further_tokens(&tokens, &model)
            .map_err(|cause| DataError::Tokenizer { path: added, cause })?,
        None => Vec::new(),
    };
    Ok(model.to_json(&further))
}

/// The tokens of added_tokens.json that are no pieces, by id: they follow the pieces.
fn further_tokens(tokens: &Value, model: &Model) -> Result<Vec<String>, String> {
    let expected = "expected an object of tokens and their ids";
    let names: BTreeSet<&str> = model.names().collect();
    let mut by_id = BTreeMap::new();
    for (content, id) in tokens.as_object().ok_or(expected)? {
        let id = id.as_u64().ok_or(expected)?;
        if !names.contains(content.as_str()) && by_id.insert(id, content.clone()).is_some() {
            return Err(format!("two tokens of id {id}"));
        }
    }
    let first = model.pieces.len() as u64;
    let ids = first..first + by_id.len() as u64;
    match by_id.keys().copied().eq(ids.clone()) {
        true => Ok(by_id.into_values().collect()),
        false => Err(format!(
            "ids {:?}: expected {ids:?}, after the pieces of tokenizer.model",
            by_id.keys().collect::<Vec<_>>()
        )),
    }
}

impl Model {
    fn check(&self) -> Result<(), String> {
        let trainer = self.trainer.clone().unwrap_or_default();
        let normalizer = self.normalizer.clone().unwrap_or_default();
        let character_map = normalizer.character_map.unwrap_or_default();
        if !(1..=MOST_PIECES).contains(&self.pieces.len()) {
            return Err(format!(
                "{} pieces: expected 1 to {MOST_PIECES}",
                self.pieces.len()
            ));
        }
        let longest = self.names().map(str::len).max().unwrap_or(0);
        if longest > LONGEST_PIECE {
            return Err(format!(
                "a piece of {longest} bytes: expected at most {LONGEST_PIECE}"
            ));
        }
        // The proto's default is a unigram model.
        let expected = if trainer.model_type.unwrap_or(1) != BPE {
            "a model of byte-pair encoding"
        } else if !character_map.is_empty() {
            "a model without a character map (normalization rule `identity`)"
        } else if normalizer.remove_extra_whitespaces.unwrap_or(true) {
            "a model that keeps repeated spaces"
        } else if trainer.treat_whitespace_as_suffix.unwrap_or(false) {
            "a model with spaces at the beginning of words"
        } else if !normalizer.escape_whitespaces.unwrap_or(true) {
            "a model that writes spaces as ▁"
        } else {
            return Ok(());
        };
        Err(format!(
            "expected {expected}: load it by transformers' AutoTokenizer and save it, which writes tokenizer.json"
        ))
    }

    fn to_json(&self, further: &[String]) -> Value {
        let trainer = self.trainer.clone().unwrap_or_default();
        let normalizer = self.normalizer.clone().unwrap_or_default();
        let prefix = normalizer.add_dummy_prefix.unwrap_or(true);
        let unknown = self.pieces.iter().find(|piece| piece.kind() == UNKNOWN);
        let vocab: BTreeMap<&str, usize> = self.names().zip(0..).collect();
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let bos = usize::try_from(trainer.bos_id.unwrap_or(1)).ok();
        let bos = bos.and_then(|id| Some((id, self.pieces.get(id)?.piece())));
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(further),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": bos.map(|(id, token)| begin_with(id, token)),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown.map(Piece::piece),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": true,
                "byte_fallback": trainer.byte_fallback.unwrap_or(false),
                "ignore_merges": false,
                "vocab": vocab,
                "merges": self.merges(),
            },
        })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(Piece::piece)
    }

    /// Control tokens and tokens defined by the user, then further ones.
    fn added_tokens(&self, further: &[String]) -> Vec<Value> {
        let token = |id: usize, content: &str| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": false,
            })
        };
        let own = (0..).zip(&self.pieces).filter_map(|(id, piece)| {
            let mut token = token(id, piece.piece());
            match piece.kind() {
                UNKNOWN | CONTROL => token["special"] = true.into(),
                USER_DEFINED => {}
                _ => return None,
            }
            Some(token)
        });
        let further = (self.pieces.len()..).zip(further);
        let further = further.map(|(id, content)| token(id, content));
        own.chain(further).collect()
    }

    /// The pairs of ordinary pieces that make up another one, the best first: by the score of the
    /// whole, as in SentencePiece, then by the length of the parts.
    fn merges(&self) -> Vec<[&str; 2]> {
        let pieces = (0..).zip(&self.pieces);
        let ordinary = pieces.filter(|(_, piece)| piece.kind() == NORMAL);
        let scores: HashMap<&str, (usize, f32)> = ordinary
            .map(|(id, piece)| (piece.piece(), (id, piece.score())))
            .collect();
        let mut merges = Vec::new();
        for (&whole, &(id, score)) in &scores {
            for (at, _) in whole.char_indices().skip(1) {
                let (left, right) = whole.split_at(at);
                if scores.contains_key(left) && scores.contains_key(right) {
                    merges.push((score, id, left, right));
                }
            }
        }
        let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
        merges.sort_by(|a, b| {
            let by_length = || lengths(b.2, b.3).cmp(&lengths(a.2, a.3));
            b.0.total_cmp(&a.0).then_with(by_length).then(a.1.cmp(&b.1))
        });
        merges
            .into_iter()
            .map(|(_, _, left, right)| [left, right])
            .collect()
    }
}

/// A post-processor that begins a text with this token.
fn begin_with(id: usize, token: &str) -> Value {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |which: &str| json!({"Sequence": {"id": which, "type_id": 0}});
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), special, text("B")],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}
