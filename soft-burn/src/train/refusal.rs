//! The error for a refused setting.

use crate::error::Error;

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
