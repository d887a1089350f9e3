//! Hooks that stay alive from freeze to thaw.

use std::fs;
use std::time::Duration;

use qemu_ga::hooks::{HookStatus, ThawReason, Verdict};
use qemu_ga::sys::process::kill;

use crate::support::{Place, executable};

/// Holds until it is released, and tells what it was told.
const HOLDER: &str = "\
# qga-hook: type = hold
echo begins; echo $$ >\"$(dirname \"$0\")/../pid\"
echo ready >&3
read -r reason || reason=failed
echo \"released: $reason\"
[ \"$reason\" != timed-out ]";

fn pid(place: &Place) -> i32 {
    place.lines("pid")[0].parse().expect("a pid")
}

fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn wait_until(what: impl Fn() -> bool) {
    // Ends with the test runner's own limit if it never comes.
    while !what() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_holds_from_freeze_to_thaw_and_is_told_why() {
    let place = Place::new();
    place.hook("10-db", HOLDER);
    place.hook("20-app", "");
    let report = place.freeze();
    assert_eq!(report.failure, None);
    assert!(
        report.hooks.iter().all(|hook| hook.is_success()),
        "{:?}",
        report.hooks
    );
    assert!(
        is_running(pid(&place)),
        "it holds after the master has ended"
    );
    let log = place.log();
    assert_eq!(
        log[..3],
        ["execute 10-db freeze", "begins", "10-db is ready and holds"],
        "{log:?}"
    );
    let hooks = place.thaw(ThawReason::Ok).hooks;
    assert_eq!(hooks[1].status, HookStatus::Exited(0));
    assert!(!hooks[1].lost);
    wait_until(|| !is_running(pid(&place)));
    let log = place.log();
    assert_eq!(
        log[log.len() - 3..],
        [
            "release 10-db ok",
            "released: ok",
            "10-db finished with status=0"
        ]
    );
    assert!(
        !place.path.join("qga.hooks.0").exists(),
        "the socket is gone"
    );
    // Never called with thaw.
    assert!(
        !log.iter().any(|line| line == "execute 10-db thaw"),
        "{log:?}"
    );
}

#[test]
fn one_that_ends_before_its_time_is_told_of() {
    let place = Place::new();
    place.hook("1", HOLDER);
    place.freeze();
    kill(pid(&place), nix::libc::SIGKILL).expect("killed");
    wait_until(|| !is_running(pid(&place)));
    let report = place.thaw(ThawReason::Ok);
    assert_eq!(report.failure, None, "by default it only lowers the level");
    assert!(report.hooks[0].lost);
    assert_eq!(report.hooks[0].status, HookStatus::Signaled(9));
    assert!(!report.hooks[0].is_success());

    place.conf("[hooks]\non-failure=abort\n");
    place.freeze();
    kill(pid(&place), nix::libc::SIGKILL).expect("killed");
    wait_until(|| !is_running(pid(&place)));
    let failure = place
        .thaw(ThawReason::Ok)
        .failure
        .expect("told to the host");
    assert!(
        failure.contains("/1 thaw: did not hold until the thaw"),
        "{failure}"
    );
}

#[test]
fn one_that_never_becomes_ready_is_ended() {
    let place = Place::new();
    place.hook(
        "1",
        "# qga-hook: type=hold\n# qga-hook: timeout=0.2\necho waits; exec sleep 1000",
    );
    place.hook("2", "# qga-hook: type=hold\nexit 77");
    place.hook("3", "# qga-hook: type=hold\necho no lock >&2; exit 4");
    place.hook("4", "# qga-hook: type=hold\nexit 0");
    let script = "#!/nowhere\n# qga-hook: type=hold\n";
    executable(&place.dir().join("5"), script);
    let hooks = place.freeze().hooks;
    let ends: Vec<_> = hooks.iter().map(|hook| hook.status.number()).collect();
    assert_eq!(ends, [124, 77, 4, 0, 127], "{hooks:?}");
    assert_eq!(hooks[3].verdict, Some(Verdict::Failure));
    let early = "4 finished with status=0 (before it was ready)".to_owned();
    assert!(place.log().contains(&early), "{:?}", place.log());
    assert_eq!(hooks[1].verdict, Some(Verdict::NotApplicable));
    assert_eq!(hooks[2].output, "no lock\n");
    assert_eq!(place.thaw(ThawReason::Ok).hooks, [], "none of them holds");
}

#[test]
fn one_that_does_not_let_go_is_ended_and_its_limit_is_kept() {
    let place = Place::new();
    place.conf("[hook 1]\ntimeout=1\n[hook 2]\nhold-timeout=0.2\n");
    place.hook(
        "1",
        "# qga-hook: type = hold\necho ready >&3; read reason; while :; do sleep 1000; done",
    );
    place.hook("2", HOLDER);
    place.freeze();
    wait_until(|| !is_running(pid(&place)));
    let hooks = place.thaw(ThawReason::Ok).hooks;
    assert_eq!(hooks[0].status, HookStatus::TimedOut);
    assert!(hooks[0].lost, "its limit had passed");
    assert!(place.log().contains(&"released: timed-out".to_owned()));
    assert_eq!(hooks[1].status, HookStatus::TimedOut);
    assert!(!hooks[1].lost);
}

#[test]
fn it_lets_go_when_its_holder_dies() {
    let place = Place::new();
    let outside = place.path.join("outside");
    place.hook(
        "1",
        &HOLDER.replace(
            "echo \"released: $reason\"",
            &format!("echo $reason >'{}'", outside.display()),
        ),
    );
    place.freeze();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid(&place))).expect("stat");
    let parent = stat
        .split_whitespace()
        .nth(3)
        .expect("ppid")
        .parse()
        .expect("number");
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).expect("comm");
    assert_eq!(name, "qga-hook-holder\n");
    kill(parent, nix::libc::SIGKILL).expect("killed");
    wait_until(|| fs::read_to_string(&outside).is_ok_and(|told| told == "failed\n"));
    let hooks = place.thaw(ThawReason::Ok).hooks;
    assert!(hooks[0].lost);
    assert!(
        place
            .log()
            .iter()
            .any(|l| l.contains("its holder does not answer")),
        "{:?}",
        place.log()
    );
}

#[test]
fn a_second_freeze_lets_the_holders_of_the_first_go() {
    let place = Place::new();
    place.hook("1", HOLDER);
    place.freeze();
    let first = pid(&place);
    place.freeze();
    assert_ne!(pid(&place), first);
    wait_until(|| !is_running(first));
    assert!(place.log().contains(&"released: recovered".to_owned()));
    assert!(place.thaw(ThawReason::Ok).hooks[0].is_success());
}

#[test]
fn what_failed_later_lets_it_go_too() {
    let place = Place::new();
    place.conf("[hook 2]\non-failure=abort\n");
    place.hook("1", HOLDER);
    place.hook("2", "exit 1");
    assert!(place.freeze().failure.is_some());
    place.thaw(ThawReason::Failed);
    assert!(place.log().contains(&"released: failed".to_owned()));
    wait_until(|| !is_running(pid(&place)));
}
