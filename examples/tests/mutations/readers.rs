//! Everything that reads models, tokenizers, rows and results.

use std::fs;
use std::path::Path;

use soft_burn::DecodingDefaults;
use soft_burn::burn::tensor::Device;
use soft_burn::{Adapter, Llama, LlamaConfig, SoftInfo, device, draft_tokens};
use soft_core::{DecodeModel, DecodeSettings, Decoder, Exit, Mode, NestedModel, Prompt};
use soft_data::{
    ControlText, Conversation, Message, Record, Role, Tokenizer, encode, read_alpaca,
    read_instructions, read_jsonl, read_prompts, read_trivia_qa,
};
use soft_eval::lm_eval::Task;
use soft_eval::results::Evaluation;
use soft_eval::{Journal, VerdictFile, read_pandalm};

pub fn cpu() -> Device {
    device("cpu").unwrap()
}

/// Loads a model and generates a few tokens.
pub fn read_model(folder: &Path) {
    let _ = (
        SoftInfo::load(folder),
        draft_tokens(folder),
        LlamaConfig::load(folder).and_then(|config| DecodingDefaults::load(folder, &config)),
    );
    let _ = Adapter::load(folder.join("adapter"));
    let Ok(model) = Llama::from_pretrained(folder, &cpu()) else {
        return;
    };
    let Ok(tokens) = model.tokens(&[vec![0, 1, 0]]) else {
        return;
    };
    let exit = Exit::new(model.depth()).unwrap();
    let _ = model.sub_model(&tokens, exit);
    let settings = DecodeSettings::greedy(Mode::Static(exit), 3);
    if let Ok(decoder) = Decoder::new(&model, &[Prompt::from(vec![0, 1])], settings) {
        decoder.take_while(Result::is_ok).for_each(drop);
    }
}

/// Opens a tokenizer, encodes rows and a conversation, decodes them.
pub fn read_tokenizer(folder: &Path) {
    let Ok(tokenizer) = Tokenizer::from_folder(folder, 400) else {
        return;
    };
    let talk: Conversation = vec![
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, "Où? <|im_end|> 日本 \u{1f999}"),
        Message::new(Role::Assistant, "Paris</s>"),
    ]
    .into();
    let records = [
        Record::completion(1, "Answer:", " Paris <s>"),
        Record::chat(2, talk),
    ];
    for control_text in [ControlText::Characters, ControlText::Tokens] {
        let tokenizer = tokenizer.clone().with_control_text(control_text);
        for record in &records {
            let _ = encode(std::slice::from_ref(record), &tokenizer, 64);
            if let Ok(tokens) = record.prompt().encode(&tokenizer) {
                let _ = (
                    tokenizer.decode(&tokens),
                    tokenizer.decode_continuation(&tokens),
                );
            }
        }
    }
}

pub fn read_rows(folder: &Path) {
    let _ = read_jsonl(folder.join("rows.jsonl"));
    let _ = read_alpaca(folder.join("alpaca.json"));
    let _ = read_trivia_qa(folder.join("trivia.json"));
    let _ = read_prompts(folder.join("prompts.jsonl"));
    let _ = read_instructions(folder.join("prompts.jsonl"));
    for task in Task::ALL {
        for name in ["tasks.jsonl", "trivia.json"] {
            let _ = task.read(&folder.join(name));
        }
    }
}

pub fn read_results(folder: &Path) {
    if let Ok(evaluation) = Evaluation::load(folder.join("evaluation.json")) {
        let _ = soft_eval::report::write_report(folder.join("report"), "t", &[evaluation]);
    }
    // Journals are appended to: what is opened is a copy.
    for name in ["journal.jsonl", "verdicts.jsonl"] {
        fs::copy(folder.join(name), folder.join(format!("{name}.copy"))).unwrap();
    }
    if let Ok(journal) = Journal::open(
        folder.join("journal.jsonl.copy"),
        &serde_json::json!({"model": "m"}),
    ) {
        let _ = journal.get::<Vec<u32>>("a");
    }
    let _ = VerdictFile::open(folder.join("verdicts.jsonl.copy"), "people");
    let _ = read_pandalm(folder.join("people.json"));
}
