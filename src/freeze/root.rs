//! The root directory of a filesystem, open from before its freeze to its thaw (floor 3). The descriptor reaches the
//! filesystem also while a path to it would block or lead elsewhere.

use super::guardian::client::Lingering;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

pub struct Root {
    file: File,
    /// Set if FIFREEZE has not returned within its limit: the guardian that thaws if the call succeeds after the end of
    /// this process. The pending call is the last owner; when it drops this, the guardian is dismissed.
    pub guardian: OnceLock<Arc<Lingering>>,
}

impl From<File> for Root {
    fn from(file: File) -> Root {
        Root {
            file,
            guardian: OnceLock::new(),
        }
    }
}

/// Each call keeps its root open until it has returned.
pub fn calls<'a, T: 'static>(
    roots: impl IntoIterator<Item = &'a Arc<Root>>,
    call: fn(&Arc<Root>) -> io::Result<T>,
) -> impl Iterator<Item = impl FnOnce() -> io::Result<T> + Send + 'static> {
    roots
        .into_iter()
        .cloned()
        .map(move |root| move || call(&root))
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
