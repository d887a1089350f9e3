//! The agent under test.

use std::path::PathBuf;

/// The one that cargo has built, or another (`QGA_BINARY_UNDER_TEST`): QEMU's, a release build, or that of a later release.
pub fn binary() -> PathBuf {
    match std::env::var_os("QGA_BINARY_UNDER_TEST") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_qemu-ga").into(),
    }
}
