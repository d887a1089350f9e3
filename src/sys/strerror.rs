//! The C library's text of an error number (floor 1).
//!
//! Wire texts end in `strerror`'s words; the standard library puts ` (os error N)` behind them.

use std::io;

/// The text of `error` as strerror(3) says it: `No such file or directory`. An error that carries
/// no number keeps its own text.
pub fn strerror(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => text
            .strip_suffix(&format!(" (os error {number})"))
            .map_or_else(|| text.clone(), str::to_owned),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_no_number() {
        assert_eq!(
            strerror(&io::Error::from_raw_os_error(2)),
            "No such file or directory"
        );
        assert_eq!(
            strerror(&io::Error::from_raw_os_error(13)),
            "Permission denied"
        );
        assert_eq!(strerror(&io::Error::other("plain")), "plain");
    }
}
