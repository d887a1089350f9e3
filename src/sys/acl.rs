//! POSIX access control lists (acl(5), linux/posix_acl_xattr.h).

use nix::errno::Errno;
use nix::libc;
use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const NAME: &std::ffi::CStr = c"system.posix_acl_access";
/// Most bytes of an extended attribute (XATTR_SIZE_MAX).
const MAX_SIZE: usize = 65536;
const HEAD: usize = 4;
const ENTRY: usize = 8;
const WRITE: u16 = 2;
const USER: u16 = 2;
const GROUP: u16 = 8;

/// A user or group that an entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By its number.
    User(u32),
    /// By its number.
    Group(u32),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user {id}"),
            Self::Group(id) => write!(f, "group {id}"),
        }
    }
}

/// Whom the list of `file`, which may be opened as a mere place (O_PATH), lets write, as far as its mask does: that is the
/// mode of the group. Empty without a list.
///
/// # Errors
/// It cannot be read.
pub fn writers(file: &File) -> io::Result<Vec<Named>> {
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut list = vec![0; MAX_SIZE];
    // SAFETY: path and name end in a NUL, and the list is as long as is said.
    let size = unsafe {
        libc::getxattr(
            path.as_ptr(),
            NAME.as_ptr(),
            list.as_mut_ptr().cast(),
            list.len(),
        )
    };
    match Errno::result(size) {
        Ok(size) => Ok(parse(list.get(..size as usize).unwrap_or_default())),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// A version, then entries of tag, rights and number.
fn parse(list: &[u8]) -> Vec<Named> {
    let entries = list.get(HEAD..).unwrap_or_default().chunks_exact(ENTRY);
    let named = |entry: &[u8]| {
        let &[t0, t1, r0, r1, n0, n1, n2, n3] = entry else {
            return None;
        };
        let id = u32::from_le_bytes([n0, n1, n2, n3]);
        let named = match u16::from_le_bytes([t0, t1]) {
            USER => Named::User(id),
            GROUP => Named::Group(id),
            _ => return None,
        };
        (u16::from_le_bytes([r0, r1]) & WRITE != 0).then_some(named)
    };
    entries.filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_entries_with_the_right_to_write() {
        let mut list = vec![2, 0, 0, 0];
        let entries: [(u16, u16, u32); 7] = [
            (1, 7, u32::MAX),
            (USER, 6, 1000),
            (USER, 5, 1001),
            (4, 7, u32::MAX),
            (GROUP, 2, 50),
            (0x10, 7, u32::MAX),
            (0x20, 7, u32::MAX),
        ];
        for (tag, rights, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        assert_eq!(parse(&list), [Named::User(1000), Named::Group(50)]);
        assert_eq!(parse(&list[..15]), []);
        assert_eq!(parse(b""), []);
        assert_eq!(writers(&File::open("/proc").unwrap()).unwrap(), []);
    }
}
