//! Encodes records as training examples.
//!
//! The length limit is applied as in Stanford's `train.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use soft_core::Example;

use crate::{Body, DataError, Record, Tokenizer};

mod row;

use row::EncodedRow;

/// Statistics of [`encode`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeReport {
    /// Input records.
    pub rows: usize,
    /// Records with at least one example.
    pub kept: usize,
    /// Output examples.
    pub examples: usize,
    /// Records longer than the limit, whether kept or not.
    pub truncated: usize,
    /// Rows ([`Record::row`]) left out in whole or in part: no supervised token within the limit.
    pub without_supervision: Vec<usize>,
    /// Rows kept with an empty response; they train the model to stop immediately.
    pub empty_responses: Vec<usize>,
    /// Tokens in all examples.
    pub tokens: usize,
    /// Supervised tokens in all examples.
    pub supervised_tokens: usize,
    /// Length of the longest example, in tokens.
    pub longest: usize,
    /// For each control token in text that was encoded as characters, its number of occurrences.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub control_text: BTreeMap<String, usize>,
    /// Records that are conversations.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub conversations: usize,
    /// Control tokens that end the assistant's turns in conversations.
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

/// Encodes `records`, truncated to `max_len` tokens.
///
/// A completion is followed by the end-of-text token, unless its response already ends in a stop
/// token. This token is supervised as well. Truncation removes tokens from the end: the end-of-text
/// token and the end of the response first. A row whose prompt fills the limit has nothing to
/// learn; it is left out and listed in the report.
///
/// Conversations are rendered by the tokenizer's [chat template](crate::ChatTemplate). Each answer
/// follows exactly the tokens that [`encode_chat`](Tokenizer::encode_chat) gives as its prompt. The
/// assistant's answers are supervised, each with the control token that ends its turn, or with the
/// end-of-text token if the template writes none. Turns after the last answer are left out. If the
/// template renders an earlier turn differently once others follow (such as templates that remove
/// earlier reasoning), that turn becomes a separate example.
///
/// # Errors
/// When `max_len` is below 2, a template rejects a conversation, the prompt for an answer is not a
/// prefix of the rendered conversation, the tokenizer fails, or no supervised tokens remain.
pub fn encode(
    records: &[Record],
    tokenizer: &Tokenizer,
    max_len: usize,
) -> Result<(Vec<Example>, EncodeReport), DataError> {
    let (examples, report) = encode_by_record(records, tokenizer, max_len)?;
    Ok((examples.into_iter().flatten().collect(), report))
}

/// Like [`encode`], with the examples grouped by record, so that [`split`](crate::split) keeps a
/// conversation on one side. Records without examples have no group.
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
    // Encoded in parallel, but in order: the error reported is that of the first bad row.
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
    /// Truncates the rows of a record and adds them to the counts.
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

/// The tokens of `record` before its last response. Its last training example begins with exactly
/// these tokens.
///
/// # Errors
/// When a template rejects the conversation, or the tokenizer fails.
pub fn encode_prompt(record: &Record, tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
    let prompt = record.prompt().encode(tokenizer);
    prompt.map_err(|cause| cause.in_row(record.row))
}

#[cfg(test)]
mod tests;
