//! The template function `strftime_now`, in UTC.

use std::fmt::Write;

use chrono::{NaiveDateTime, Utc};
use minijinja::{Error, ErrorKind};

/// The current time in a format of C's `strftime`.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(Utc::now().naive_utc(), format)
}

/// Unknown directives are errors.
fn strftime(time: NaiveDateTime, format: &str) -> Result<String, Error> {
    let mut text = String::new();
    write!(text, "{}", time.format(format)).map_err(|_| {
        let cause = format!(
            "strftime_now: expected a format of dates and times without a zone, found `{format}`"
        );
        Error::new(ErrorKind::InvalidOperation, cause)
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn agrees_with_python() {
        let at = |seconds, format| {
            let time: DateTime<Utc> = DateTime::from_timestamp(seconds, 0).unwrap();
            strftime(time.naive_utc(), format).unwrap()
        };
        let all = "%A %a %d %B %b %m %Y %y %H %I %p %M %S %%";
        let expected = "Thursday Thu 01 January Jan 01 1970 70 00 12 AM 00 00 %";
        assert_eq!(at(0, all), expected);
        let expected = "Thursday Thu 29 February Feb 02 2024 24 13 01 PM 05 09 %";
        assert_eq!(at(1_709_211_909, all), expected);
        assert_eq!(at(4_107_542_399, "%d %b %Y"), "28 Feb 2100");
        assert_eq!(at(4_107_542_400, "%-d %b %Y"), "1 Mar 2100");
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for format in ["%d %Z", "%", "%Q"] {
            let error = strftime_now(format).unwrap_err().to_string();
            assert!(error.contains(&format!("found `{format}`")), "{error}");
        }
        assert_eq!(strftime_now("%Y").unwrap().len(), 4);
    }
}
