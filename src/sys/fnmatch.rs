//! fnmatch(3) without flags: `*` matches slashes and leading dots.

use nix::libc;
use std::ffi::CStr;

/// Whether the whole of `text` matches `pattern`. The process never calls setlocale(3), so in the C locale every byte is
/// a character, and a text need not be UTF-8.
pub fn fnmatch(pattern: &CStr, text: &CStr) -> bool {
    // SAFETY: both end with a NUL byte and live through the call, which keeps neither.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}
