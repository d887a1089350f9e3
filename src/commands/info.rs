//! Floor 4: the name and system of the guest: guest-get-host-name, guest-get-osinfo.
//!
//! Read-only. Nothing is cached, because names and os-release change while the agent runs (a distribution upgrade does not
//! restart it). os-release has the keys of os-release(5).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::utsname::uname;
use nix::unistd::gethostname;
use serde::Serialize;

use super::{Class, Command, answer};
use crate::probe::{System, osrelease};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::text::from_os_bytes;
use crate::sys::strerror;

pub(super) const COMMANDS: &[Command] = &[
    Command::now(33, "guest-get-host-name", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_host_name()?)
    }),
    Command::now(36, "guest-get-osinfo", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        let override_path = std::env::var_os("QGA_OS_RELEASE").map(PathBuf::from);
        answer(get_osinfo(&System::host(), override_path.as_deref()))
    }),
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct HostName {
    host_name: String,
}

fn get_host_name() -> Result<HostName, CommandError> {
    let host_name = gethostname().map_err(|errno: Errno| {
        CommandError::generic(format!("cannot get hostname: {}", strerror(&errno.into())))
    })?;
    Ok(HostName {
        host_name: from_os_bytes(host_name.as_bytes()),
    })
}

/// What is unknown is left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct OsInfo {
    kernel_release: Option<String>,
    kernel_version: Option<String>,
    machine: Option<String>,
    id: Option<String>,
    name: Option<String>,
    pretty_name: Option<String>,
    version: Option<String>,
    version_id: Option<String>,
    variant: Option<String>,
    variant_id: Option<String>,
}

fn get_osinfo(system: &System, override_path: Option<&Path>) -> OsInfo {
    let distribution = osrelease::read(system, override_path);
    // uname(2) fails only for a bad pointer; the members would be left out.
    let kernel = uname().ok();
    let kernel = kernel.as_ref();
    OsInfo {
        kernel_release: kernel.map(|kernel| from_os_bytes(kernel.release().as_bytes())),
        kernel_version: kernel.map(|kernel| from_os_bytes(kernel.version().as_bytes())),
        machine: kernel.map(|kernel| from_os_bytes(kernel.machine().as_bytes())),
        id: distribution.id,
        name: distribution.name,
        pretty_name: distribution.pretty_name,
        version: distribution.version,
        version_id: distribution.version_id,
        variant: distribution.variant,
        variant_id: distribution.variant_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{reply, value::to_value};
    use std::fs;

    fn reply_line(reply: impl Serialize) -> String {
        let mut line = Vec::new();
        reply::write(&mut line, None, Ok(&to_value(&reply)), false);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn the_host_name_is_the_kernel_s() {
        let kernel = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let expected = format!(
            "{{\"return\": {{\"host-name\": \"{}\"}}}}\n",
            kernel.trim_end()
        );
        assert_eq!(reply_line(get_host_name().unwrap()), expected);
    }

    #[test]
    fn osinfo_joins_kernel_and_distribution() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        let bare = get_osinfo(&system, None);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(bare.kernel_release.as_deref(), Some(release.trim_end()));
        let version = fs::read_to_string("/proc/sys/kernel/version").unwrap();
        assert_eq!(bare.kernel_version.as_deref(), Some(version.trim_end()));
        assert_eq!((bare.id, bare.variant_id), (None, None));

        let own = root.path().join("own");
        fs::write(
            &own,
            "ID=a\nNAME=b\nPRETTY_NAME=c\nVERSION=d\nVERSION_ID=e\nVARIANT=f\nVARIANT_ID=g",
        )
        .unwrap();
        let full = get_osinfo(&system, Some(&own));
        let full = OsInfo {
            kernel_release: Some("r".into()),
            kernel_version: Some("v".into()),
            machine: Some("m".into()),
            ..full
        };
        assert_eq!(
            reply_line(full),
            "{\"return\": {\"name\": \"b\", \"kernel-release\": \"r\", \"version\": \"d\", \
             \"variant\": \"f\", \"pretty-name\": \"c\", \"version-id\": \"e\", \
             \"variant-id\": \"g\", \"kernel-version\": \"v\", \"machine\": \"m\", \"id\": \"a\"}}\n"
        );
    }
}
