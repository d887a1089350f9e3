//! POSIX access control lists (acl(5), linux/posix_acl_xattr.h): which further users a file lets write.
//!
//! The permission bits do not show them: with a list, the group bits are its mask, so a file with mode 0660 may be
//! writable for any number of users. `hooks::trust` calls this for each file and directory that it checks.

use nix::errno::Errno;
use nix::libc;
use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const NAME: &std::ffi::CStr = c"system.posix_acl_access";
/// XATTR_SIZE_MAX in linux/limits.h.
const MAX_SIZE: usize = 65536;
const HEADER_SIZE: usize = 4;
const ENTRY_SIZE: usize = 8;
const ACL_WRITE: u16 = 2;
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    User(u32),
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

/// The users and groups with write permission in the list of `file`, which may be open with O_PATH. The mask is not
/// applied: it is the group bits of the mode, which the caller compares.
pub fn read_writers(file: &File) -> io::Result<Vec<Named>> {
    // fgetxattr(2) fails with EBADF for O_PATH; the link in /proc leads to the same inode.
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut list = vec![0; MAX_SIZE];
    // SAFETY: path and name end in a NUL, and the length is that of the buffer.
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

/// Little-endian on all machines.
fn parse(list: &[u8]) -> Vec<Named> {
    let entries = list
        .get(HEADER_SIZE..)
        .unwrap_or_default()
        .chunks_exact(ENTRY_SIZE);
    let named = |entry: &[u8]| {
        let &[t0, t1, r0, r1, n0, n1, n2, n3] = entry else {
            return None;
        };
        let id = u32::from_le_bytes([n0, n1, n2, n3]);
        let named = match u16::from_le_bytes([t0, t1]) {
            ACL_USER => Named::User(id),
            ACL_GROUP => Named::Group(id),
            _ => return None,
        };
        (u16::from_le_bytes([r0, r1]) & ACL_WRITE != 0).then_some(named)
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
            (ACL_USER, 6, 1000),
            (ACL_USER, 5, 1001),
            (4, 7, u32::MAX),
            (ACL_GROUP, 2, 50),
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
        assert_eq!(read_writers(&File::open("/proc").unwrap()).unwrap(), []);
    }
}
