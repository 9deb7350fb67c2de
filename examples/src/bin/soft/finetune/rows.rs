//! Reads, encodes, splits and fingerprints the rows of a run.

use anyhow::Result;
use soft_burn::{CompanionFile, LlamaConfig, RunData};
use soft_core::Example;
use soft_data::{
    EncodeReport, Holdout, Loader, LoaderConfig, chat_files, encode_by_record, ordered_batches,
    split,
};
use soft_examples::evaluation::fingerprint_of;
use soft_examples::statusln;
use soft_examples::tokens::{note_default_template, warn_of_control_text};

use super::Args;

const DEFAULT_VALIDATION: usize = 128;

/// The encoded rows of a run.
pub struct Rows {
    pub data: RunData<Loader>,
    pub report: EncodeReport,
    /// Additional files of the trained model: the chat template, if it was trained on
    /// conversations.
    pub files: Vec<CompanionFile>,
}

impl Rows {
    /// Reads, encodes and splits the rows, and prints what was kept and cut.
    pub fn load(args: &Args, config: &LlamaConfig) -> Result<Self> {
        let records = args.rows.read()?;
        let tokenizer = args.tokens.open(&args.model, config.vocab)?;
        let max_len = args.rows.max_len.min(config.max_positions);
        let (examples, report) = encode_by_record(&records, &tokenizer, max_len)?;
        statusln!("{}: {report}", args.rows.data.display());
        warn_of_control_text(&report.control_text);
        let files = chat_files(&args.model, &tokenizer, &report)?;
        if !files.is_empty() {
            note_default_template(&tokenizer, &args.model);
            let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
            statusln!("note: saved with the trained model: {}", names.join(", "));
        }
        if !report.without_supervision.is_empty() {
            statusln!(
                "left out, since no supervised token is within --max-len: rows {}",
                first_few(&report.without_supervision)
            );
        }
        let validation = args
            .validation
            .unwrap_or_else(|| DEFAULT_VALIDATION.min(examples.len() / 10));
        // By record, so that the examples of a conversation stay together.
        let parts = split(examples, Holdout::Rows(validation), 0)?;
        let [train, validation] = [parts.train, parts.validation].map(|part| part.concat());
        let loader = LoaderConfig {
            batch_size: args.rows.batch,
            tokens_per_batch: args.pack,
            seed: args.seed,
            ..LoaderConfig::default()
        };
        let stream = Loader::new(train, loader)?;
        let validation = match validation.as_slice() {
            [] => Vec::new(),
            rows => ordered_batches(rows, args.rows.batch)?,
        };
        let files = files.into_iter().map(|(name, text)| CompanionFile {
            name: name.to_owned(),
            text,
        });
        Ok(Self {
            data: RunData { stream, validation },
            report,
            files: files.collect(),
        })
    }
}

/// Fingerprint of the tokens of a run, which depends on tokenizer, template and split.
pub fn fingerprint_of_examples(examples: &[Example]) -> String {
    let numbers = examples.iter().flat_map(|example| {
        let marked = example.tokens().iter().zip(example.supervised());
        let ends = [example.len() as u32];
        ends.into_iter()
            .chain(marked.map(|(token, supervised)| token * 2 + u32::from(*supervised)))
    });
    fingerprint_of(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<_>>())
}

fn first_few(rows: &[usize]) -> String {
    let shown: Vec<String> = rows.iter().take(10).map(usize::to_string).collect();
    let more = if rows.len() > 10 { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
