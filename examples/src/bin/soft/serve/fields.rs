//! Reading the fields of a request: known names, types, ranges.

use serde::Deserialize;
use serde_json::Value;

use super::refusal::Refusal;

/// Fields that both kinds may have and that change nothing.
const IGNORED: [&str; 8] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "reasoning_effort",
];

const COMMON: [&str; 23] = [
    "model",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "mode",
    "exits",
    "policy",
    "thresholds",
    "draft_length",
    "max_ms_per_token",
    "logprobs",
];

/// A JSON object whose fields are known.
pub fn object(body: &[u8], own: &[&str]) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = &value else {
        return Err(Refusal::bad_request("the body is not a JSON object"));
    };
    let known =
        |name: &str| COMMON.contains(&name) || own.contains(&name) || IGNORED.contains(&name);
    let mut given = fields.iter().filter(|(_, value)| !value.is_null());
    match given.find(|(name, _)| !known(name)) {
        Some((name, _)) => Err(Refusal::bad_request(format!("unknown field {name:?}"))),
        None => Ok(value),
    }
}

pub fn typed<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| Refusal::bad_request(error.to_string()))
}

pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    param: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, Refusal> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error: T::Err| Refusal::invalid(param, error.to_string()))
}

pub fn within(
    param: &'static str,
    found: usize,
    range: std::ops::RangeInclusive<usize>,
    what: &str,
) -> Result<(), Refusal> {
    if range.contains(&found) {
        return Ok(());
    }
    let (from, to) = (range.start(), range.end());
    Err(Refusal::invalid(
        param,
        format!("{param}: {found} {what}: expected {from} to {to}"),
    ))
}
