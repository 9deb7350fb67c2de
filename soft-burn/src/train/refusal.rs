//! Refusing a setting.

use crate::error::Error;

/// A setting's refusal.
pub(crate) fn refuse<T>(
    key: &'static str,
    found: String,
    expected: &'static str,
) -> Result<T, Error> {
    Err(Error::Setting {
        key,
        found,
        expected,
    })
}
