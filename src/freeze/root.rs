//! The root of a filesystem, held open from before its freeze to its thaw. Floor 3.

use super::guardian::client::Lingering;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

/// One root; whoever acts on the filesystem holds it.
pub struct Root {
    file: File,
    /// Set where FIFREEZE has not answered within its limit: who thaws should it succeed after the end of
    /// this process. It goes with the call, which is then the last that holds this.
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

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
