//! What the hooks' settings do to a real freeze: abort, and hooks that hold on until the thaw.

use crate::hook_log::Rig;
use crate::support::{Agent, in_namespace, is_ours, returned, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

/// Holds, and notes what it is told and when it ends.
const HOLDER: &str = "\
# qga-hook: type = hold
cd \"$(dirname \"$0\")/../..\"
echo $$ >pid
echo ready >&3
read -r reason || reason=alone
echo $reason >>told";

fn with_rig(body: impl FnOnce(&Rig) + Send + 'static) {
    if !is_ours() {
        return;
    }
    in_namespace(|| body(&Rig::new()));
}

fn conf(rig: &Rig, text: &str) {
    fs::write(rig.place.path("etc/fsfreeze-hook.conf"), text).expect("conf");
}

fn holder(rig: &Rig) -> Pid {
    let pid = rig.place.read("pid");
    Pid::from_raw(pid.trim().parse().expect("a pid"))
}

fn freeze(agent: &Agent) {
    assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
}

#[test]
fn a_hook_that_holds_until_the_thaw_makes_an_application_consistent_freeze() {
    with_rig(|rig| {
        rig.hook("10-db", HOLDER);
        let agent = rig.agent();
        freeze(&agent);
        kill(holder(rig), None).expect("it is there while frozen");
        assert_eq!(rig.place.read("told"), "");
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.place.read("told"), "ok\n");
        assert_eq!(rig.place.report()["level"], "application");
    });
}

#[test]
fn a_lost_holder_lowers_the_level_and_is_told_if_the_settings_say_so() {
    with_rig(|rig| {
        rig.hook("10-db", HOLDER);
        let agent = rig.agent();
        let lose = || {
            freeze(&agent);
            kill(holder(rig), Signal::SIGKILL).expect("killed");
            let stat = format!("/proc/{}", holder(rig));
            wait_until("its end", || !fs::exists(&stat).expect("proc"));
        };
        lose();
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        let report = rig.place.report();
        assert_eq!(report["level"], "filesystem");
        let last = report["hooks"].as_array().and_then(|hooks| hooks.last());
        assert_eq!(last.expect("a hook")["lost"], true);

        conf(rig, "[hooks]\non-failure=abort\n");
        lose();
        let reply = agent.call("guest-fsfreeze-thaw");
        assert!(
            reply.contains("10-db thaw: did not hold until the thaw"),
            "{reply}"
        );
        assert!(!rig.disk.is_frozen());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(0));
    });
}

#[test]
fn whoever_thaws_for_a_dead_agent_releases_it() {
    with_rig(|rig| {
        rig.hook("10-db", HOLDER);
        let agent = rig.agent();
        freeze(&agent);
        agent.kill();
        // Its successor.
        let agent = rig.agent();
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(rig.place.read("told"), "recovered\n");
        assert!(!rig.disk.is_frozen());
    });
}

#[test]
fn a_failure_that_aborts_leaves_nothing_frozen_and_nothing_quiet() {
    with_rig(|rig| {
        conf(rig, "[hook 30-app]\non-failure=abort\n");
        rig.hook("10-db", HOLDER);
        rig.hook("20-note", "echo $1 >>\"$(dirname \"$0\")/../../calls\"");
        rig.hook("30-app", "[ $1 = thaw ] || { echo cannot; exit 9; }");
        rig.hook("40-never", "echo never >>\"$(dirname \"$0\")/../../calls\"");
        let agent = rig.agent();
        let reply = agent.call("guest-fsfreeze-freeze");
        for part in [
            "30-app freeze: exit status 9; its last output: cannot",
            "GenericError",
        ] {
            assert!(reply.contains(part), "{reply}");
        }
        assert!(!rig.disk.is_frozen());
        assert_eq!(rig.place.read("calls"), "freeze\nthaw\n");
        assert_eq!(rig.place.read("told"), "failed\n");
        let report = rig.place.report();
        assert_eq!(report["level"], "none");
        assert_eq!(
            agent.call("guest-fsfreeze-status"),
            "{\"return\": \"thawed\"}"
        );
    });
}

#[test]
fn told_to_stop_while_a_hook_freezes_every_hook_that_was_started_thaws() {
    with_rig(|rig| {
        rig.hook("10-db", HOLDER);
        rig.hook("20-note", "echo $1 >>\"$(dirname \"$0\")/../../calls\"");
        rig.hook(
            "30-slow",
            "echo slow $1 >>\"$(dirname \"$0\")/../../calls\"; [ $1 = thaw ] || sleep 25",
        );
        rig.hook("40-never", "echo never >>\"$(dirname \"$0\")/../../calls\"");
        let mut agent = rig.agent();
        let mut client = agent.connect();
        client.post(r#"{"execute":"guest-fsfreeze-freeze"}"#);
        wait_until("the hook", || rig.place.read("calls").contains("slow"));
        agent.signal(Signal::SIGTERM);
        let reply = client.line();
        assert!(reply.contains("the agent was asked to stop"), "{reply}");
        assert!(agent.wait().success());
        assert!(!rig.disk.is_frozen());
        let calls = rig.place.read("calls");
        let mut calls: Vec<&str> = calls.lines().collect();
        calls.sort_unstable();
        assert_eq!(calls, ["freeze", "slow freeze", "slow thaw", "thaw"]);
        assert_eq!(rig.place.read("told"), "failed\n");
    });
}

/// The settings of scripts that come from VMware, with a tools.conf that says this.
fn vmware(rig: &Rig, tools_conf: &str) {
    let script = rig.place.script("pre", "");
    let path = rig.place.path("tools.conf");
    fs::write(&path, format!("[vmbackup]\n{tools_conf}\n")).expect("tools.conf");
    let text = format!(
        "[vmware]\npre-freeze-script={}\ntools-conf={}\n",
        script.display(),
        path.display()
    );
    conf(rig, &text);
}

#[test]
fn vmware_s_tools_conf_says_which_filesystems_are_frozen() {
    with_rig(|rig| {
        let (above, _) = rig.disk.mountpoint().rsplit_once('/').expect("a path");
        vmware(rig, &format!("excludedFileSystems={above}*"));
        let agent = rig.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(0));
        assert!(!rig.disk.is_frozen());
        agent.call("guest-fsfreeze-thaw");
        agent.stop();

        vmware(rig, "enableSyncDriver=false");
        let agent = rig.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(0));
        assert!(!rig.disk.is_frozen());
        agent.call("guest-fsfreeze-thaw");
        agent.stop();
    });
}

#[test]
fn settings_that_cannot_be_read_fail_the_freeze() {
    with_rig(|rig| {
        rig.hook("10-db", "echo \"called as $(id -un)\"");
        conf(rig, "[hook 10-db\nuser=nobody\non-failure=abort\n");
        let agent = rig.agent();
        let answer = agent.call("guest-fsfreeze-freeze");
        assert!(answer.contains("fsfreeze-hook.conf (line 1)"), "{answer}");
        assert!(!rig.disk.is_frozen());
        assert!(!rig.log().iter().any(|line| line.contains("called as")));
    });
}
