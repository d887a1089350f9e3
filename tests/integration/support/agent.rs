//! The binary under test and the directory in which it runs.

use super::{Client, PATIENCE, binary, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Whether the agent under test is ours; another one is not held to what differs on purpose.
pub fn is_ours() -> bool {
    static OURS: LazyLock<bool> = LazyLock::new(|| {
        let said = Command::new(binary()).arg("-V").output().expect("runs");
        String::from_utf8_lossy(&said.stdout).contains("qemu-ga-rs")
    });
    *OURS
}

/// The agent under test, or ours for its tools if another is under test.
pub fn our_binary() -> PathBuf {
    if is_ours() {
        binary()
    } else {
        env!("CARGO_BIN_EXE_qemu-ga").into()
    }
}

/// Copies a program. Another process does it, for what any process of ours, even one that a test
/// beside this one is just starting, holds open for writing cannot be executed (ETXTBSY).
pub fn install(from: &Path, to: &Path) {
    let done = Command::new("install")
        .args(["-m", "755"])
        .args([from, to])
        .status();
    assert!(done.expect("install").success());
}

/// A directory with all that one agent needs.
pub struct Place {
    dir: TempDir,
    /// Id of the report that was told last.
    told: RefCell<Option<serde_json::Value>>,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("qga-")
            .tempdir()
            .expect("dir");
        fs::create_dir(dir.path().join("state")).expect("dir");
        // An agent without privileges must get through to its socket.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), open).expect("mode");
        Self {
            dir,
            told: RefCell::new(None),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// [`Place::path`] as text.
    pub fn name(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn marker(&self) -> PathBuf {
        self.path("state/qga.state.isfrozen")
    }

    /// The report of the last freeze, which is another one than at the last call. It is written after the
    /// answer to the thaw.
    pub fn report(&self) -> serde_json::Value {
        let mut found = None;
        wait_until("the report", || {
            let newest = self.newest_report();
            // Of several freezes the last may still be missing.
            let is_settled = newest.is_some() && newest == found;
            found = newest;
            let is_new = found.as_ref().map(|report| &report["id"]) != self.told.borrow().as_ref();
            sleep(Duration::from_millis(30));
            is_settled && is_new
        });
        let report = found.expect("waited for");
        self.told.replace(Some(report["id"].clone()));
        report
    }

    /// The newest report that is kept now.
    pub fn newest_report(&self) -> Option<serde_json::Value> {
        let text = fs::read(self.path("state/qga.reports.json")).ok()?;
        let mut reports: Vec<serde_json::Value> = serde_json::from_slice(&text).expect("JSON");
        Some(reports.swap_remove(0))
    }

    /// An executable shell script.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let draft = self.path("draft");
        fs::write(&draft, format!("#!/bin/sh\n{text}\n")).expect("script");
        install(&draft, &path);
        path
    }

    /// The argument for a hook that notes in `calls` what it is told and why.
    pub fn noting_hook(&self) -> String {
        let calls = self.name("calls");
        let hook = self.script("hook", &format!("echo $1 $QGA_THAW_REASON >>'{calls}'"));
        format!("-F{}", hook.display())
    }

    /// The binary with a configuration that no file of this machine has a part in.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .env("QGA_CONF", self.path("no.conf"))
            .env("LC_ALL", "C")
            // No hook sees it.
            .env_remove("QGA_BINARY_UNDER_TEST")
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command().args(args).output().expect("runs")
    }

    /// The binary as an agent on a unix socket, its log in `log`, its stderr in `stderr`.
    pub fn agent_command(&self, args: &[&str]) -> Command {
        let mut command = self.command();
        self.add_arguments(&mut command, args);
        command
    }

    /// Gives `command` the arguments and the stderr of [`Place::agent_command`].
    pub fn add_arguments(&self, command: &mut Command, args: &[&str]) {
        command.args(["-m", "unix-listen", "-p"]);
        command.arg(self.path("sock"));
        command.arg("-t").arg(self.path("state"));
        command.arg("-l").arg(self.path("log"));
        command.args(args);
        // Runs tests of freezing, hooks and guardian under another profile.
        if let Some(profile) = std::env::var_os("QGA_TEST_PROFILE") {
            command.arg("--profile").arg(profile);
        }
        command.stderr(File::create(self.path("stderr")).expect("stderr"));
    }

    /// Starts an agent by a command that ends in it, and waits until it listens.
    pub fn agent_under(&self, starter: &[&str], args: &[&str]) -> Agent {
        let mut command = Command::new(starter[0]);
        command.args(&starter[1..]).arg(binary());
        command.env("QGA_CONF", self.path("no.conf"));
        self.add_arguments(&mut command, args);
        Agent::start(command, &self.path("sock"))
    }

    /// Starts an agent and waits until it listens.
    pub fn agent(&self, args: &[&str]) -> Agent {
        Agent::start(self.agent_command(args), &self.path("sock"))
    }
}

/// A running agent; killed when dropped.
pub struct Agent {
    pub child: Child,
    socket: PathBuf,
}

impl Agent {
    /// Starts `command` and waits until it listens at `socket`.
    pub fn start(mut command: Command, socket: &Path) -> Self {
        fs::remove_file(socket).ok();
        let mut agent = Self {
            child: command.spawn().expect("the agent starts"),
            socket: socket.to_owned(),
        };
        wait_until("the agent listens", || {
            // One that has listened may have ended since, as some tests want it to.
            if socket.exists() {
                return true;
            }
            if let Some(status) = agent.child.try_wait().expect("wait") {
                let told = socket.with_file_name("stderr");
                let told = fs::read_to_string(told).unwrap_or_default();
                panic!("the agent ended at once: {status}: {told}");
            }
            false
        });
        agent
    }

    /// Takes over a child that listens nowhere.
    pub fn adopt(child: Child) -> Self {
        Self {
            child,
            socket: PathBuf::new(),
        }
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        // Between bind and listen the socket refuses.
        let start = Instant::now();
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return Client::new(stream),
                Err(error) => assert!(start.elapsed() < PATIENCE, "connect: {error}"),
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// One command on a connection of its own.
    pub fn call(&self, command: &str) -> String {
        self.connect().call(command)
    }

    pub fn pid(&self) -> i32 {
        self.child.id().try_into().expect("a pid")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// It is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("signal");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the agent ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("status")
    }

    /// SIGTERM and its consequence.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// The guardians that it has started and that have not ended.
    pub fn guardians(&self) -> Vec<Pid> {
        let is_own = |pid: &i32| {
            let read =
                |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let parent = read("stat").rsplit_once(") ").and_then(|(_, rest)| {
                rest.split(' ')
                    .nth(1)
                    .and_then(|field| field.parse::<i32>().ok())
            });
            parent == Some(self.pid()) && read("cmdline").contains("guardian")
        };
        fs::read_dir("/proc")
            .expect("proc")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(is_own)
            .map(Pid::from_raw)
            .collect()
    }

    /// Whether one of its threads is inside FIFREEZE.
    pub fn is_in_fifreeze(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("task");
        tasks.flatten().any(|task| {
            let call = fs::read_to_string(task.path().join("syscall"));
            // The second argument of ioctl(2), as linux/fs.h has it.
            call.is_ok_and(|call| call.contains(" 0xc0045877 "))
        })
    }

    /// Bytes of memory of its own.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("status");
        let mut lines = status.lines();
        let kibibytes = lines.find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
        let number: u64 = kibibytes.expect("RssAnon").trim().parse().expect("number");
        number << 10
    }

    /// A field of /proc/PID/stat, numbered as in proc(5).
    fn stat(&self, field: usize) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("stat");
        let rest = stat.rsplit_once(") ").expect("a name in parentheses").1;
        let text = rest.split(' ').nth(field - 3).expect("field");
        text.parse().expect("number")
    }

    /// Waits until it uses no processor time any more, which a spinning agent never does.
    pub fn comes_to_rest(&self) {
        let ticks = || self.stat(14) + self.stat(15);
        let mut before = ticks();
        wait_until("the agent comes to rest", || {
            sleep(Duration::from_millis(300));
            let after = ticks();
            std::mem::replace(&mut before, after) == after
        });
    }
}

/// Whether this process has neither ended nor been killed.
pub fn is_running(pid: &Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until none of these processes runs any more.
pub fn wait_for_exit(processes: &[Pid]) {
    wait_until("the processes to end", || !processes.iter().any(is_running));
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        // One that hangs in a frozen filesystem ends with the thaw, which comes later.
        for _ in 0..200 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            sleep(Duration::from_millis(5));
        }
        // A call that src/agent/system_calls.rs lacks fails any test.
        let log = fs::read_to_string(self.socket.with_file_name("log")).unwrap_or_default();
        let refused = log.lines().find(|line| line.contains(": system call "));
        assert!(refused.is_none() || std::thread::panicking(), "{refused:?}");
    }
}
