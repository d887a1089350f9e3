//! Whether this is a confidential guest, whose memory its host cannot read. Floor 1.
//!
//! By what the guest's kernel makes of it: the devices for attestation (`/dev/sev-guest`, `/dev/tdx_guest`; a host of such
//! guests has others), the VMPL of SEV-SNP in sysfs, and the processor flag of TDX. The profile `auto` asks. What the host
//! says by CPUID is what a guest of it should not rely on; the kernel has checked it.

use super::System;

/// Name and files, one of which exists in such a guest and nowhere else.
const TECHNOLOGIES: [(&str, &[&str]); 2] = [
    (
        "SEV-SNP",
        &["/dev/sev-guest", "/sys/devices/system/cpu/sev/vmpl"],
    ),
    ("TDX", &["/dev/tdx_guest"]),
];

/// The processor flag of a TDX guest (X86_FEATURE_TDX_GUEST), also where the driver of the device is missing.
const TDX_FLAG: &str = "tdx_guest";

/// `None`: an ordinary guest, or a machine of its own.
pub(crate) fn technology(system: &System) -> Option<&'static str> {
    let exists = |files: &[&str]| files.iter().any(|file| system.path(file).exists());
    let found = TECHNOLOGIES.into_iter().find(|(_, files)| exists(files));
    found
        .map(|(name, _)| name)
        .or_else(|| has_tdx_flag(system).then_some("TDX"))
}

/// The first processor's flags are those of all.
fn has_tdx_flag(system: &System) -> bool {
    let text = std::fs::read_to_string(system.path("/proc/cpuinfo")).unwrap_or_default();
    let flags = text.lines().find_map(|line| {
        let (name, flags) = line.split_once(':')?;
        (name.trim() == "flags").then_some(flags)
    });
    flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == TDX_FLAG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn found(files: &[(&str, &str)]) -> Option<&'static str> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        technology(&System::at(root.path()).unwrap())
    }

    #[test]
    fn by_device_sysfs_or_flag() {
        assert_eq!(found(&[("dev/sev-guest", "")]), Some("SEV-SNP"));
        let vmpl = ("sys/devices/system/cpu/sev/vmpl", "0\n");
        assert_eq!(found(&[vmpl]), Some("SEV-SNP"));
        assert_eq!(found(&[("dev/tdx_guest", "")]), Some("TDX"));
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu tdx_guest sse\n";
        assert_eq!(found(&[("proc/cpuinfo", cpuinfo)]), Some("TDX"));
    }

    #[test]
    fn a_host_of_such_guests_is_none() {
        assert_eq!(found(&[]), None);
        let cpuinfo = "processor\t: 0\nmodel name\t: tdx_guest\nflags\t\t: fpu sev sev_es sev_snp tdx_host_platform\n";
        assert_eq!(found(&[("proc/cpuinfo", cpuinfo), ("dev/sev", "")]), None);
    }
}
