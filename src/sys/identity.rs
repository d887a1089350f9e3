//! File work in another user's name (floor 1), by setfsuid(2).
//!
//! The identity that the kernel checks file access by belongs to a thread, not to the process. It
//! is changed on a thread that does the one job and ends, so nothing ever has to be changed back,
//! and no other thread sees a difference. Root's capabilities over files are gone on that thread,
//! while the user, who can send signals to his processes, has no such right over it.

use std::ffi::CString;
use std::io;

use nix::libc;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

/// Whom to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    /// All groups.
    pub groups: Vec<Gid>,
}

impl Identity {
    /// The user `name` with all his groups, looked up where the system keeps its users, which may be
    /// another machine; None if there is no such user.
    ///
    /// # Errors
    /// Nobody could tell.
    pub fn find(name: &str) -> io::Result<Option<(Identity, User)>> {
        let Ok(c_name) = CString::new(name) else {
            return Ok(None);
        };
        let Some(user) = User::from_name(name)? else {
            return Ok(None);
        };
        let identity = Identity {
            uid: user.uid,
            gid: user.gid,
            groups: getgrouplist(&c_name, user.gid)?,
        };
        Ok(Some((identity, user)))
    }
}

/// Which part of the identity could not be taken.
#[derive(Debug)]
pub enum IdentityError {
    /// The list of groups.
    Groups(io::Error),
    /// The primary group.
    Group,
    /// The user.
    User,
    /// No thread could be started, or it died.
    Thread(io::Error),
}

/// Runs `job` with the rights of `identity` over files, on a thread of its own, to its end.
///
/// # Errors
/// The identity could not be taken; then `job` did not run.
pub fn with<T: Send>(
    identity: &Identity,
    job: impl FnOnce() -> T + Send,
) -> Result<T, IdentityError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("as-user".into());
        let thread = thread
            .spawn_scoped(scope, || {
                switch_to(identity)?;
                Ok(job())
            })
            .map_err(IdentityError::Thread)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(IdentityError::Thread(io::Error::other("it died"))))
    })
}

/// Makes the calling thread that user until its end.
fn switch_to(identity: &Identity) -> Result<(), IdentityError> {
    // An agent without privileges can serve the user that it runs as.
    if !geteuid().is_root() && geteuid() == identity.uid {
        return Ok(());
    }
    set_groups(&identity.groups).map_err(IdentityError::Groups)?;
    // The calls tell the value before, never a failure; asking for -1, which no one is, tells the
    // value now.
    let (uid, gid) = (identity.uid.as_raw(), identity.gid.as_raw());
    // SAFETY: integers only; both act on the calling thread alone.
    let (gid_now, uid_now) = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (
            libc::setfsgid(libc::gid_t::MAX),
            libc::setfsuid(libc::uid_t::MAX),
        )
    };
    if gid_now as libc::gid_t != gid {
        return Err(IdentityError::Group);
    }
    if uid_now as libc::uid_t != uid {
        return Err(IdentityError::User);
    }
    Ok(())
}

/// The bare system call: the C library's function would change all threads.
fn set_groups(groups: &[Gid]) -> io::Result<()> {
    #[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
    use libc::SYS_setgroups as SYS_SETGROUPS;
    #[cfg(any(target_arch = "x86", target_arch = "arm"))]
    use libc::SYS_setgroups32 as SYS_SETGROUPS;
    let groups: Vec<libc::gid_t> = groups.iter().map(|group| group.as_raw()).collect();
    // SAFETY: the pointer is to as many group numbers as are announced, alive over the call.
    let done = unsafe { libc::syscall(SYS_SETGROUPS, groups.len(), groups.as_ptr()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn nobody() -> Identity {
        let gid = Gid::from_raw(65534);
        Identity {
            uid: Uid::from_raw(65534),
            gid,
            groups: vec![gid],
        }
    }

    #[test]
    fn only_the_job_s_thread_is_the_user() {
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().join("private");
        fs::write(&private, "").unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
        let shared = directory.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let made = shared.join("made");
        let read = with(&nobody(), || {
            fs::write(&made, "").unwrap();
            fs::read(&private).map_err(|error| error.kind())
        });
        if !geteuid().is_root() {
            assert!(matches!(read, Err(IdentityError::Groups(_))));
        }
        if crate::left_out::needs_root() {
            return;
        }
        assert_eq!(read.unwrap().unwrap_err(), io::ErrorKind::PermissionDenied);
        let owner = fs::metadata(&made).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (65534, 65534));
        assert!(fs::read(&private).is_ok());
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("Uid:\t0\t0\t0\t0\n"), "{status}");
    }

    #[test]
    fn our_own_identity_needs_no_privilege() {
        let own = Identity {
            uid: geteuid(),
            gid: nix::unistd::getegid(),
            groups: nix::unistd::getgroups().unwrap(),
        };
        assert_eq!(with(&own, || 7).unwrap(), 7);
    }
}
