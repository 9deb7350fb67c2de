//! The two toy tokenizers in `tests/tokenizers`, and variants that differ in one entry.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{ControlText, TextStream};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tokenizers")
        .join(name)
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_folder(folder(name), 1000).unwrap()
}

/// A copy of a toy folder with changed configuration entries; `file: null` omits the file.
fn changed(name: &str, changes: Value) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        let text = fs::read_to_string(folder(name).join(file)).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        match changes.get(file) {
            Some(Value::Object(entries)) => {
                entries
                    .iter()
                    .for_each(|(key, entry)| value[key] = entry.clone());
            }
            Some(_) => continue,
            None => {}
        }
        fs::write(copy.path().join(file), value.to_string()).unwrap();
    }
    if let Some(generation) = changes.get("generation_config.json") {
        fs::write(
            copy.path().join("generation_config.json"),
            generation.to_string(),
        )
        .unwrap();
    }
    copy
}

fn with_config(name: &str, entries: Value) -> Result<Tokenizer, DataError> {
    let copy = changed(name, json!({ "tokenizer_config.json": entries }));
    Tokenizer::from_folder(copy.path(), 1000)
}

fn tokens(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter()
        .map(|&id| tokenizer.start.id_to_token(id).unwrap())
        .collect()
}

#[test]
fn text_survives_both_ways() {
    let text = "Question: Où?\n\n Two  spaces, \u{1f999}";
    for name in ["bytes", "pieces"] {
        let tokenizer = tokenizer(name);
        assert_eq!(
            tokenizer
                .decode(&tokenizer.encode_start(text).unwrap())
                .unwrap(),
            text
        );
    }
}

#[test]
fn tokens_are_those_of_transformers() {
    let golden = fs::read_to_string(folder("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    for variant in golden["variants"].as_array().unwrap() {
        let name = variant["tokenizer"].as_str().unwrap();
        let tokenizer = with_config(name, variant["entries"].clone()).unwrap();
        let tokenizer = tokenizer.with_control_text(ControlText::Tokens);
        for (text, tokens) in texts.iter().zip(variant["tokens"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let mut wanted: Vec<u32> = serde_json::from_value(tokens.clone()).unwrap();
            // Unlike transformers, no second begin-of-text token is added.
            if wanted.len() > 1 && tokenizer.bos() == Some(wanted[1]) {
                wanted.remove(0);
            }
            let found = tokenizer.encode_start(text).unwrap();
            assert_eq!(
                found, wanted,
                "{text:?} by {name} with {}",
                variant["entries"]
            );
            // Text without control tokens is encoded the same in both modes.
            if tokenizer.controls.find(text).next().is_none() {
                let plain = tokenizer.clone().with_control_text(ControlText::Characters);
                assert_eq!(plain.encode_start(text).unwrap(), wanted, "{text:?}");
            }
        }
    }
}

#[test]
fn continuations_spell_control_tokens_where_asked() {
    for name in ["bytes", "pieces"] {
        let tokenizer = tokenizer(name).with_control_text(ControlText::Tokens);
        let end = tokenizer.token_id(["<|im_end|>", "</s>"][usize::from(name == "pieces")]);
        let spelled = ["Paris<|im_end|>a", "Paris</s>a"][usize::from(name == "pieces")];
        let tokens = tokenizer.encode_continuation(spelled).unwrap();
        let at = tokens.iter().position(|&id| Some(id) == end).unwrap();
        assert_eq!(
            tokens[..at],
            tokenizer.encode_continuation("Paris").unwrap()
        );
    }
}

#[test]
fn padding_that_cannot_be_used_is_no_obstacle() {
    assert_eq!(tokenizer("bytes").note(), None);
    let lacking = with_config("bytes", json!({"pad_token": "[PAD]"})).unwrap();
    assert_eq!(lacking.pad(), lacking.eos());
    assert!(
        lacking
            .note()
            .unwrap()
            .contains("`[PAD]`, but tokenizer.json lacks it")
    );
    let outside = json!({"tokenizer.json": {"added_tokens": [
        {"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        {"id": 1, "content": "<|im_start|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        {"id": 2, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        {"id": 270, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]},
        "tokenizer_config.json": {"pad_token": "[PAD]"}});
    let copy = changed("bytes", outside);
    let outside = Tokenizer::from_folder(copy.path(), 270).unwrap();
    assert_eq!(outside.pad(), outside.eos());
    let note = outside.note().unwrap();
    assert!(
        note.contains("its id 270 is outside the model's vocabulary of 270"),
        "{note}"
    );
}

#[test]
fn special_tokens_may_be_named_by_their_map_alone() {
    let copy = changed(
        "bytes",
        json!({"tokenizer_config.json": {"eos_token": null}}),
    );
    let map = json!({"eos_token": {"content": "<|endoftext|>"}, "bos_token": "<|im_start|>"});
    fs::write(copy.path().join("special_tokens_map.json"), map.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(copy.path(), 1000).unwrap();
    assert_eq!(tokenizer.eos(), 0);
}

#[test]
fn bos_is_added_once_or_not_at_all() {
    let pieces = tokenizer("pieces");
    let ids = pieces.encode_start("Paris").unwrap();
    assert_eq!(tokens(&pieces, &ids), ["<s>", "▁Paris"]);
    let unsaid = with_config(
        "pieces",
        json!({"add_bos_token": null, "tokenizer_class": null}),
    );
    assert_eq!(unsaid.unwrap().encode_start("Paris").unwrap(), ids);
    let off = with_config("pieces", json!({"add_bos_token": false})).unwrap();
    assert_eq!(off.encode_start("Paris").unwrap(), ids[1..]);
    assert_eq!(tokenizer("bytes").bos(), None);
    let on = with_config("bytes", json!({"add_bos_token": true})).unwrap();
    assert_eq!((on.bos(), on.encode_start("").unwrap()), (Some(1), vec![1]));
    let nothing = with_config("bytes", json!({"add_bos_token": true, "bos_token": null}));
    assert!(nothing.unwrap_err().to_string().contains("`add_bos_token`"));
}

#[test]
fn class_default_adds_bos_without_a_post_processor() {
    let changes = json!({
        "tokenizer.json": {"post_processor": null},
        "tokenizer_config.json": {"add_bos_token": null},
    });
    let copy = changed("pieces", changes);
    assert_eq!(
        Tokenizer::from_folder(copy.path(), 1000).unwrap().bos(),
        Some(1)
    );
}

#[test]
fn continuations_have_no_prefix_space() {
    let pieces = tokenizer("pieces");
    let spaced = pieces.encode_continuation(" Paris").unwrap();
    assert_eq!(tokens(&pieces, &spaced), ["▁Paris"]);
    let bare = pieces.encode_continuation("Paris").unwrap();
    assert_eq!(tokens(&pieces, &bare), ["Paris"]);
    for response in [" Paris", "Paris", "\n Paris"] {
        let mut ids = pieces.encode_start("Answer:").unwrap();
        ids.extend(pieces.encode_continuation(response).unwrap());
        assert_eq!(pieces.decode(&ids).unwrap(), format!("Answer:{response}"));
    }
    assert_eq!(pieces.decode_continuation(&spaced).unwrap(), " Paris");
    assert_eq!(pieces.decode(&spaced).unwrap(), "Paris");
    let bytes = tokenizer("bytes");
    let ids = bytes.encode_continuation(" Paris").unwrap();
    assert_eq!(tokens(&bytes, &ids), ["ĠParis"]);
}

#[test]
fn text_never_becomes_a_control_token() {
    for (name, text, id) in [("bytes", "a<|im_end|>b", 2), ("pieces", "a</s>b", 2)] {
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode_start(text).unwrap();
        assert!(!ids.contains(&id));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(tokenizer.decode(&[id]).unwrap(), "");
    }
}

#[test]
fn padding_falls_back_on_the_end_of_text() {
    assert_eq!(tokenizer("bytes").pad(), 0);
    assert_eq!(
        (tokenizer("pieces").pad(), tokenizer("pieces").eos()),
        (2, 2)
    );
}

#[test]
fn the_end_of_text_may_stand_in_other_files() {
    let none = json!({"tokenizer_config.json": null, "config.json": {"eos_token_id": null}});
    let copy = changed("pieces", none);
    let error = Tokenizer::from_folder(copy.path(), 1000).unwrap_err();
    assert!(matches!(error, DataError::NoEndOfText { .. }), "{error}");

    let listed = json!({
        "tokenizer_config.json": null,
        "generation_config.json": {"eos_token_id": [7, 2, 9]},
    });
    let copy = changed("pieces", listed);
    let tokenizer = Tokenizer::from_folder(copy.path(), 1000).unwrap();
    assert_eq!(
        (tokenizer.eos(), tokenizer.stop_tokens()),
        (2, &[2, 7, 9][..])
    );
    assert_eq!(
        tokenizer.bos(),
        Some(1),
        "the post-processor still asks for it"
    );
}

#[test]
fn tokenizer_settings_that_would_cut_or_fill_rows_are_ignored() {
    let changes = json!({"tokenizer.json": {
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0,
                       "direction": "Right"},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
    }});
    let copy = changed("pieces", changes);
    let tokenizer = Tokenizer::from_folder(copy.path(), 1000).unwrap();
    assert_eq!(tokenizer.encode_continuation("abcd").unwrap().len(), 4);
}

#[test]
fn refuses_tokens_that_do_not_exist_or_do_not_fit() {
    let error = with_config("bytes", json!({"eos_token": "<end>"}))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`eos_token`: expected a token of tokenizer.json"),
        "{error}"
    );
    assert!(error.contains("found `<end>`"), "{error}");
    let error = with_config("bytes", json!({"eos_token": 3}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("found the number 3"), "{error}");
    let small = Tokenizer::from_folder(folder("bytes"), 200).unwrap();
    let error = small.encode_start(" Paris").unwrap_err().to_string();
    assert!(
        error.contains("vocab_size of 200") && error.contains("ĠParis"),
        "{error}"
    );
    assert!(Tokenizer::from_folder(folder("bytes"), 2).is_err());
    assert!(matches!(
        Tokenizer::from_folder("/nowhere", 9),
        Err(DataError::Read { .. })
    ));
    let copy = changed(
        "bytes",
        json!({"tokenizer.json": {"model": {"type": "Magic"}}}),
    );
    assert!(matches!(
        Tokenizer::from_folder(copy.path(), 9),
        Err(DataError::Tokenizer { .. })
    ));
}

/// Files on which the tokenizers library panics, either when it reads them or on the first text.
#[test]
fn files_that_break_the_library_are_errors() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let normalizer = |part: Value| json!({ "normalizer": part });
    for part in [
        json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}),
        json!({"post_processor": {"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<none>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {}}}),
        normalizer(json!({"type": "Precompiled", "precompiled_charsmap": ""})),
        normalizer(json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="})),
        normalizer(json!({"type": "Replace", "pattern": {"String": ""}, "content": "a"})),
        normalizer(json!({"type": "Prepend", "prepend": ""})),
        json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]], "continuing_subword_prefix": "##é"},
            "pre_tokenizer": byte_level}),
    ] {
        let copy = changed("bytes", json!({ "tokenizer.json": part }));
        let tokens = Tokenizer::from_folder(copy.path(), 1000)
            .and_then(|tokenizer| tokenizer.encode_start("a text 日本"));
        // Not all of them fail, but none may panic.
        if let Err(error) = tokens {
            let error = error.to_string();
            assert!(error.contains("tokenizer.json: "), "{error}");
        }
    }
}

/// `SOFT_MODEL=path/to/model cargo test -p soft-data -- --ignored`, with any model folder.
#[test]
#[ignore = "needs a model folder"]
fn a_real_tokenizer_loads() {
    let folder = PathBuf::from(std::env::var("SOFT_MODEL").unwrap());
    let config: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let vocab = config["vocab_size"].as_u64().unwrap() as usize;
    let tokenizer = Tokenizer::from_folder(folder, vocab).unwrap();
    let prompt = crate::alpaca_prompt("Name a city.", "in France");
    let mut ids = tokenizer.encode_start(&prompt).unwrap();
    ids.extend(tokenizer.encode_continuation("Paris, of course.").unwrap());
    assert_eq!(
        tokenizer.decode(&ids).unwrap(),
        prompt + "Paris, of course."
    );
    let mut stream = TextStream::new(&tokenizer);
    let mut text = String::new();
    for &id in &ids {
        text += &stream.push(id).unwrap();
    }
    text += &stream.finish().unwrap();
    assert_eq!(text, tokenizer.decode(&ids).unwrap());
}

/// A folder with tokenizer.model only, and entries of tokenizer_config.json; null removes one.
fn sentencepiece(entries: &Value) -> Result<Tokenizer, DataError> {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder("sentencepiece")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, entry) in entries.as_object().unwrap() {
        config[key] = entry.clone();
    }
    fs::write(&path, config.to_string()).unwrap();
    Tokenizer::from_folder(copy.path(), 400)
}

fn ids_of(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// By SentencePiece, and by transformers for the class `LlamaTokenizer`.
#[test]
fn a_sentencepiece_model_needs_no_tokenizer_json() {
    let golden = fs::read_to_string(folder("sentencepiece").join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();

    let plain = sentencepiece(&json!({ "tokenizer_class": null })).unwrap();
    let pieces = ids_of(&golden["pieces"]);
    assert!(pieces.len() > 20);
    for (text, wanted) in texts.iter().zip(&pieces) {
        let found = plain.encode_start(text).unwrap();
        assert_eq!(found[0], 1);
        assert_eq!(&found[1..], wanted, "{text:?}");
        let decoded = plain.decode(&found).unwrap();
        // SentencePiece writes a space as ▁, so that texts with ▁ do not survive.
        assert!(
            decoded == *text || text.contains('▁'),
            "{text:?} {decoded:?}"
        );
    }

    for variant in golden["variants"].as_array().unwrap() {
        let tokenizer = sentencepiece(&variant["entries"]).unwrap();
        let tokenizer = tokenizer.with_control_text(ControlText::Tokens);
        for (text, mut wanted) in texts.iter().zip(ids_of(&variant["tokens"])) {
            if wanted.len() > 1 && wanted[1] == 1 {
                // Unlike transformers, no second begin-of-text token is added.
                wanted.remove(0);
            }
            let found = tokenizer.encode_start(text).unwrap();
            assert_eq!(found, wanted, "{text:?} with {}", variant["entries"]);
        }
    }
}

#[test]
fn other_sentencepiece_models_are_refused() {
    let copy = tempfile::tempdir().unwrap();
    let refused = |bytes: &[u8], part: &str| {
        fs::write(copy.path().join("tokenizer.model"), bytes).unwrap();
        let error = Tokenizer::from_folder(copy.path(), 400).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("tokenizer.model"), "{message}");
        assert!(message.contains(part), "{message}");
    };
    refused(b"{}", "no SentencePiece model");
    refused(b"", "0 pieces");
    // One piece of a unigram model: `pieces { piece: "a" }`.
    refused(b"\x0a\x03\x0a\x01a", "byte-pair encoding");
    let model = fs::read(folder("sentencepiece").join("tokenizer.model")).unwrap();
    refused(&model[..model.len() / 2], "no SentencePiece model");
    // `normalizer_spec { precompiled_charsmap: "x" }` replaces the field.
    let mapped = [&model[..], b"\x1a\x03\x12\x01x"].concat();
    refused(&mapped, "character map");
    // `trainer_spec { treat_whitespace_as_suffix: true }`.
    let suffixed = [&model[..], b"\x12\x03\xc0\x01\x01"].concat();
    refused(&suffixed, "beginning of words");
    let long = [&model[..], b"\x0a\xd3\x0f\x0a\xd0\x0f", &[b'a'; 2000]].concat();
    refused(&long, "a piece of 2000 bytes");
}

#[test]
fn added_tokens_follow_the_pieces_of_a_sentencepiece_model() {
    let copy = tempfile::tempdir().unwrap();
    let model = folder("sentencepiece").join("tokenizer.model");
    fs::copy(model, copy.path().join("tokenizer.model")).unwrap();
    let config = folder("sentencepiece").join("config.json");
    fs::copy(config, copy.path().join("config.json")).unwrap();
    for (tokens, part) in [
        (json!({ "<a>": 380, "<b>": 382 }), "expected 380..382"),
        (json!({ "<a>": 380, "<b>": 380 }), "two tokens of id 380"),
        (json!({ "<a>": "380" }), "an object of tokens and their ids"),
        (json!(["<a>"]), "an object of tokens and their ids"),
    ] {
        fs::write(copy.path().join("added_tokens.json"), tokens.to_string()).unwrap();
        let error = Tokenizer::from_folder(copy.path(), 400).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("added_tokens.json") && message.contains(part),
            "{message}"
        );
    }
    fs::write(
        copy.path().join("added_tokens.json"),
        r#"{"<a>": 380, "<s>": 1}"#,
    )
    .unwrap();
    let tokenizer = Tokenizer::from_folder(copy.path(), 400).unwrap();
    assert_eq!(tokenizer.token_id("<a>"), Some(380));
}
