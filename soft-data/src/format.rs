//! Data formats by name, for command lines and configurations.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{DataError, Record, read_alpaca, read_jsonl, read_trivia_qa};

/// Layout of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Stanford Alpaca; see [`read_alpaca`].
    Alpaca,
    /// TriviaQA without documents; see [`read_trivia_qa`].
    TriviaQa,
    /// JSON Lines; see [`read_jsonl`].
    Jsonl,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Alpaca, Self::TriviaQa, Self::Jsonl];

    /// The name, as parsed by [`FromStr`] and by serde.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpaca => "alpaca",
            Self::TriviaQa => "triviaqa",
            Self::Jsonl => "jsonl",
        }
    }

    /// Reads a file in this format.
    ///
    /// # Errors
    /// Those of the function that reads the format.
    pub fn read(self, path: impl AsRef<Path>) -> Result<Vec<Record>, DataError> {
        match self {
            Self::Alpaca => read_alpaca(path),
            Self::TriviaQa => read_trivia_qa(path),
            Self::Jsonl => read_jsonl(path),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| DataError::UnknownFormat {
            found: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_serde() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
        }
        assert!(
            "csv"
                .parse::<Format>()
                .unwrap_err()
                .to_string()
                .contains("`csv`")
        );
    }
}
