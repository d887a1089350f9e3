//! The channel to the host, RCU grace periods, mandatory access control, and the service's unit.

use super::{CheckContext, CheckResult, ResultKind};
use crate::commands::access;
use crate::config::{Config, Method};
use crate::freeze::policy::FreezePolicy;
use crate::sys::strerror;
use crate::tools::grace_periods::GracePeriods;
use crate::tools::{context, systemd_unit};
use crate::transport;
use nix::unistd::{AccessFlags, eaccess};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

pub fn check(scene: &CheckContext<'_>) -> Vec<CheckResult> {
    let root = Path::new("/");
    let mut results = vec![channel(scene.config)];
    let agent = context::agents().first().map(|agent| agent.pid);
    let domain = agent.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/attr/current")).ok());
    let domain = domain
        .as_deref()
        .map(|text| text.trim_matches(['\0', '\n']));
    if !scene.plan.targets.is_empty() {
        results.push(grace_periods(&scene.config.policy, &root.join("sys")));
    }
    results.extend(command_lists(scene.config));
    results.extend(selinux(root, domain));
    results.extend(apparmor(root, domain));
    results.extend(service(root));
    results
}

fn channel(config: &Config) -> CheckResult {
    let about = "channel";
    let Some(path) = &config.path else {
        return CheckResult::note(about, "the service manager passes the socket");
    };
    let shown = path.display();
    let opened = match config.method {
        Method::VirtioSerial => transport::locate_port(path),
        _ => path.clone(),
    };
    let shown = if opened == *path {
        shown.to_string()
    } else {
        format!("{shown} ({})", opened.display())
    };
    let device = |advice: &str| match fs::metadata(&opened) {
        Ok(data) if data.file_type().is_char_device() => {
            CheckResult::fine(about, format!("{shown}, {}", config.method.name()))
        }
        Ok(_) => CheckResult::finding(about, format!("{shown} is not a character device"), advice),
        Err(error) => {
            let text = format!("{shown}: {}", strerror(&error));
            CheckResult::finding(about, text, advice)
        }
    };
    match &config.method {
        Method::VirtioSerial => device(
            "give the virtual machine the channel org.qemu.guest_agent.0 (libvirt: <channel \
             type='unix'> with <target type='virtio' name='org.qemu.guest_agent.0'/>; Proxmox VE: \
             the option QEMU Guest Agent), start it anew, and load virtio_console in the guest",
        ),
        Method::IsaSerial => device("give the virtual machine that serial port, or correct -p"),
        Method::UnixListen => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            match eaccess(dir, AccessFlags::W_OK) {
                Ok(()) => CheckResult::fine(about, format!("{shown}, unix-listen")),
                Err(error) => CheckResult::finding(
                    about,
                    format!("{}: {}", dir.display(), strerror(&error.into())),
                    "make that directory, or choose another path with -p",
                ),
            }
        }
        Method::VsockListen if Path::new("/dev/vsock").exists() => {
            CheckResult::fine(about, format!("{shown}, vsock-listen"))
        }
        Method::VsockListen => CheckResult::finding(
            about,
            "there is no /dev/vsock",
            "give the virtual machine a vsock device, and load vmw_vsock_virtio_transport",
        ),
        Method::Unknown(name) => CheckResult::finding(
            about,
            format!("the method '{name}' is unknown"),
            "choose virtio-serial, isa-serial, unix-listen or vsock-listen with -m",
        ),
    }
}

/// A name that means no command blocks nothing.
fn command_lists(config: &Config) -> Vec<CheckResult> {
    let lists = [
        ("block-rpcs", &config.block_rpcs),
        ("allow-rpcs", &config.allow_rpcs),
    ];
    let unknown = lists.into_iter().flat_map(|(key, list)| {
        let names = access::unknown_names(list.names()).into_iter();
        names.map(move |unknown| (format!("{key}: {}", unknown.why), unknown.remedy))
    });
    unknown
        .map(|(text, remedy)| CheckResult::finding("commands", text, remedy))
        .collect()
}

/// A freeze without expedited grace periods is as consistent, so this is never a finding.
fn grace_periods(policy: &FreezePolicy, sys: &Path) -> CheckResult {
    let about = "grace periods";
    let found = GracePeriods::find(policy, sys);
    match &found {
        GracePeriods::Expedited | GracePeriods::AlreadyExpedited => {
            CheckResult::fine(about, found.text())
        }
        GracePeriods::Normal { remedy, .. } => {
            let text = format!(
                "{}; a freeze blocks writers for tens of milliseconds more per filesystem",
                found.text()
            );
            CheckResult::new(ResultKind::Note, about, text, Some((*remedy).into()))
        }
    }
}

/// `domain` is the running agent's.
fn selinux(root: &Path, domain: Option<&str>) -> Option<CheckResult> {
    let enforce = fs::read_to_string(root.join("sys/fs/selinux/enforce")).ok()?;
    let domain = domain.unwrap_or("not known, for it does not run");
    Some(if enforce.trim() == "1" {
        CheckResult::note(
            "SELinux",
            format!(
                "enforcing; the agent's domain is {domain}. If a hook or a freeze is denied: \
                 ausearch -m AVC -ts recent; after installing hooks: restorecon -R /etc/qemu-ga"
            ),
        )
    } else {
        CheckResult::fine("SELinux", "permissive: it stops nothing")
    })
}

fn apparmor(root: &Path, domain: Option<&str>) -> Option<CheckResult> {
    let enabled = fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled")).ok()?;
    if enabled.trim() != "Y" {
        return None;
    }
    Some(match domain {
        Some(profile) if profile.ends_with("(enforce)") => CheckResult::note(
            "AppArmor",
            format!(
                "the agent is confined by {profile}. If a hook or a freeze is denied: journalctl \
                 -k -g apparmor"
            ),
        ),
        Some(_) => CheckResult::fine("AppArmor", "the agent is not confined"),
        None => CheckResult::note(
            "AppArmor",
            "enabled; whether it confines the agent shows while that runs",
        ),
    })
}

/// Settings of the unit under which the agent sees other mounts than everybody else.
const APART: [&str; 6] = [
    "PrivateTmp",
    "PrivateMounts",
    "ProtectSystem",
    "ProtectHome",
    "PrivateDevices",
    "ReadOnlyPaths",
];

fn service(root: &Path) -> Vec<CheckResult> {
    let Some(path) = systemd_unit::file(root) else {
        let text = "no qemu-guest-agent.service was found: something else must start the agent";
        return vec![CheckResult::note("service", text)];
    };
    let text = fs::read_to_string(&path).unwrap_or_default();
    let is_on = |key: &&str| {
        text.lines().any(|line| {
            let value = line.trim().strip_prefix(key);
            value.is_some_and(|v| v.starts_with('=') && !matches!(&v[1..], "" | "no" | "false"))
        })
    };
    let apart: Vec<&str> = APART.into_iter().filter(is_on).collect();
    let shown = path.display();
    vec![if apart.is_empty() {
        CheckResult::fine("service", shown.to_string())
    } else {
        CheckResult::finding(
            "service",
            format!(
                "{shown} sets {}: the agent then has mounts of its own, and filesystems that are \
                 mounted later may be missing there or are read-only for hooks",
                apart.join(", ")
            ),
            "take that out of the unit (systemctl edit --full qemu-guest-agent)",
        )
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_of_each_method() {
        let with = |method: &str, path: &str| {
            channel(&Config {
                method: Method::from_name(method),
                path: Some(path.into()),
                ..Config::default()
            })
        };
        assert_eq!(with("virtio-serial", "/dev/null").kind, ResultKind::Fine);
        assert_eq!(
            with("virtio-serial", "/etc/passwd").kind,
            ResultKind::Finding
        );
        let missing = with("virtio-serial", "/nonexistent");
        assert!(missing.advice.unwrap().contains("org.qemu.guest_agent.0"));
        assert_eq!(with("unix-listen", "/dev/shm/sock").kind, ResultKind::Fine);
        assert_eq!(
            with("unix-listen", "/nonexistent/sock").kind,
            ResultKind::Finding
        );
        assert_eq!(with("pigeon", "/x").kind, ResultKind::Finding);
        assert_eq!(channel(&Config::default()).kind, ResultKind::Note);
    }

    #[test]
    fn grace_periods_that_are_not_expedited_are_a_note_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        fs::create_dir(&kernel).unwrap();
        let check = || grace_periods(&FreezePolicy::default(), dir.path());
        let missing = check();
        assert_eq!(missing.kind, ResultKind::Note);
        assert!(missing.text.contains("No such file or directory; a freeze"));
        assert!(missing.advice.unwrap().contains("ReadWritePaths="));
        fs::write(kernel.join("rcu_expedited"), "0\n").unwrap();
        assert_eq!(
            check(),
            CheckResult::fine("grace periods", "expedited while freezing")
        );
        fs::write(kernel.join("rcu_normal"), "1\n").unwrap();
        assert!(check().advice.unwrap().contains("real-time"));
        fs::write(kernel.join("rcu_expedited"), "1\n").unwrap();
        assert_eq!(check().kind, ResultKind::Fine);
    }

    #[test]
    fn what_the_system_says() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        assert_eq!((selinux(root, None), apparmor(root, None)), (None, None));
        assert_eq!(service(root)[0].kind, ResultKind::Note);
        write("sys/fs/selinux/enforce", "1");
        write("sys/module/apparmor/parameters/enabled", "Y\n");
        let note = selinux(root, Some("system_u:system_r:virt_qemu_ga_t:s0")).unwrap();
        assert!(note.text.contains("virt_qemu_ga_t"));
        let confined = apparmor(root, Some("qemu-ga (enforce)")).unwrap();
        assert_eq!(confined.kind, ResultKind::Note);
        assert_eq!(
            apparmor(root, Some("unconfined")).unwrap().kind,
            ResultKind::Fine
        );
        write("sys/fs/selinux/enforce", "0");
        assert_eq!(selinux(root, None).unwrap().kind, ResultKind::Fine);
        let unit = "lib/systemd/system/qemu-guest-agent.service";
        write(
            unit,
            "[Service]\nExecStart=/usr/sbin/qemu-ga\nPrivateTmp=no\n",
        );
        assert_eq!(service(root)[0].kind, ResultKind::Fine);
        write(unit, "[Service]\nProtectSystem=strict\n");
        assert!(service(root)[0].text.contains("sets ProtectSystem:"));
    }
}
