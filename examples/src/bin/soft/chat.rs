//! `soft chat`: a conversation in the terminal.
//!
//! Each turn renders the whole conversation with the chat template, as in training, and decodes
//! with a new KV cache. The cost of a turn grows with the conversation.

use std::io::{BufRead, IsTerminal};

use anyhow::{Result, ensure};
use soft_core::Prompt;
use soft_data::{Conversation, Message, PromptBody, Role};
use soft_examples::tokens::{note_default_template, warn_of_control_text};

use crate::answers::{AnswerArgs, Answers, Show, print};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// System message at the beginning of every conversation
    #[arg(long)]
    system: Option<String>,
    /// Seed of the first turn's sampler; each further turn adds one
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    answers: AnswerArgs,
}

pub fn run(args: Args) -> Result<()> {
    args.answers.decoding.refuse_unused()?;
    let model = args.answers.model.open()?;
    let tokenizer = &model.tokenizer;
    let context = model.model.config().max_positions;
    note_default_template(tokenizer, &model.folder);
    let mut answers = Answers::new(&model, &args.answers, Show::Stream)?;
    let system = args.system.map(|text| Message::new(Role::System, text));
    let start = Vec::from_iter(system);
    let mut messages = start.clone();
    while let Some(line) = next_line()? {
        match line.trim() {
            "" => continue,
            "/exit" => break,
            "/reset" => {
                messages.clone_from(&start);
                continue;
            }
            text => {
                warn_of_control_text(&tokenizer.control_text_of(&[PromptBody::Text(text.into())]));
                messages.push(Message::new(Role::User, text));
            }
        }
        let tokens = tokenizer.encode_chat(&Conversation::from(messages.clone()))?;
        ensure!(
            tokens.len() <= context,
            "the conversation has {} tokens: the model's context holds {context}",
            tokens.len()
        );
        let seed = args.seed.wrapping_add(answers.count as u64);
        for text in answers.answer(&[Prompt { tokens, seed }])? {
            messages.push(Message::new(Role::Assistant, text.trim()));
        }
    }
    if answers.count > 0 {
        answers.print_statistics();
    }
    Ok(())
}

/// The next line of standard input, with a prompt on a terminal. `None` at the end.
fn next_line() -> Result<Option<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        print("> ")?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line)?;
    Ok((read > 0).then_some(line))
}
