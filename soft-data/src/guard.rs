//! Turns panics of the tokenizers library, which occur on some files, into errors.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and returns the message of its panic as an error. The panic is not printed.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    done.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        said.unwrap_or("no reason given").to_owned()
    })
}

/// Whether a precompiled SentencePiece character map, in Base64, is shorter than the table length
/// in its header. The library allocates that length before it reads the table.
pub(crate) fn is_cut_off(charsmap: &str) -> bool {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    // Six Base64 digits cover the four bytes of the table length.
    let digits: Option<Vec<u8>> = charsmap.bytes().take(6).map(digit).collect();
    let Some(digits) = digits.filter(|digits| digits.len() == 6) else {
        return true;
    };
    let bits = digits
        .iter()
        .fold(0_u64, |bits, digit| bits << 6 | u64::from(*digit));
    let length = u32::swap_bytes((bits >> 4) as u32);
    u64::from(length) > charsmap.len() as u64 * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_their_messages() {
        assert_eq!(guarded(|| 3), Ok(3));
        let number = 7;
        let formatted: Result<(), _> = guarded(|| panic!("number {number}"));
        assert_eq!(formatted, Err("number 7".to_owned()));
        let nested = guarded(|| guarded(|| panic!("inner")).map(|(): ()| ()));
        assert_eq!(nested, Ok(Err("inner".to_owned())));
    }

    #[test]
    fn tables_longer_than_their_file_are_seen() {
        // Maps that announce a table of 4 bytes and one of 4 GB.
        assert!(!is_cut_off("BAAAAAAAAAA="));
        assert!(is_cut_off("/////wAAAAA="));
        assert!(is_cut_off(""));
        assert!(is_cut_off("####"));
    }
}
