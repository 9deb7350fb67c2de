//! `soft draft-tokens`: stores the most frequent answer tokens with a model. Drafts then use a head
//! of these tokens only, which is cheaper than the full one.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use soft_burn::{LlamaConfig, draft_tokens, save_draft_tokens};
use soft_core::Example;
use soft_data::{Format, frequent_tokens};
use soft_examples::calibration::forget_draft_rules;
use soft_examples::outln;
use soft_examples::tokens::{TokenArgs, encode_rows};

/// Default number of tokens. Few suffice, since a shallow exit rarely predicts rare tokens
/// correctly.
const COUNT: usize = 2048;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model folder; draft_tokens.json is written into it
    #[arg(long)]
    model: PathBuf,
    /// File of rows to count in
    #[arg(long)]
    data: PathBuf,
    /// Layout of the rows: alpaca, triviaqa or jsonl
    #[arg(long)]
    format: Format,
    /// Tokens to keep
    #[arg(long, default_value_t = COUNT)]
    count: usize,
    #[command(flatten)]
    tokens: TokenArgs,
}

/// The draft tokens of a model trained on these rows; `None` if the vocabulary is so small that the
/// full head is cheap.
pub fn draft_tokens_of(examples: &[Example], vocab: usize) -> Option<Vec<u32>> {
    (vocab >= 4 * COUNT).then(|| frequent_tokens(examples, COUNT))
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.count > 0, "--count is 0: expected at least 1");
    let config = LlamaConfig::load(&args.model)?;
    let tokenizer = args.tokens.open(&args.model, config.vocab)?;
    let records = args.format.read(&args.data)?;
    let examples = encode_rows(&args.data, &records, &tokenizer, config.max_positions)?;
    let tokens = frequent_tokens(&examples, args.count);
    let kept: HashSet<_> = tokens.iter().collect();
    let supervised = examples.iter().flat_map(|example| {
        let marked = example.tokens().iter().zip(example.supervised());
        marked.filter(|(_, supervised)| **supervised)
    });
    let (mut all, mut covered) = (0u64, 0u64);
    for (token, _) in supervised {
        all += 1;
        covered += u64::from(kept.contains(token));
    }
    let removed = match draft_tokens(&args.model)? {
        Some(earlier) if earlier != tokens => forget_draft_rules(&args.model)?,
        _ => 0,
    };
    save_draft_tokens(&args.model, &tokens)?;
    outln!(
        "{} of {} tokens kept, which are {:.1} % of the {all} answer tokens counted",
        tokens.len(),
        config.vocab,
        100.0 * covered as f64 / all.max(1) as f64
    );
    if removed > 0 {
        outln!(
            "{removed} calibrated rules were for the earlier list and are removed: run `soft calibrate` \
             again"
        );
    }
    Ok(())
}
