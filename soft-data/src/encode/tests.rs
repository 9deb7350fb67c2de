//! Rows encoded with the two toy tokenizers of `tests/tokenizers`.

use proptest::prelude::*;

use super::*;
use crate::{Message, Role};

fn tokenizer(name: &str) -> Tokenizer {
    let folder = format!("{}/tests/tokenizers/{name}", env!("CARGO_MANIFEST_DIR"));
    Tokenizer::from_folder(folder, 400).unwrap()
}

fn one(record: &Record, tokenizer: &Tokenizer, max_len: usize) -> (Example, EncodeReport) {
    let (mut examples, report) = encode(std::slice::from_ref(record), tokenizer, max_len).unwrap();
    (examples.remove(0), report)
}

fn learnt(example: &Example, tokenizer: &Tokenizer) -> String {
    let marked = example.tokens().iter().zip(example.supervised());
    let marked: Vec<_> = marked
        .filter(|(_, marked)| **marked)
        .map(|(id, _)| *id)
        .collect();
    tokenizer.decode(&marked).unwrap()
}

#[test]
fn a_completion_learns_its_response_and_its_end() {
    for name in ["bytes", "pieces"] {
        let tokenizer = tokenizer(name);
        let record = Record::completion(1, "Answer:", " Paris");
        let (example, report) = one(&record, &tokenizer, 99);
        assert_eq!(example.tokens().last(), Some(&tokenizer.eos()));
        assert_eq!(
            example.supervised_tokens(),
            2,
            "one token for the word, one for the end"
        );
        assert_eq!(tokenizer.decode(example.tokens()).unwrap(), "Answer: Paris");
        assert_eq!(learnt(&example, &tokenizer).trim(), "Paris");
        assert_eq!((report.kept, report.truncated), (1, 0));
        assert_eq!(
            (report.tokens, report.longest),
            (example.len(), example.len())
        );
    }
}

#[test]
fn a_conversation_learns_every_answer() {
    let tokenizer = tokenizer("bytes");
    let message = |role, content: &str| Message {
        role,
        content: content.into(),
    };
    let turns = vec![
        message(Role::User, "a"),
        message(Role::Assistant, "Paris"),
        message(Role::User, "b"),
        message(Role::Assistant, "<|im_end|>"),
    ];
    let record = Record::chat(5, turns);
    let (example, _) = one(&record, &tokenizer, 999);
    let text = tokenizer.decode(example.tokens()).unwrap();
    assert_eq!(
        text,
        "user\na\nassistant\nParis\nuser\nb\nassistant\n<|im_end|>"
    );
    assert_eq!(learnt(&example, &tokenizer), "Paris<|im_end|>");
    assert_eq!(example.tokens().iter().filter(|&&id| id == 2).count(), 4);
    assert_eq!(example.tokens().last(), Some(&2));
    assert!(
        example
            .tokens()
            .starts_with(&encode_prompt(&record, &tokenizer).unwrap())
    );
    let error = encode(&[record], &self::tokenizer("pieces"), 99)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("row 5 is a conversation"), "{error}");
}

#[test]
fn cut_rows_are_counted_and_lost_rows_named() {
    let tokenizer = tokenizer("bytes");
    let records = [
        Record::completion(1, "pppp", "rr"),
        Record::completion(2, "pppppp", "r"),
        Record::completion(3, "pppppppp", "rr"),
        Record::completion(4, "p", ""),
    ];
    let (examples, report) = encode(&records, &tokenizer, 7).unwrap();
    let expected = EncodeReport {
        rows: 4,
        kept: 3,
        truncated: 2,
        without_supervision: vec![3],
        empty_responses: vec![4],
        tokens: 7 + 7 + 2,
        supervised_tokens: 3 + 1 + 1,
        longest: 7,
    };
    assert_eq!(report, expected);
    assert_eq!(examples[0].tokens().last(), Some(&tokenizer.eos()));
    assert_ne!(
        examples[1].tokens().last(),
        Some(&tokenizer.eos()),
        "cut on the right"
    );
    let summary = "3 of 4 rows, 5 of 16 tokens supervised, longest row 7; 2 truncated, \
                   1 left out without supervision, 1 with an empty response";
    assert_eq!(report.to_string(), summary);
}

#[test]
fn refuses_limits_that_leave_nothing() {
    let tokenizer = tokenizer("bytes");
    let records = [Record::completion(1, "pppp", "r")];
    assert!(matches!(
        encode(&records, &tokenizer, 4),
        Err(DataError::NoExamples)
    ));
    assert!(matches!(
        encode(&records, &tokenizer, 1),
        Err(DataError::Setting { .. })
    ));
    assert!(matches!(
        encode(&[], &tokenizer, 4),
        Err(DataError::NoExamples)
    ));
}

#[test]
fn an_empty_prompt_leaves_the_first_token_out() {
    let (example, _) = one(&Record::completion(1, "", "abc"), &tokenizer("bytes"), 9);
    assert_eq!(example.supervised(), [false, true, true, true]);
}

proptest! {
    #[test]
    fn rows_begin_with_their_prompt(prompt in "\\PC{0,20}", response in "\\PC{1,20}", max in 2_usize..50) {
        for name in ["bytes", "pieces"] {
            let tokenizer = tokenizer(name);
            let record = Record::completion(1, prompt.clone(), response.clone());
            let mut given = encode_prompt(&record, &tokenizer).unwrap();
            let Ok((examples, _)) = encode(&[record], &tokenizer, max) else {
                prop_assert!(given.len() >= max);
                continue;
            };
            given.truncate(max);
            let example = &examples[0];
            prop_assert!(example.tokens().starts_with(&given));
            let marked = &example.supervised()[given.len().max(1)..];
            prop_assert!(marked.iter().all(|&marked| marked));
            prop_assert!(!example.supervised()[..given.len()].contains(&true));
        }
    }
}
