//! What an agent with the profile `backup` gives up before it reads a byte of its host. Floor 5.
//!
//! Of its capabilities it keeps those for freezing; it may change only its own files, read only those that describe the
//! system, make only the system calls of [`system_calls`], and start no program. [`crate::child::launcher`], which it
//! starts before, starts guardian and hooks with all rights of the service, and changes the state directory. A kernel
//! without one of these means costs one warning, and the rest applies.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::system_calls;
use crate::sys::confine;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use std::path::{Path, PathBuf};

/// CAP_DAC_READ_SEARCH: mount points in private directories. CAP_KILL: a hook master that does not end. CAP_IPC_LOCK:
/// memory while frozen. CAP_SYS_ADMIN: FIFREEZE. CAP_SYS_RESOURCE: the space reserved for root (numbers of
/// capabilities(7)).
const CAPABILITIES: u64 = (1 << 2) | (1 << 5) | (1 << 14) | (1 << 21) | (1 << 24);

/// Of Linux 6.2: the rights of newer versions are about devices and networks, which the filter covers.
const LANDLOCK_ABI: ABI = ABI::V3;

/// What describes the system: mount table, processes, devices, time zone, users.
const READABLE: [&str; 8] = [
    "/proc", "/sys", "/dev", "/etc", "/run", "/usr", "/lib", "/lib64",
];

/// Where the agent's own files are.
#[derive(Debug, Default)]
pub(crate) struct OwnFiles {
    /// Files are made, changed and removed in it. Never the state directory: what is in it becomes a program of root.
    pub(crate) directories: Vec<PathBuf>,
    /// Files and devices that are opened for writing.
    pub(crate) files: Vec<PathBuf>,
    /// The state directory.
    pub(crate) readable: PathBuf,
}

/// Applies to this thread and to those that it starts; so before any other is started. Returns warnings.
pub(crate) fn confine(own: &OwnFiles) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |what: &str, error: &dyn std::fmt::Display| {
        warnings.push(format!(
            "profile backup: {what}: {error}; the agent continues without that limit"
        ));
    };
    if let Err(error) = confine::keep_capabilities(CAPABILITIES) {
        warn("capabilities cannot be given up", &error);
    }
    match restrict_files(own).map(|status| status.ruleset) {
        Ok(RulesetStatus::NotEnforced) => {
            warn("files cannot be limited", &"this kernel has no Landlock");
        }
        Ok(RulesetStatus::PartiallyEnforced) => {
            tracing::debug!("profile backup: this kernel has an older Landlock");
        }
        Ok(RulesetStatus::FullyEnforced) => {}
        Err(error) => warn("files cannot be limited", &error),
    }
    if let Err(error) = filter_system_calls() {
        warn("system calls cannot be limited", &error);
    }
    warnings
}

/// Last, for the filter refuses what the others need.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter_system_calls() -> anyhow::Result<()> {
    let filters = system_calls::filters()?;
    confine::note_refused()?;
    for filter in &filters {
        seccompiler::apply_filter(filter)?;
    }
    Ok(())
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn filter_system_calls() -> anyhow::Result<()> {
    anyhow::bail!("there is no list of them for {}", std::env::consts::ARCH)
}

fn restrict_files(own: &OwnFiles) -> Result<RestrictionStatus, RulesetError> {
    let write = AccessFs::WriteFile | AccessFs::Truncate;
    let keep =
        write | AccessFs::ReadFile | AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile;
    let mut rules: Vec<(&Path, BitFlags<AccessFs>)> = vec![
        // Every mount point is opened; of its files none.
        (Path::new("/"), AccessFs::ReadDir.into()),
        (Path::new("/dev/null"), write),
        // Grace periods, and connections of FUSE that hold up a freeze.
        (Path::new("/sys/kernel/rcu_expedited"), write),
        (Path::new("/sys/fs/fuse/connections"), write),
        (&own.readable, AccessFs::ReadFile.into()),
    ];
    rules.extend(READABLE.map(|path| (Path::new(path), AccessFs::ReadFile.into())));
    rules.extend(own.directories.iter().map(|path| (&**path, keep)));
    rules.extend(
        own.files
            .iter()
            .map(|path| (&**path, write | AccessFs::ReadFile)),
    );
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK_ABI))?
        .create()?;
    for (path, access) in rules {
        // What does not exist needs no rule.
        let Ok(file) = PathFd::new(path) else {
            continue;
        };
        // Rights on directories mean nothing for a file, and the kernel refuses them.
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(LANDLOCK_ABI)
        };
        ruleset = ruleset.add_rule(PathBeneath::new(file, access))?;
    }
    ruleset.restrict_self()
}

/// Logs each system call that the filter has refused, once. Called after a request, when the log is held back if it has
/// to be.
pub(crate) fn log_refused() {
    for number in confine::take_refused() {
        tracing::warn!(
            "profile backup: system call {number} of {} was refused; if a freeze or its report lacks something, please report this",
            std::env::consts::ARCH
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::net::UdpSocket;
    use std::os::unix::net::UnixListener;

    /// All of it applies to the calling thread and those that it starts.
    #[test]
    fn what_is_given_up_fails_and_what_is_kept_works() {
        let [own, other, state] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let secret = other.path().join("secret");
        fs::write(&secret, "x").unwrap();
        let journal = state.path().join("qga.hooks");
        fs::write(&journal, "x").unwrap();
        let files = OwnFiles {
            directories: vec![own.path().to_owned()],
            files: Vec::new(),
            readable: state.path().to_owned(),
        };
        let confined = std::thread::spawn(move || {
            let warnings = confine(&files);
            let own = &files.directories[0];
            fs::write(own.join("draft"), "x").unwrap();
            fs::rename(own.join("draft"), own.join("file")).unwrap();
            fs::remove_file(own.join("file")).unwrap();
            fs::read_to_string("/proc/self/mountinfo").unwrap();
            File::open(secret.parent().unwrap()).unwrap();
            // A thread still starts.
            std::thread::spawn(|| ()).join().unwrap();
            if !warnings.iter().any(|warning| warning.contains("Landlock")) {
                let denied = |result: std::io::Result<()>| {
                    result.unwrap_err().raw_os_error() == Some(nix::libc::EACCES)
                };
                assert!(denied(fs::read(&secret).map(drop)));
                assert!(denied(fs::write(&secret, "y")));
                assert!(denied(fs::write(secret.with_file_name("new"), "y")));
                assert!(denied(fs::remove_file(&secret)));
                // What it says is executed by root.
                fs::read(&journal).unwrap();
                assert!(denied(fs::write(&journal, "y")));
                assert!(denied(fs::write(journal.with_file_name("new"), "y")));
                assert!(denied(fs::rename(&journal, own.join("journal"))));
                assert!(denied(fs::remove_file(&journal)));
                let socket = UnixListener::bind(journal.with_file_name("socket"));
                assert!(denied(socket.map(drop)));
            }
            if !warnings.iter().any(|warning| warning.contains("calls")) {
                let refused =
                    |error: std::io::Error| error.raw_os_error() == Some(nix::libc::EPERM);
                assert!(refused(UdpSocket::bind("127.0.0.1:0").unwrap_err()));
                let executed = nix::unistd::execv(c"/bin/true", &[c"true"]);
                assert!(refused(executed.unwrap_err().into()));
            }
        });
        confined.join().unwrap();
    }
}
