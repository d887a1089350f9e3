//! Children that behave badly.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::*;

const ACTION: &str = "execute fsfreeze hook";

fn sh(script: &str) -> Child {
    Child::new("/bin/sh").arg("-c").arg(script)
}

fn run(child: Child) -> ChildOutcome {
    child.run().expect("followed")
}

fn text(outcome: &ChildOutcome) -> String {
    String::from_utf8(outcome.output.clone()).expect("text")
}

/// True unless the process is gone or a zombie.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn cancel() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe")
}

fn run_and_cancel(child: Child, lines: usize) -> ChildOutcome {
    let (fd, trigger) = cancel();
    let mut trigger = Some(trigger);
    let mut seen = 0;
    let mut watch = |bytes: &[u8]| {
        seen += bytes.iter().filter(|&&byte| byte == b'\n').count();
        if seen >= lines {
            trigger = None;
        }
    };
    child.cancel_on(fd).run_with(&mut watch).expect("followed")
}

#[test]
fn what_a_signal_has_stopped_is_ended_and_what_goes_on_is_not() {
    let limit = Duration::from_millis(300);
    let stopped = run(sh("kill -STOP $$").stopped_limit(limit));
    assert_eq!(stopped.status, ChildStatus::Stopped);
    let failure = stopped.failure(ACTION).expect("a failure");
    assert!(failure.contains("stopped by a signal"), "{failure}");
    let busy = run(sh("sleep 1").stopped_limit(limit));
    assert_eq!(busy.status, ChildStatus::Exited(0));
}

#[test]
fn wire_texts() {
    let failure = |script: &str| run(sh(script)).failure(ACTION);
    assert_eq!(failure("echo fine"), None);
    assert_eq!(
        failure("echo out-text; echo err-text >&2; exit 3").as_deref(),
        Some("child process has failed to execute fsfreeze hook: out-text\nerr-text\n")
    );
    assert_eq!(
        failure("exit 3").as_deref(),
        Some("child process has failed to execute fsfreeze hook: exit status 3")
    );
    assert_eq!(
        failure("kill -9 $$").as_deref(),
        Some("child process has terminated abnormally")
    );
    assert_eq!(
        failure("echo dying; kill -TERM $$").as_deref(),
        Some("child process has terminated abnormally: dying\n")
    );
    assert_eq!(
        failure(r"printf 'a\0b'; exit 1").as_deref(),
        Some("child process has failed to execute fsfreeze hook: a")
    );
    assert_eq!(
        failure(r"printf '\0b'; exit 4").as_deref(),
        Some("child process has failed to execute fsfreeze hook: exit status 4")
    );
}

#[test]
fn not_executable() {
    let outcome = run(Child::new("/nonexistent/hook"));
    assert_eq!(outcome.exec_errno, Some(2));
    assert_eq!(
        outcome.failure(ACTION).as_deref(),
        Some(
            "child process has failed to execute fsfreeze hook: failed to exec \
             '/nonexistent/hook': No such file or directory\n"
        )
    );
    let outcome = run(Child::new("/dev/null"));
    assert_eq!(
        outcome.failure(ACTION).as_deref(),
        Some(
            "child process has failed to execute fsfreeze hook: failed to exec '/dev/null': \
             Permission denied\n"
        )
    );
    let error = Child::new("a\0b").run().expect_err("a NUL in the name");
    assert!(
        error
            .text(ACTION)
            .starts_with("failed to create child process: "),
        "{error}"
    );
}

#[test]
fn searches_path_and_runs_scripts_without_interpreter() {
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("only-here");
    fs::write(&file, "echo ran $1\n").expect("script");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("mode");
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let outcome = run(Child::new("only-here").arg("freeze").env("PATH", path));
    assert_eq!(text(&outcome), "ran freeze\n");
}

#[test]
fn own_session_clean_signals_and_no_descriptor_of_ours() {
    // A descriptor that lacks close-on-exec, as one that the agent itself was given.
    let leaked = File::open("/dev/null").expect("null");
    let leaked = nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_DUPFD(100)).expect("dup");
    let outcome = run(sh("cat /proc/$$/stat; ls /proc/$$/fd"));
    // Not of a shell: one blocks signals while it forks.
    let status = text(&run(Child::new("cat").arg("/proc/self/status")));
    nix::unistd::close(leaked).expect("close");
    let said = text(&outcome);
    let mut lines = said.lines();
    let stat: Vec<&str> = lines.next().expect("stat").split(' ').collect();
    assert_eq!(
        (stat[0], stat[0]),
        (stat[4], stat[5]),
        "group and session are its own: {said}"
    );
    assert_eq!(lines.collect::<Vec<_>>(), ["0", "1", "2"]);
    let mask = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a mask");
        u64::from_str_radix(line.trim(), 16).expect("hex")
    };
    assert_eq!(mask("SigBlk:"), 0);
    assert_eq!(mask("SigIgn:") & (1 << (nix::libc::SIGPIPE - 1)), 0);
}

#[test]
fn group_stays_in_our_session() {
    let outcome = run(sh("cat /proc/$$/stat").family(Family::Group));
    let said = text(&outcome);
    let stat: Vec<&str> = said.split(' ').collect();
    assert_eq!(stat[0], stat[4]);
    let ours = nix::unistd::getsid(None).expect("session");
    assert_eq!(stat[5], ours.to_string());
}

#[test]
fn stdin_environment_and_passed_descriptor() {
    assert_eq!(text(&run(sh("readlink /proc/$$/fd/0"))), "/dev/null\n");

    // More than a pipe holds, echoed while it is fed.
    let input: Vec<u8> = (0..300_000).map(|n| b'a' + (n % 26) as u8).collect();
    let outcome = run(Child::new("cat").stdin(input.clone()).output_limit(1 << 20));
    assert!(
        outcome.output == input,
        "{} bytes came back",
        outcome.output.len()
    );

    // Not read at all: no error, and no wait.
    let outcome = run(sh("exec 0<&-; exit 7").stdin(vec![b'x'; 1 << 20]));
    assert_eq!(outcome.status, ChildStatus::Exited(7));

    let outcome = run(sh("echo $A-${HOME-none}")
        .env("A", "b c")
        .env_remove("HOME"));
    assert_eq!(text(&outcome), "b c-none\n");

    let mut file = tempfile::tempfile().expect("file");
    let passed = file.try_clone().expect("clone").into();
    let outcome = run(sh("echo told >>/dev/fd/$N; ls /proc/$$/fd").pass_fd(passed, "N"));
    assert_eq!(
        text(&outcome).lines().count(),
        4,
        "the usual three and this one"
    );
    let mut content = String::new();
    file.rewind().expect("rewind");
    file.read_to_string(&mut content).expect("read");
    assert_eq!(content, "told\n");
}

#[test]
fn huge_output_is_read_and_cut() {
    let outcome = run(sh("head -c 10000000 /dev/zero; exit 1").output_limit(1000));
    assert_eq!(outcome.status, ChildStatus::Exited(1));
    assert_eq!(outcome.output.len(), 1000);

    let mut seen = 0;
    let outcome = sh("head -c 300000 /dev/zero")
        .output_limit(0)
        .run_with(&mut |bytes| seen += bytes.len());
    assert!(outcome.expect("followed").output.is_empty());
    assert_eq!(seen, 300_000);
}

#[test]
fn the_last_output_is_kept_even_without_a_grace_period() {
    let outcome = run(sh("head -c 60000 /dev/zero")
        .output_grace(Duration::ZERO)
        .output_limit(1 << 20));
    assert_eq!(outcome.output.len(), 60_000);
}

#[test]
fn a_background_program_with_our_pipe_does_not_delay() {
    let outcome = run(sh("sleep 1000 & echo $!"));
    assert_eq!(outcome.status, ChildStatus::Exited(0));
    let pid = text(&outcome).trim().to_owned();
    // Had we waited for the end of the pipe, it would be gone now.
    assert!(runs(&pid), "{pid}");
    crate::sys::process::kill(pid.parse().expect("pid"), nix::libc::SIGKILL).expect("killed");
}

#[test]
fn a_background_flood_does_not_hold_us() {
    let script = "(while :; do echo xxxxxxxxxxxxxxxx || exit; done) & echo $! >&2";
    let outcome = run(sh(script).output_limit(100_000));
    assert_eq!(outcome.status, ChildStatus::Exited(0));
}

#[test]
fn output_to_a_file_goes_on_after_the_end() {
    let mut file = tempfile::tempfile().expect("file");
    let outcome = run(sh("echo a; echo b >&2").output_to(file.try_clone().expect("clone")));
    assert!(outcome.output.is_empty());
    let mut content = String::new();
    file.rewind().expect("rewind");
    file.read_to_string(&mut content).expect("read");
    assert_eq!(content, "a\nb\n");
}

#[test]
fn deadline() {
    let outcome = run(sh("sleep 1000").timeout(Some(Duration::from_millis(50))));
    assert_eq!(outcome.status, ChildStatus::TimedOut);
    let failure = outcome.failure(ACTION).expect("a failure");
    assert!(
        failure.starts_with(
            "child process has failed to execute fsfreeze hook: not finished in time, ended after "
        ),
        "{failure}"
    );
    // One that ends in time is not touched.
    let outcome = run(sh("exit 5").timeout(Some(Duration::from_secs(1000))));
    assert_eq!(outcome.status, ChildStatus::Exited(5));
}

#[test]
fn ends_the_whole_family() {
    // The leader, a background child, and a grandchild all ignore SIGTERM; another heeds it.
    let script = "trap '' TERM; sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!; wait' & \
                  (trap - TERM; exec sleep 1000) & echo $!; echo $$; wait; wait; wait";
    let outcome = run_and_cancel(sh(script).kill_grace(Duration::from_millis(100)), 4);
    assert_eq!(outcome.status, ChildStatus::Cancelled);
    let said = text(&outcome);
    assert_eq!(said.lines().count(), 4, "{said}");
    for pid in said.lines() {
        assert!(!runs(pid), "{pid} of {said:?} still runs");
    }
}

#[test]
fn ends_members_that_left_the_group() {
    // Job control gives the background program a group of its own in the session.
    let child = Child::new("bash")
        .arg("-c")
        .arg("set -m; sleep 1000 & echo $!; wait");
    let outcome = run_and_cancel(child, 1);
    assert_eq!(outcome.status, ChildStatus::Cancelled);
    let pid = text(&outcome).trim().to_owned();
    assert!(!runs(&pid), "{pid}");
}

#[test]
fn a_signal_to_a_cancelled_child_does_not_hide_that_it_was_cancelled() {
    for _ in 0..100 {
        let (fd, trigger) = cancel();
        let child = sh("echo >/proc/self/fd/$TRIGGER; kill -TERM $$").cancel_on(fd);
        let outcome = run(child.pass_fd(trigger, "TRIGGER"));
        assert_eq!(outcome.status, ChildStatus::Cancelled);
    }
}

#[test]
fn sigterm_lets_it_clean_up() {
    // Ready once sleep was executed: SIGTERM is lost on a child that is still between a shell's fork and its exec.
    let script = "trap 'echo cleaned; exit 0' TERM; sleep 1000 & \
                  until grep -q sleep /proc/$!/comm; do :; done; echo ready; wait";
    let outcome = run_and_cancel(sh(script).kill_grace(Duration::from_secs(10)), 1);
    assert_eq!(outcome.status, ChildStatus::Cancelled);
    // In between the shell may tell that its own child was terminated.
    let text = text(&outcome);
    assert!(
        text.starts_with("ready\n") && text.ends_with("cleaned\n"),
        "{text}"
    );
}

#[test]
fn no_zombie_is_left() {
    let outcome = run(sh("echo $$"));
    let pid = text(&outcome).trim().to_owned();
    assert!(!fs::exists(format!("/proc/{pid}")).expect("proc"));
}
