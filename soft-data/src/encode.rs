//! Records to training examples.
//!
//! Knows the row limit and counts what it costs; knows neither files nor batches. The limit is
//! applied as in Stanford's `train.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use soft_core::Example;

use crate::{Body, DataError, Record, Tokenizer};

mod row;

use row::EncodedRow;

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeReport {
    /// Records that came in.
    pub rows: usize,
    /// Records of which something is learned.
    pub kept: usize,
    /// Examples that came out.
    pub examples: usize,
    /// Records that were longer than the limit, whether kept or not.
    pub truncated: usize,
    /// Rows ([`Record::row`]) left out because nothing to learn is within the limit; of a
    /// conversation in several examples, if only one of them is.
    pub without_supervision: Vec<usize>,
    /// Rows kept whose response is empty: they teach to end at once.
    pub empty_responses: Vec<usize>,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Of these, tokens that are learned.
    pub supervised_tokens: usize,
    /// Tokens of the longest example.
    pub longest: usize,
    /// How often the texts spell each control token that was encoded as characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub control_text: BTreeMap<String, usize>,
    /// Records that are conversations.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub conversations: usize,
    /// Tokens that end the assistant's turns in conversations.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub turn_ends: BTreeSet<u32>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl fmt::Display for EncodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} rows{}, {} of {} tokens supervised, longest row {}; {} truncated, {} left out \
             without supervision, {} with an empty response",
            self.kept,
            self.rows,
            if self.examples == self.kept {
                String::new()
            } else {
                format!(" in {} examples", self.examples)
            },
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
/// Every row ends in the end-of-text token, which is learned with the response. Rows longer than
/// `max_len` keep their left part: the end of the response goes first, and with it the
/// end-of-text token. A row whose prompt alone fills the limit has nothing left to learn; it is
/// left out and named in the report.
///
/// Conversations are rendered by the tokenizer's [chat template](crate::ChatTemplate), and every
/// answer follows the very tokens that [`encode_chat`](Tokenizer::encode_chat) would prompt the
/// model with. The assistant's answers are learned, each with the control token that ends its turn;
/// where the template writes none, with the end-of-text token. Turns after the assistant's last
/// teach nothing and are left out. Where the template writes an earlier turn otherwise once it is
/// past (as those do that leave out old thoughts), that turn becomes an example of its own.
///
/// # Errors
/// When `max_len` is below 2, a template refuses a conversation or prompts for an answer with
/// another text than the answer follows in its rendering, the tokenizer fails, or nothing at all is
/// left to learn.
pub fn encode(
    records: &[Record],
    tokenizer: &Tokenizer,
    max_len: usize,
) -> Result<(Vec<Example>, EncodeReport), DataError> {
    let (examples, report) = encode_by_record(records, tokenizer, max_len)?;
    Ok((examples.into_iter().flatten().collect(), report))
}

/// The same with the examples of each record together, for those who [`split`](crate::split) them:
/// one conversation must not be on both sides. Records that are left out have no entry.
///
/// # Errors
/// As for [`encode`].
pub fn encode_by_record(
    records: &[Record],
    tokenizer: &Tokenizer,
    max_len: usize,
) -> Result<(Vec<Vec<Example>>, EncodeReport), DataError> {
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
    for record in records {
        report.conversations += usize::from(matches!(record.body, Body::Chat(_)));
        record.for_texts(&mut |text| tokenizer.count_control_text(text, &mut report.control_text));
    }
    // All cores, but results in the order of the records: the first bad row is the one reported.
    let encoded: Vec<_> = records
        .par_iter()
        .map(|record| EncodedRow::all_of(record, tokenizer))
        .collect();
    let mut kept = Vec::with_capacity(records.len());
    for (record, rows) in records.iter().zip(encoded) {
        let examples = report.limited(record, rows?, max_len)?;
        if !examples.is_empty() {
            kept.push(examples);
        }
    }
    report.kept = kept.len();
    if kept.is_empty() {
        Err(DataError::NoExamples)
    } else {
        Ok((kept, report))
    }
}

impl EncodeReport {
    /// The examples of a record within the limit, which are counted.
    fn limited(
        &mut self,
        record: &Record,
        rows: Vec<EncodedRow>,
        max_len: usize,
    ) -> Result<Vec<Example>, DataError> {
        let whole = rows.len();
        self.truncated += usize::from(rows.iter().any(|row| row.tokens.len() > max_len));
        let mut examples = Vec::new();
        for mut row in rows {
            self.turn_ends.extend(row.turn_end);
            row.tokens.truncate(max_len);
            row.supervised.truncate(max_len);
            let example = Example::new(row.tokens, row.supervised)?;
            if example.supervised_tokens() > 0 {
                self.tokens += example.len();
                self.supervised_tokens += example.supervised_tokens();
                self.longest = self.longest.max(example.len());
                examples.push(example);
            }
        }
        self.examples += examples.len();
        if examples.is_empty() || examples.len() < whole {
            self.without_supervision.push(record.row);
        } else if record.response_is_empty() {
            self.empty_responses.push(record.row);
        }
        Ok(examples)
    }
}

/// The tokens that a model is prompted with: those of `record` before its last response.
///
/// The training example of the same record (of a conversation in several, the last) begins with
/// exactly these.
///
/// # Errors
/// As for [`encode`].
pub fn encode_prompt(record: &Record, tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
    let prompt = record.prompt().encode(tokenizer);
    prompt.map_err(|cause| cause.in_row(record.row))
}

#[cfg(test)]
mod tests;
