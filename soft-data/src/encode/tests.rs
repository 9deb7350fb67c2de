//! Rows encoded with the two toy tokenizers in `tests/tokenizers`.

use proptest::prelude::*;

use super::*;
use crate::{ControlText, Message, Role};

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
    let turns = vec![
        Message::new(Role::User, "a"),
        Message::new(Role::Assistant, "Paris"),
        Message::new(Role::User, "b"),
        Message::new(Role::Assistant, "<|im_end|>"),
        Message::new(Role::User, "left out"),
    ];
    let record = Record::chat(5, turns);
    let (example, report) = one(&record, &tokenizer, 999);
    let text = tokenizer.decode(example.tokens()).unwrap();
    assert_eq!(
        text,
        "user\na\nassistant\nParis\nuser\nb\nassistant\n<|im_end|>"
    );
    assert_eq!(learnt(&example, &tokenizer), "Paris<|im_end|>");
    assert_eq!(example.tokens().iter().filter(|&&id| id == 2).count(), 4);
    assert_eq!(example.tokens().last(), Some(&2), "without the line break");
    assert!(
        example
            .tokens()
            .starts_with(&encode_prompt(&record, &tokenizer).unwrap())
    );
    assert_eq!(report.control_text, [("<|im_end|>".to_owned(), 1)].into());
    assert_eq!(report.turn_ends, [2].into());
}

#[test]
fn turns_that_are_written_otherwise_once_past_are_examples_of_their_own() {
    let forgetful = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last %}{{ m.content }}{% else %}{{ m.content[:1] }}{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        let original = format!(
            "{}/tests/tokenizers/bytes/{file}",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::copy(original, folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("chat_template.jinja"), forgetful).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder, 400).unwrap();
    let turns = vec![
        Message::new(Role::User, "q"),
        Message::new(Role::Assistant, "first"),
        Message::new(Role::User, "r"),
        Message::new(Role::Assistant, "x"),
        Message::new(Role::User, "s"),
        Message::new(Role::Assistant, "third"),
    ];
    let record = Record::chat(1, turns);
    let (examples, report) = encode(std::slice::from_ref(&record), &tokenizer, 999).unwrap();
    let texts = examples.iter().map(|example| learnt(example, &tokenizer));
    // "x" renders the same in past turns, so it shares an example with "third".
    assert_eq!(texts.collect::<Vec<_>>(), ["first", "xthird"]);
    assert_eq!((report.rows, report.kept, report.examples), (1, 1, 2));
    assert!(
        report
            .to_string()
            .starts_with("1 of 1 rows in 2 examples, ")
    );
    let (by_record, _) = encode_by_record(std::slice::from_ref(&record), &tokenizer, 999).unwrap();
    assert_eq!(by_record, std::slice::from_ref(&examples));
    let prompt = encode_prompt(&record, &tokenizer).unwrap();
    assert!(examples[1].tokens().starts_with(&prompt));
}

#[test]
fn an_answer_follows_the_very_tokens_of_its_prompt() {
    // Encoded together, the line break of the answer would merge with that of the prompt.
    let tokenizer = tokenizer("bytes");
    let turns = vec![
        Message::new(Role::User, "a"),
        Message::new(Role::Assistant, "\nb"),
    ];
    let record = Record::chat(1, turns);
    let (example, _) = one(&record, &tokenizer, 99);
    let prompt = encode_prompt(&record, &tokenizer).unwrap();
    assert!(example.tokens().starts_with(&prompt));
    assert!(!example.supervised()[..prompt.len()].contains(&true));
    assert_eq!(learnt(&example, &tokenizer), "\nb");
}

fn with_template(name: &str, template: &str) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        let original = format!(
            "{}/tests/tokenizers/{name}/{file}",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::copy(original, folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Tokenizer::from_folder(&folder, 400).unwrap()
}

/// What is supervised of the answers `b` and `d`; the template renders each message as `turn`.
fn learnt_of(turn: &str) -> (String, EncodeReport) {
    let template = format!(
        "{{% for m in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant{{% endif %}}"
    );
    let tokenizer = with_template("bytes", &template);
    let turns = ["a", "b", "c", "d"]
        .into_iter()
        .zip([Role::User, Role::Assistant].repeat(2));
    let turns = turns.map(|(text, role)| Message::new(role, text));
    let (example, report) = one(&Record::chat(1, turns.collect::<Vec<_>>()), &tokenizer, 999);
    let ids = example.tokens().iter().zip(example.supervised());
    let ids = ids.filter(|(_, learnt)| **learnt).map(|(id, _)| match id {
        0 => "<eos>".to_owned(),
        1 => "<start>".to_owned(),
        2 => "<end>".to_owned(),
        &id => tokenizer.decode(&[id]).unwrap(),
    });
    (ids.collect(), report)
}

#[test]
fn what_tags_mark_is_learnt_and_the_token_that_ends_the_turn() {
    let marked = |before: &str, behind: &str| {
        let head = "<|im_start|>{{ m.role }}";
        let answer =
            format!("{{% generation %}}{before}{{{{ m.content }}}}{{% endgeneration %}}{behind}");
        learnt_of(&format!(
            "{head}{{% if m.role == 'assistant' %}}{answer}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
        ))
    };
    assert_eq!(marked("", "<|im_end|>").0, "b<end>d<end>");
    // White space before the token, as in LLaMA 2's template.
    assert_eq!(marked("", "{{ ' <|im_end|>' }}").0, "b <end>d <end>");
    // A control token inside the answer does not end it.
    let (learnt, report) = marked("<|im_start|>", "");
    assert_eq!(learnt, "<start>b<start><start>d<end>");
    assert!(report.turn_ends.is_empty());
}

/// A greeting before the first message of the user.
#[test]
fn what_is_said_unasked_is_given() {
    let tokenizer = tokenizer("bytes");
    for first in [None, Some(Message::new(Role::System, "s"))] {
        let mut turns = vec![
            Message::new(Role::Assistant, "hi"),
            Message::new(Role::User, "a"),
            Message::new(Role::Assistant, "b"),
        ];
        turns.splice(0..0, first);
        let (example, _) = one(&Record::chat(1, turns), &tokenizer, 99);
        assert_eq!(learnt(&example, &tokenizer), "b");
    }
}

#[test]
fn turns_without_a_control_token_end_in_the_end_of_text() {
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let tokenizer = with_template("pieces", plain);
    let turns = vec![
        Message::new(Role::User, "a"),
        Message::new(Role::Assistant, "b"),
    ];
    let (example, report) = one(&Record::chat(1, turns), &tokenizer, 99);
    assert_eq!(example.tokens().last(), Some(&tokenizer.eos()));
    assert_eq!(example.supervised().last(), Some(&true));
    assert!(report.turn_ends.is_empty());
}

#[test]
fn rendered_rows_are_counted_or_read_as_control_tokens() {
    let tokenizer = tokenizer("bytes");
    let prompt = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n";
    let record = Record::completion(1, prompt, "b<|im_end|>");
    let (example, report) = one(&record, &tokenizer, 999);
    let counted = [("<|im_end|>".to_owned(), 2), ("<|im_start|>".to_owned(), 2)];
    assert_eq!(report.control_text, counted.into());
    assert_eq!(example.tokens().iter().filter(|&&id| id == 2).count(), 1);

    let open = tokenizer.clone().with_control_text(ControlText::Tokens);
    let (example, report) = one(&record, &open, 999);
    assert!(report.control_text.is_empty());
    // The tokens equal those of the same conversation.
    let talk = vec![
        Message::new(Role::User, "a"),
        Message::new(Role::Assistant, "b"),
    ];
    let (chat, _) = one(&Record::chat(1, talk), &tokenizer, 999);
    assert_eq!(example, chat);
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
        examples: 3,
        truncated: 2,
        without_supervision: vec![3],
        empty_responses: vec![4],
        tokens: 7 + 7 + 2,
        supervised_tokens: 3 + 1 + 1,
        longest: 7,
        ..EncodeReport::default()
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
