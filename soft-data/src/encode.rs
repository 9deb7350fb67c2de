//! Records to training examples.
//!
//! Knows the row limit and counts what it costs; knows neither files nor batches. The limit is
//! applied as in Stanford's `train.py`.

use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use soft_core::Example;

use crate::segment::{Segment, segments};
use crate::{DataError, Record, Tokenizer};

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeReport {
    /// Records that came in.
    pub rows: usize,
    /// Examples that came out.
    pub kept: usize,
    /// Rows that were longer than the limit, whether kept or not.
    pub truncated: usize,
    /// Rows ([`Record::row`]) left out because nothing to learn is within the limit.
    pub without_supervision: Vec<usize>,
    /// Rows kept whose response is empty: they teach to end at once.
    pub empty_responses: Vec<usize>,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Of these, tokens that are learnt.
    pub supervised_tokens: usize,
    /// Tokens of the longest example.
    pub longest: usize,
}

impl fmt::Display for EncodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} rows, {} of {} tokens supervised, longest row {}; {} truncated, {} left out \
             without supervision, {} with an empty response",
            self.kept,
            self.rows,
            self.supervised_tokens,
            self.tokens,
            self.longest,
            self.truncated,
            self.without_supervision.len(),
            self.empty_responses.len(),
        )
    }
}

/// Encodes `records`, cutting rows behind `max_len` tokens.
///
/// Every row ends in the end-of-text token, which is learnt with the response. Rows longer than
/// `max_len` keep their left part: the end of the response goes first, and with it the
/// end-of-text token. A row whose prompt alone fills the limit has nothing left to learn; it is
/// left out and named in the report.
///
/// Conversations become ChatML, `<|im_start|>role\ncontent<|im_end|>` with line breaks between
/// turns. The assistant's contents, the `<|im_end|>` behind them and, where it is another token,
/// the end-of-text token are learnt. Turns after the assistant's last teach nothing and are left
/// out.
///
/// # Errors
/// When `max_len` is below 2, a conversation meets a tokenizer without ChatML's tokens, the
/// tokenizer fails, or nothing at all is left to learn.
pub fn encode(
    records: &[Record],
    tokenizer: &Tokenizer,
    max_len: usize,
) -> Result<(Vec<Example>, EncodeReport), DataError> {
    if max_len < 2 {
        let (setting, expected) = ("max_len", "at least 2 tokens");
        return Err(DataError::Setting {
            setting,
            expected,
            found: max_len.to_string(),
        });
    }
    let mut report = EncodeReport {
        rows: records.len(),
        ..EncodeReport::default()
    };
    let mut examples = Vec::with_capacity(records.len());
    // All cores, but results in the order of the records: the first bad row is the one reported.
    let row = |record| EncodedRow::new(&segments(record, tokenizer)?, tokenizer);
    let rows: Vec<_> = records.par_iter().map(row).collect();
    for (record, row) in records.iter().zip(rows) {
        let mut row = row?;
        report.truncated += usize::from(row.tokens.len() > max_len);
        row.tokens.truncate(max_len);
        row.supervised.truncate(max_len);
        let example = Example::new(row.tokens, row.supervised)?;
        if example.supervised_tokens() == 0 {
            report.without_supervision.push(record.row);
            continue;
        }
        if record.response_is_empty() {
            report.empty_responses.push(record.row);
        }
        report.tokens += example.len();
        report.supervised_tokens += example.supervised_tokens();
        report.longest = report.longest.max(example.len());
        examples.push(example);
    }
    report.kept = examples.len();
    if examples.is_empty() {
        return Err(DataError::NoExamples);
    }
    Ok((examples, report))
}

/// The tokens that a model is prompted with: those of `record` before its last response.
///
/// The training example of the same record begins with exactly these.
///
/// # Errors
/// As for [`encode`].
pub fn encode_prompt(record: &Record, tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
    let mut segments = segments(record, tokenizer)?;
    let response = segments
        .iter()
        .rposition(|segment| matches!(segment, Segment::Learnt(_)));
    segments.truncate(response.unwrap_or(segments.len()));
    Ok(EncodedRow::new(&segments, tokenizer)?.tokens)
}

struct EncodedRow {
    tokens: Vec<u32>,
    supervised: Vec<bool>,
}

impl EncodedRow {
    fn new(segments: &[Segment], tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let mut row = Self {
            tokens: Vec::new(),
            supervised: Vec::new(),
        };
        // A conversation that opens with the begin-of-text token needs no second one.
        if let Some(bos) = tokenizer.bos()
            && segments.first() != Some(&Segment::GivenToken(bos))
        {
            row.push(&[bos], false);
        }
        let mut started = false;
        for segment in segments {
            match segment {
                Segment::GivenToken(token) | Segment::LearntToken(token) => {
                    tokenizer.check(*token)?;
                    row.push(&[*token], matches!(segment, Segment::LearntToken(_)));
                    started = true;
                }
                Segment::Given(text) | Segment::Learnt(text) if !text.is_empty() => {
                    let tokens = if started {
                        tokenizer.encode_continuation(text)?
                    } else {
                        tokenizer.encode_opening(text)?
                    };
                    row.push(&tokens, matches!(segment, Segment::Learnt(_)));
                    started = true;
                }
                Segment::Given(_) | Segment::Learnt(_) => {}
            }
        }
        // No position predicts the first token, even where it is a response's.
        if let Some(first) = row.supervised.first_mut() {
            *first = false;
        }
        Ok(row)
    }

    fn push(&mut self, tokens: &[u32], supervised: bool) {
        self.tokens.extend_from_slice(tokens);
        self.supervised.resize(self.tokens.len(), supervised);
    }
}

#[cfg(test)]
mod tests;
