//! File access as another user (floor 1), by setfsuid(2).
//!
//! The identity by which the kernel checks file access belongs to a thread. It is changed on a thread that runs one job
//! and ends, so it never has to be changed back. That thread has none of root's capabilities over files
//! (cap_drop_fs_set in the kernel's security/commoncap.c), and unlike after setuid(2) the user cannot send it signals.

use std::ffi::CString;
use std::io;

use nix::libc;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: Uid,
    pub gid: Gid,
    /// The primary one included.
    pub groups: Vec<Gid>,
}

impl Identity {
    /// None if there is no such user. The sources of nsswitch.conf(5) are searched, which may be on another machine.
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

#[derive(Debug)]
pub enum IdentityError {
    Groups(io::Error),
    Group,
    User,
    /// The thread could not be started, or it panicked.
    Thread(io::Error),
}

/// Runs `job` with the file permissions of `identity` on a thread of its own. After an error other than a panic, `job`
/// did not run.
pub fn run_as<T: Send>(
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
            .unwrap_or_else(|_| Err(IdentityError::Thread(io::Error::other("it panicked"))))
    })
}

/// Changes the calling thread, until its end.
fn switch_to(identity: &Identity) -> Result<(), IdentityError> {
    // Without privileges setgroups(2) fails, but an agent that runs as that very user needs no change.
    if !geteuid().is_root() && geteuid() == identity.uid {
        return Ok(());
    }
    set_groups(&identity.groups).map_err(IdentityError::Groups)?;
    // setfsuid(2) returns the previous value and reports no failure; a second call with -1, which is not a valid id,
    // changes nothing and returns the present value.
    let (uid, gid) = (identity.uid.as_raw(), identity.gid.as_raw());
    // SAFETY: the arguments are integers; the bare system calls act on the calling thread only.
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

/// The bare system call: the C library's function changes all threads (nptl(7)).
fn set_groups(groups: &[Gid]) -> io::Result<()> {
    #[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
    use libc::SYS_setgroups as SYS_SETGROUPS;
    #[cfg(any(target_arch = "x86", target_arch = "arm"))]
    use libc::SYS_setgroups32 as SYS_SETGROUPS;
    let groups: Vec<libc::gid_t> = groups.iter().map(|group| group.as_raw()).collect();
    // SAFETY: pointer and length are those of the vector, which outlives the call.
    let result = unsafe { libc::syscall(SYS_SETGROUPS, groups.len(), groups.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
        let read = run_as(&nobody(), || {
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
        assert_eq!(run_as(&own, || 7).unwrap(), 7);
    }
}
