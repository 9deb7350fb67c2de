//! Streams with the two toy tokenizers and variants with other decoders.

use std::fs;
use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn folder(name: &str) -> String {
    format!("{}/tests/tokenizers/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn with_decoder(decoder: &Value) -> Tokenizer {
    let copy = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        let text = fs::read_to_string(format!("{}/{file}", folder("pieces"))).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        if file == "tokenizer.json" {
            value["decoder"] = decoder.clone();
        }
        fs::write(copy.path().join(file), value.to_string()).unwrap();
    }
    Tokenizer::from_folder(copy.path(), 1000).unwrap()
}

/// The toy tokenizers and one for each other kind of [`Joints`] and of leading strip.
fn tokenizers() -> &'static [Tokenizer] {
    static TOKENIZERS: OnceLock<Vec<Tokenizer>> = OnceLock::new();
    TOKENIZERS.get_or_init(|| {
        let toy = |name| Tokenizer::from_folder(folder(name), 1000).unwrap();
        let fallback = json!({"type": "ByteFallback"});
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                               "split": false});
        let strip = json!({"type": "Strip", "content": " ", "start": 2, "stop": 0});
        let sequence = |parts: &[&Value]| json!({"type": "Sequence", "decoders": parts});
        let fuse = json!({"type": "Fuse"});
        let others = [
            json!(null),
            metaspace.clone(),
            sequence(&[&fallback, &metaspace, &fuse, &strip]),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        ];
        let mut all = vec![toy("bytes"), toy("pieces")];
        all.extend(others.iter().map(with_decoder));
        all
    })
}

/// The text returned for each token and at the end.
fn streamed(mut stream: TextStream, tokens: &[u32]) -> Vec<String> {
    let mut texts: Vec<_> = tokens
        .iter()
        .map(|&token| stream.push(token).unwrap())
        .collect();
    texts.push(stream.finish().unwrap());
    texts
}

fn checked(tokenizer: &Tokenizer, tokens: &[u32], prompt: usize) {
    let all = tokenizer.decode(tokens).unwrap();
    let texts = streamed(TextStream::new(tokenizer), tokens);
    assert_eq!(texts.concat(), all, "{tokens:?}");

    let (prompt, answer) = tokens.split_at(prompt);
    let texts = streamed(TextStream::after(tokenizer, prompt).unwrap(), answer);
    if let Some(rest) = all.strip_prefix(&tokenizer.decode(prompt).unwrap()) {
        assert_eq!(texts.concat(), rest, "{prompt:?} {answer:?}");
    }
}

#[test]
fn the_space_of_an_answer_depends_on_the_prompt() {
    let pieces = &tokenizers()[1];
    let answer = pieces.encode_continuation(" Paris").unwrap();
    assert_eq!(streamed(TextStream::new(pieces), &answer)[0], "Paris");
    let prompt = pieces.encode_start("Answer:").unwrap();
    let after = TextStream::after(pieces, &prompt).unwrap();
    assert_eq!(streamed(after, &answer)[0], " Paris");
    assert_eq!(pieces.decode_continuation(&answer).unwrap(), " Paris");
    let after = TextStream::after(pieces, &[1]).unwrap();
    assert_eq!(
        streamed(after, &answer)[0],
        "Paris",
        "<s> alone is no text to continue"
    );
}

#[test]
fn characters_come_whole() {
    let bytes = &tokenizers()[0];
    let tokens = bytes.encode_start("é🦙!").unwrap();
    let texts = streamed(TextStream::new(bytes), &tokens);
    assert_eq!(texts, ["", "é", "", "", "", "🦙", "!", ""]);
    let texts = streamed(TextStream::new(bytes), &tokens[..3]);
    assert_eq!(texts, ["", "é", "", "\u{FFFD}"]);
    let texts = streamed(
        TextStream::after(bytes, &tokens[..1]).unwrap(),
        &tokens[1..2],
    );
    assert_eq!(texts, ["é", ""], "a character that the prompt began");
}

#[test]
fn runs_of_byte_tokens_wait_for_their_end() {
    let pieces = &tokenizers()[1];
    let tokens = pieces.encode_continuation("é🦙!").unwrap();
    let texts = streamed(TextStream::new(pieces), &tokens);
    assert_eq!(texts, ["", "", "", "", "", "", "é🦙!", ""]);
    let texts = streamed(TextStream::new(pieces), &tokens[..5]);
    assert_eq!(texts.concat(), "\u{FFFD}".repeat(5));
}

#[test]
fn little_is_held_back_however_long_and_broken_the_text() {
    for tokenizer in &tokenizers()[..2] {
        let name = if tokenizer.joints() == Joints::Bytes {
            "Ģ"
        } else {
            "a"
        };
        let token = tokenizer.token_id(name).unwrap();
        let mut stream = TextStream::new(tokenizer);
        for _ in 0..10_000 {
            stream.push(token).unwrap();
            assert!(stream.bytes.len() + stream.tokens.len() < 4);
        }
    }
}

#[test]
fn unknown_decoders_give_their_text_at_the_end() {
    let wordpiece = tokenizers().last().unwrap();
    let tokens = wordpiece.encode_start("Paris!").unwrap();
    let texts = streamed(TextStream::new(wordpiece), &tokens);
    assert!(texts[..texts.len() - 1].concat().is_empty());
    assert_eq!(texts.concat(), wordpiece.decode(&tokens).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_tokens_give_the_text_of_decode(
        tokens in prop::collection::vec(0_u32..400, 0..40),
        prompt in any::<prop::sample::Index>(),
    ) {
        for tokenizer in tokenizers() {
            checked(tokenizer, &tokens, prompt.index(tokens.len() + 1));
        }
    }

    /// Few distinct tokens: spaces, bytes that form characters or malformed text, special tokens.
    #[test]
    fn hard_tokens_give_the_text_of_decode(
        picks in prop::collection::vec(0_usize..10, 0..16),
        prompt in any::<prop::sample::Index>(),
    ) {
        let spellings = [
            ["Ġ", "Ã", "©", "Ċ", "ð", "Ł", "¦", "Ļ", "a", "<|im_end|>"],
            ["▁", "<0xC3>", "<0xA9>", "<0x20>", "<0xEF>", "<0xBF>", "<0xBD>", "▁▁", "a", "</s>"],
        ];
        for (index, tokenizer) in tokenizers().iter().enumerate() {
            let spellings = &spellings[index.min(1)];
            let token = |&pick: &usize| tokenizer.token_id(spellings[pick]).unwrap();
            let tokens: Vec<_> = picks.iter().map(token).collect();
            checked(tokenizer, &tokens, prompt.index(tokens.len() + 1));
        }
    }

    #[test]
    fn real_text_is_never_broken(text in "\\PC{0,30}", prompt in any::<prop::sample::Index>()) {
        prop_assume!(!text.contains('\u{FFFD}'));
        for tokenizer in &tokenizers()[..2] {
            let tokens = tokenizer.encode_start(&text).unwrap();
            let texts = streamed(TextStream::new(tokenizer), &tokens);
            prop_assert_eq!(texts.concat().find('\u{FFFD}'), None);
            checked(tokenizer, &tokens, prompt.index(tokens.len() + 1));
        }
    }
}
