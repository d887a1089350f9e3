//! The C library's text for an errno (floor 1).
//!
//! Texts on the wire end with it. The standard library appends ` (os error N)`, which hosts do not expect.

use std::io;

/// An error without an errno keeps its own text.
pub fn strerror(error: &io::Error) -> String {
    #[cfg(not(target_env = "gnu"))]
    if let Some((_, words)) = WORDS.iter().find(|w| Some(w.0) == error.raw_os_error()) {
        return (*words).to_owned();
    }
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => text
            .strip_suffix(&format!(" (os error {number})"))
            .map_or_else(|| text.clone(), str::to_owned),
        None => text,
    }
}

/// glibc's texts where another C library has others, for files, devices, processes and sockets: hosts compare them.
#[cfg(not(target_env = "gnu"))]
const WORDS: &[(i32, &str)] = &[
    (5, "Input/output error"),
    (10, "No child processes"),
    (12, "Cannot allocate memory"),
    (16, "Device or resource busy"),
    (18, "Invalid cross-device link"),
    (24, "Too many open files"),
    (25, "Inappropriate ioctl for device"),
    (29, "Illegal seek"),
    (33, "Numerical argument out of domain"),
    (34, "Numerical result out of range"),
    (35, "Resource deadlock avoided"),
    (36, "File name too long"),
    (40, "Too many levels of symbolic links"),
    (62, "Timer expired"),
    (75, "Value too large for defined data type"),
    (88, "Socket operation on non-socket"),
    (90, "Message too long"),
    (95, "Operation not supported"),
    (98, "Address already in use"),
    (99, "Cannot assign requested address"),
    (101, "Network is unreachable"),
    (102, "Network dropped connection on reset"),
    (103, "Software caused connection abort"),
    (106, "Transport endpoint is already connected"),
    (107, "Transport endpoint is not connected"),
    (108, "Cannot send after transport endpoint shutdown"),
    (110, "Connection timed out"),
    (113, "No route to host"),
    (115, "Operation now in progress"),
    (117, "Structure needs cleaning"),
    (122, "Disk quota exceeded"),
];

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

    #[test]
    fn texts_are_those_of_glibc_with_any_c_library() {
        for (number, words) in [
            (5, "Input/output error"),
            (16, "Device or resource busy"),
            (40, "Too many levels of symbolic links"),
            (95, "Operation not supported"),
            (122, "Disk quota exceeded"),
        ] {
            assert_eq!(strerror(&io::Error::from_raw_os_error(number)), words);
        }
    }
}
