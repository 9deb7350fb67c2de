//! Keys of `rope_scaling` and `rope_parameters` in config.json.

use serde_json::Value;

/// A key with an unusable value.
pub(crate) struct RopeProblem {
    pub key: &'static str,
    pub found: String,
    pub expected: &'static str,
}

/// The number at `key`, which must be positive.
pub(crate) fn positive(rope: &Value, key: &'static str) -> Result<f64, RopeProblem> {
    let value = rope
        .get(key)
        .and_then(Value::as_f64)
        .filter(|value| *value > 0.0);
    value.ok_or_else(|| RopeProblem {
        key,
        found: rope.get(key).map_or("absent".into(), Value::to_string),
        expected: "a positive number",
    })
}
