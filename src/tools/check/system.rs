//! What surrounds the agent: channel, RCU grace periods, SELinux, AppArmor and the service. No device is opened.

use super::{CheckContext, CheckResult, Severity, Subject};
use crate::commands::access;
use crate::commands::profile::Profile;
use crate::config::{Config, Method};
use crate::diagnostic::Diagnostic;
use crate::freeze::policy::FreezePolicy;
use crate::probe::{System, confidential};
use crate::sys::strerror;
use crate::tools::grace_periods::GracePeriods;
use crate::tools::{context, systemd_unit};
use crate::transport;
use nix::unistd::{AccessFlags, eaccess};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

pub(super) fn check(context: &CheckContext<'_>) -> Vec<CheckResult> {
    let root = Path::new("/");
    let mut results = vec![check_channel(context.config)];
    let agent = context::agents().first().map(|agent| agent.pid);
    let domain = agent.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/attr/current")).ok());
    let domain = domain
        .as_deref()
        .map(|text| text.trim_matches(['\0', '\n']));
    if !context.plan.targets.is_empty() {
        results.push(check_grace_periods(
            &context.config.policy,
            &root.join("sys"),
        ));
    }
    results.push(check_profile(context.config, &System::host()));
    results.extend(check_command_lists(context.config));
    results.extend(check_selinux(root, domain));
    results.extend(check_apparmor(root, domain));
    results.push(check_service(root));
    results
}

const CHANNEL: Subject = Subject::Channel;

fn check_channel(config: &Config) -> CheckResult {
    let Some(path) = &config.path else {
        return CheckResult::note(CHANNEL, "the service manager passes the socket", "");
    };
    let method = config.method.name();
    let shown = path.display();
    match &config.method {
        Method::VirtioSerial => check_device(
            config,
            path,
            "give the virtual machine the channel org.qemu.guest_agent.0 (libvirt: <channel \
             type='unix'> with <target type='virtio' name='org.qemu.guest_agent.0'/>; Proxmox VE: \
             the option QEMU Guest Agent), restart it, and load virtio_console in the guest",
        ),
        Method::IsaSerial => {
            let remedy = "give the virtual machine that serial port, or correct -p";
            check_device(config, path, remedy)
        }
        Method::UnixListen => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            match eaccess(dir, AccessFlags::W_OK) {
                Ok(()) => CheckResult::ok(CHANNEL, format!("{shown}, {method}")),
                Err(error) => CheckResult::finding(
                    CHANNEL,
                    format!("cannot create a socket in {}", dir.display()),
                    strerror(&error.into()),
                    "create that directory, or choose another path with -p",
                ),
            }
        }
        Method::VsockListen if Path::new("/dev/vsock").exists() => {
            CheckResult::ok(CHANNEL, format!("{shown}, {method}"))
        }
        Method::VsockListen => CheckResult::finding(
            CHANNEL,
            "cannot listen on vsock",
            "/dev/vsock does not exist",
            "give the virtual machine a vsock device, and load vmw_vsock_virtio_transport",
        ),
        Method::Unknown(name) => CheckResult::finding(
            CHANNEL,
            "the agent does not start",
            format!("unknown method '{name}'"),
            "choose virtio-serial, isa-serial, unix-listen or vsock-listen with -m",
        ),
    }
}

fn check_device(config: &Config, path: &Path, remedy: &str) -> CheckResult {
    let opened = match config.method {
        Method::VirtioSerial => transport::locate_port(path),
        _ => path.to_owned(),
    };
    let shown = if opened == *path {
        path.display().to_string()
    } else {
        format!("{} ({})", path.display(), opened.display())
    };
    let why = match fs::metadata(&opened) {
        Ok(data) if data.file_type().is_char_device() => {
            return CheckResult::ok(CHANNEL, format!("{shown}, {}", config.method.name()));
        }
        Ok(_) => "not a character device".to_owned(),
        Err(error) => strerror(&error),
    };
    CheckResult::finding(CHANNEL, format!("cannot use {shown}"), why, remedy)
}

/// Also shows what `auto` stands for.
fn check_profile(config: &Config, system: &System) -> CheckResult {
    let wanted = &config.profile;
    match Profile::find(wanted, system) {
        Ok(profile) => {
            let guest = confidential::technology(system).unwrap_or("no confidential guest");
            let why = match wanted.0.as_str() {
                "auto" => format!(" (auto: {guest})"),
                _ => String::new(),
            };
            CheckResult::ok(Subject::Commands, format!("profile {}{why}", profile.name))
        }
        Err(unknown) => {
            let Diagnostic { why, remedy, .. } = unknown;
            CheckResult::finding(Subject::Commands, "the agent does not start", why, remedy)
        }
    }
}

/// A name that is no command has no effect, so a mistyped one blocks nothing.
fn check_command_lists(config: &Config) -> Vec<CheckResult> {
    let lists = [
        ("block-rpcs", &config.block_rpcs),
        ("allow-rpcs", &config.allow_rpcs),
    ];
    let unknown = lists
        .into_iter()
        .flat_map(|(key, list)| access::unknown_names(key, list.names()));
    unknown
        .map(|Diagnostic { what, why, remedy }| {
            CheckResult::finding(Subject::Commands, what, why, remedy)
        })
        .collect()
}

/// Never a finding: a freeze without expedited grace periods is as consistent.
fn check_grace_periods(policy: &FreezePolicy, sys: &Path) -> CheckResult {
    let about = Subject::GracePeriods;
    let found = GracePeriods::find(policy, sys);
    match &found {
        GracePeriods::Expedited | GracePeriods::AlreadyExpedited => {
            CheckResult::ok(about, found.text())
        }
        GracePeriods::Normal { reason, remedy } => {
            let what =
                "normal, so a freeze blocks writers for tens of milliseconds more per filesystem";
            CheckResult::new(
                Severity::Note,
                about,
                Diagnostic::new(what, reason, *remedy),
            )
        }
    }
}

fn check_selinux(root: &Path, domain: Option<&str>) -> Option<CheckResult> {
    let about = Subject::SeLinux;
    let enforce = fs::read_to_string(root.join("sys/fs/selinux/enforce")).ok()?;
    let domain = domain.unwrap_or("unknown (agent not running)");
    Some(if enforce.trim() == "1" {
        let what = format!("enforcing, the agent's domain is {domain}");
        let remedy = "if a hook or a freeze is denied: ausearch -m AVC -ts recent; after hooks were \
                      installed: restorecon -R /etc/qemu-ga";
        CheckResult::new(Severity::Note, about, Diagnostic::new(what, "", remedy))
    } else {
        CheckResult::ok(about, "permissive: denies nothing")
    })
}

fn check_apparmor(root: &Path, profile: Option<&str>) -> Option<CheckResult> {
    let about = Subject::AppArmor;
    let enabled = fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled")).ok()?;
    if enabled.trim() != "Y" {
        return None;
    }
    Some(match profile {
        Some(profile) if profile.ends_with("(enforce)") => {
            let what = format!("the agent is confined by {profile}");
            let remedy = "if a hook or a freeze is denied: journalctl -k -g apparmor";
            CheckResult::new(Severity::Note, about, Diagnostic::new(what, "", remedy))
        }
        Some(_) => CheckResult::ok(about, "the agent is not confined"),
        None => CheckResult::note(
            about,
            "unknown whether the agent is confined",
            "the agent does not run",
        ),
    })
}

/// Settings of the unit that give the agent a mount namespace of its own (systemd.exec(5)).
const NAMESPACE_SETTINGS: [&str; 6] = [
    "PrivateTmp",
    "PrivateMounts",
    "ProtectSystem",
    "ProtectHome",
    "PrivateDevices",
    "ReadOnlyPaths",
];

fn check_service(root: &Path) -> CheckResult {
    let about = Subject::Service;
    let Some(path) = systemd_unit::file(root) else {
        let why = "something else must start the agent";
        return CheckResult::note(about, "no qemu-guest-agent.service found", why);
    };
    let text = fs::read_to_string(&path).unwrap_or_default();
    let is_on = |key: &&str| {
        text.lines().any(|line| {
            let value = line.trim().strip_prefix(key);
            value.is_some_and(|v| v.starts_with('=') && !matches!(&v[1..], "" | "no" | "false"))
        })
    };
    let settings: Vec<&str> = NAMESPACE_SETTINGS.into_iter().filter(is_on).collect();
    let shown = path.display();
    if settings.is_empty() {
        return CheckResult::ok(about, shown.to_string());
    }
    CheckResult::finding(
        about,
        format!("{shown} sets {}", settings.join(", ")),
        "the agent has a mount namespace of its own, in which filesystems that are mounted later may be missing, and \
         others are read-only for hooks",
        "remove that from the unit (systemctl edit --full qemu-guest-agent)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::profile::ProfileName;

    #[test]
    fn the_profile_with_what_auto_stands_for() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dev")).unwrap();
        let check = |name: &str| {
            let config = Config {
                profile: ProfileName(name.into()),
                ..Config::default()
            };
            check_profile(&config, &System::at(root.path()).unwrap())
        };
        assert_eq!(check("backup").text.what, "profile backup");
        assert_eq!(
            check("auto").text.what,
            "profile full (auto: no confidential guest)"
        );
        fs::write(root.path().join("dev/tdx_guest"), "").unwrap();
        assert_eq!(check("auto").text.what, "profile backup (auto: TDX)");
        let unknown = check("bacup");
        assert_eq!(unknown.kind, Severity::Finding);
        assert_eq!(unknown.text.why, "unknown profile 'bacup'");
    }

    #[test]
    fn the_channel_of_each_method() {
        let with = |method: &str, path: &str| {
            check_channel(&Config {
                method: Method::from_name(method),
                path: Some(path.into()),
                ..Config::default()
            })
        };
        assert_eq!(with("virtio-serial", "/dev/null").kind, Severity::Ok);
        assert_eq!(with("virtio-serial", "/etc/passwd").kind, Severity::Finding);
        let missing = with("virtio-serial", "/nonexistent");
        assert!(missing.text.remedy.contains("org.qemu.guest_agent.0"));
        assert_eq!(with("unix-listen", "/dev/shm/sock").kind, Severity::Ok);
        assert_eq!(
            with("unix-listen", "/nonexistent/sock").kind,
            Severity::Finding
        );
        assert_eq!(with("pigeon", "/x").kind, Severity::Finding);
        assert_eq!(check_channel(&Config::default()).kind, Severity::Note);
    }

    #[test]
    fn grace_periods_that_are_not_expedited_are_a_note_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        fs::create_dir(&kernel).unwrap();
        let check = || check_grace_periods(&FreezePolicy::default(), dir.path());
        let missing = check();
        assert_eq!(missing.kind, Severity::Note);
        assert!(missing.text.why.ends_with("No such file or directory"));
        assert!(missing.text.remedy.contains("ReadWritePaths="));
        fs::write(kernel.join("rcu_expedited"), "0\n").unwrap();
        assert_eq!(
            check(),
            CheckResult::ok(Subject::GracePeriods, "expedited while freezing")
        );
        fs::write(kernel.join("rcu_normal"), "1\n").unwrap();
        assert!(check().text.remedy.contains("real-time"));
        fs::write(kernel.join("rcu_expedited"), "1\n").unwrap();
        assert_eq!(check().kind, Severity::Ok);
    }

    #[test]
    fn mandatory_access_control_and_the_unit() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        assert_eq!(
            (check_selinux(root, None), check_apparmor(root, None)),
            (None, None)
        );
        assert_eq!(check_service(root).kind, Severity::Note);
        write("sys/fs/selinux/enforce", "1");
        write("sys/module/apparmor/parameters/enabled", "Y\n");
        let note = check_selinux(root, Some("system_u:system_r:virt_qemu_ga_t:s0")).unwrap();
        assert!(note.text.what.contains("virt_qemu_ga_t"));
        let confined = check_apparmor(root, Some("qemu-ga (enforce)")).unwrap();
        assert_eq!(confined.kind, Severity::Note);
        assert_eq!(
            check_apparmor(root, Some("unconfined")).unwrap().kind,
            Severity::Ok
        );
        write("sys/fs/selinux/enforce", "0");
        assert_eq!(check_selinux(root, None).unwrap().kind, Severity::Ok);
        let unit = "lib/systemd/system/qemu-guest-agent.service";
        write(
            unit,
            "[Service]\nExecStart=/usr/sbin/qemu-ga\nPrivateTmp=no\n",
        );
        assert_eq!(check_service(root).kind, Severity::Ok);
        write(unit, "[Service]\nProtectSystem=strict\n");
        assert!(
            check_service(root)
                .text
                .what
                .ends_with("sets ProtectSystem")
        );
    }
}
