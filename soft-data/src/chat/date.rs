//! The date that some chat templates write into their system message.
//!
//! Knows the calendar and the clock, in UTC; knows no time zones.
//!
//! Source: Python's `strftime` in the C locale.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The present time in `format`: the template function of this name.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    strftime(seconds, format)
}

/// `seconds` since 1970 in `format`. A directive that is not known is an error, not left out.
fn strftime(seconds: u64, format: &str) -> Result<String, Error> {
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let weekday = DAYS[(days % 7) as usize];
    let month_name = MONTHS[month - 1];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let hour_of_12 = (hour + 11) % 12 + 1;
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let directive = characters.next();
        text += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('d') => format!("{day:02}"),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour_of_12:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('%') => "%".to_owned(),
            _ => return Err(unknown(format)),
        };
    }
    Ok(text)
}

fn unknown(format: &str) -> Error {
    let expected = "a format of %Y %y %m %B %b %d %A %a %H %I %p %M %S %%";
    let cause = format!("strftime_now: expected {expected}, found `{format}`");
    Error::new(ErrorKind::InvalidOperation, cause)
}

/// Year, month from 1 and day from 1 of the day that is `days` after 1970-01-01.
fn date(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    while days >= 365 + leap_day(year) {
        days -= 365 + leap_day(year);
        year += 1;
    }
    let february = 28 + leap_day(year);
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn leap_day(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    u64::from(leap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_python() {
        let all = "%A %a %d %B %b %m %Y %y %H %I %p %M %S %%";
        let expected = "Thursday Thu 01 January Jan 01 1970 70 00 12 AM 00 00 %";
        assert_eq!(strftime(0, all).unwrap(), expected);
        let expected = "Thursday Thu 29 February Feb 02 2024 24 13 01 PM 05 09 %";
        assert_eq!(strftime(1_709_211_909, all).unwrap(), expected);
        assert_eq!(strftime(4_107_542_399, "%d %b %Y").unwrap(), "28 Feb 2100");
        assert_eq!(strftime(4_107_542_400, "%d %b %Y").unwrap(), "01 Mar 2100");
    }

    #[test]
    fn days_follow_one_another() {
        let mut last = date(0);
        for day in 1..60_000 {
            let next = date(day);
            let same_month = next.0 == last.0 && next.1 == last.1 && next.2 == last.2 + 1;
            let new_month = (last.2 >= 28 && next.2 == 1) && (next.0, next.1) > (last.0, last.1);
            assert!(same_month || new_month, "{last:?} {next:?}");
            last = next;
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let error = strftime(0, "%d %Z").unwrap_err().to_string();
        assert!(error.contains("found `%d %Z`"), "{error}");
        assert!(strftime(0, "%").is_err());
        assert_eq!(strftime_now("%Y").unwrap().len(), 4);
    }
}
