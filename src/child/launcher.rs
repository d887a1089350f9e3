//! `qemu-ga launcher`: starts programs for a confined agent (floor 2).
//!
//! An agent with the profile `backup` may execute nothing, and what it gives up is given up for its children, too; but the
//! guardian and the hooks need all of root's rights. So the agent starts this process first and asks it for each program.
//! The new process is a child of the agent (CLONE_PARENT in clone(2)), which follows and reaps it as any other.
//!
//! The launcher does not trust the agent: it starts the guardian, the restore hooks, and hook masters that it was told of
//! before the agent had read a byte of its host. Of their environment the agent sets only variables of this project, and
//! the guardian is told what it may accept of the agent. Another thread changes the state directory for the agent
//! ([`crate::state::writer`]). The launcher ends with the agent.

use super::run::prepared;
use super::{Child, PreExecWrite};
use crate::ipc::Connection;
use crate::sys::fds::names_no_file;
use crate::sys::guardian::{line_from_agent, service_cgroup_escape};
use crate::sys::process;
use crate::sys::spawn::{SpawnError, reap, spawn_sibling};
use crate::sys::strerror;
use crate::sys::syslog::{Severity, Syslog};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// As the first argument it makes this program the launcher.
pub(crate) const WORD: &str = "launcher";
const NAME: &CStr = c"qga-launcher";

/// execve(2) reads the program from a disk that may be busy.
const LAUNCHER_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

const GUARDIAN_ARGS: [&str; 1] = ["guardian"];
const FREEZE: &str = "freeze";
const THAW: &str = "thaw";
/// It waits for changes of small files.
const FILES_STACK_SIZE: usize = 128 * 1024;
/// How the names of all variables begin that a hook master gets.
const VARIABLE_PREFIX: &[u8] = b"QGA_";

/// The first message.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Permissions {
    /// Hook masters that may be started.
    pub(crate) hooks: Vec<PathBuf>,
    /// With which arguments this program may be started to run the restore hooks; `None`: not at all.
    pub(crate) restored: Option<Vec<OsString>>,
    /// What each program has in its environment, whatever the agent asks for.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The same for the guardian alone.
    pub(crate) guardian_env: (OsString, OsString),
}

/// Stdin, output, the passed descriptors and those of the announcements come with it, in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    passed: Vec<Option<OsString>>,
    announcements: Vec<Vec<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Started {
    /// With the errno of execve(2) if that failed; the agent reaps the process.
    Process(i32, Option<i32>),
    /// With the errno; there is no process.
    Failed(i32),
}

static CURRENT: OnceLock<Launcher> = OnceLock::new();

/// The agent's connection to its launcher.
#[derive(Debug)]
pub(crate) struct Launcher(Mutex<Connection>);

/// All children are started by it from now on. `files` is for the thread that [`cli`] starts.
pub(crate) fn start(permissions: &Permissions, files: UnixStream) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let null = File::options().write(true).open("/dev/null")?;
    let child = Child::self_exe().arg(WORD).stdin_from(theirs.into());
    child.output_to(null).start(&mut |_| ())?;
    let mut launcher = Connection::from(ours);
    launcher.send_with_fds(permissions, &[files.as_fd()], LAUNCHER_RESPONSE_TIMEOUT)?;
    // Before it has blocked its signals, one to the whole service would end it alone.
    let () = launcher.recv(Some(LAUNCHER_RESPONSE_TIMEOUT))?;
    // The agent calls this once, before other threads exist.
    let _ = CURRENT.set(Launcher(Mutex::new(launcher)));
    Ok(())
}

/// `None`: this process starts programs itself.
pub(crate) fn current() -> Option<&'static Launcher> {
    CURRENT.get()
}

impl Launcher {
    pub(super) fn spawn(&self, child: &Child, stdio: [&OwnedFd; 2]) -> Result<i32, SpawnError> {
        match self.request(child, stdio).map_err(SpawnError::Fork)? {
            Started::Process(pid, None) => Ok(pid),
            Started::Process(pid, Some(errno)) => {
                // It exits at once; its status says nothing.
                let _ = reap(pid);
                Err(SpawnError::Exec(io::Error::from_raw_os_error(errno)))
            }
            Started::Failed(errno) => Err(SpawnError::Fork(io::Error::from_raw_os_error(errno))),
        }
    }

    fn request(&self, child: &Child, stdio: [&OwnedFd; 2]) -> io::Result<Started> {
        let texts = child.announcements.iter().map(|write| write.text.clone());
        let start = Start {
            program: child.program.clone(),
            arg0: child.arg0.clone(),
            args: child.args.clone(),
            env: child.env.clone(),
            passed: child.passed.iter().map(|(_, name)| name.clone()).collect(),
            announcements: texts.collect(),
        };
        let mut fds = stdio.map(AsFd::as_fd).to_vec();
        fds.extend(child.passed.iter().map(|(fd, _)| fd.as_fd()));
        fds.extend(child.announcements.iter().map(|write| write.fd.as_fd()));
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let started = connection
            .send_with_fds(&start, &fds, LAUNCHER_RESPONSE_TIMEOUT)
            .and_then(|()| connection.recv(Some(LAUNCHER_RESPONSE_TIMEOUT)));
        started.map_err(|error| {
            // A late answer must not be taken for that to the next request. It ends the launcher, too.
            connection.shutdown_write().ok();
            let why = strerror(&error);
            io::Error::other(format!(
                "qga-launcher does not answer: {why}; restart the agent"
            ))
        })
    }
}

/// The launcher's process. `serve_files` runs on a thread of its own: a directory that is frozen must not keep a hook from
/// its thaw.
pub(crate) fn cli(serve_files: fn(Connection)) -> u8 {
    process::set_process_name(NAME);
    // A service manager signals all processes of the service. The agent may still need the launcher: for the thaw hooks.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    let served = signals
        .thread_block()
        .map_err(io::Error::from)
        .and_then(|()| serve(Connection::from(line_from_agent()?), serve_files));
    u8::from(served.is_err())
}

fn serve(mut agent: Connection, serve_files: fn(Connection)) -> io::Result<()> {
    let permissions: Permissions = agent.recv(Some(LAUNCHER_RESPONSE_TIMEOUT))?;
    let files = agent.take_fds().pop().ok_or(io::ErrorKind::InvalidData)?;
    std::thread::Builder::new()
        .stack_size(FILES_STACK_SIZE)
        .spawn(move || serve_files(UnixStream::from(files).into()))?;
    agent.send(&(), LAUNCHER_RESPONSE_TIMEOUT)?;
    loop {
        let start: Start = match agent.recv(None) {
            Ok(start) => start,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let fds = agent.take_fds();
        let started = if permissions.allow(&start) && fds.iter().all(names_no_file) {
            launch(start, fds, &permissions)
        } else {
            let text = format!(
                "warning: the confined agent asked to start {} {:?}, which is not allowed: refused",
                Path::new(&start.program).display(),
                start.args
            );
            // What is lost with a log daemon that does not answer was refused all the same.
            let mut log = Syslog::connect("qemu-ga");
            log.send(Severity::Warning, &text).ok();
            Err(io::Error::from_raw_os_error(nix::libc::EPERM))
        };
        let started = started.unwrap_or_else(|error| {
            Started::Failed(error.raw_os_error().unwrap_or(nix::libc::EIO))
        });
        agent.send(&started, LAUNCHER_RESPONSE_TIMEOUT)?;
    }
}

impl Permissions {
    fn allow(&self, start: &Start) -> bool {
        let variables = start.env.iter().map(|(name, _)| name);
        let mut variables = variables.chain(start.passed.iter().flatten());
        // Not LD_PRELOAD, PATH and their like.
        if !variables.all(|name| name.as_bytes().starts_with(VARIABLE_PREFIX)) {
            return false;
        }
        // The number of a descriptor would replace the value.
        let is_fixed = |name: &OsString| self.env.iter().any(|(fixed, _)| fixed == name);
        if start.passed.iter().flatten().any(is_fixed) {
            return false;
        }
        if start.program == "/proc/self/exe" {
            return start.args == GUARDIAN_ARGS || Some(&start.args) == self.restored.as_ref();
        }
        let is_phase = |word: &OsString| word == FREEZE || word == THAW;
        self.hooks
            .iter()
            .any(|hook| hook == Path::new(&start.program))
            && matches!(&start.args[..], [word] if is_phase(word))
    }
}

fn launch(start: Start, fds: Vec<OwnedFd>, permissions: &Permissions) -> io::Result<Started> {
    let mut fds = fds.into_iter();
    let mut next_fd = || fds.next().ok_or(io::ErrorKind::InvalidData);
    let (input, output) = (next_fd()?, next_fd()?);
    let mut child = Child::new(&start.program).args(&start.args);
    child.arg0 = start.arg0;
    child.env = start.env;
    if start.args == [THAW] {
        // The agent cannot: it may write to no control group. Without it the hooks stay in the service's.
        child.announcements = service_cgroup_escape().unwrap_or_default();
    }
    for name in start.passed {
        child.passed.push((next_fd()?, name));
    }
    for text in start.announcements {
        let fd = next_fd()?;
        child.announcements.push(PreExecWrite { fd, text });
    }
    let of_guardian = (start.args == GUARDIAN_ARGS).then_some(&permissions.guardian_env);
    for (name, value) in permissions.env.iter().chain(of_guardian) {
        child = child.env(name, value);
    }
    let (pid, errno) = prepared(&child, [&input, &output], spawn_sibling)??;
    Ok(Started::Process(pid, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(program: &str, args: &[&str], variable: &str) -> bool {
        let permissions = Permissions {
            hooks: vec!["/etc/hook".into()],
            restored: Some(["hook", "restored", "/file"].map(Into::into).to_vec()),
            env: vec![("QGA_BINARY".into(), "/x".into())],
            guardian_env: Default::default(),
        };
        permissions.allow(&Start {
            program: program.into(),
            arg0: None,
            args: args.iter().map(OsString::from).collect(),
            env: vec![(variable.into(), Some("x".into()))],
            passed: vec![Some("QGA_HOOK_ALIVE_FD".into()), None],
            announcements: Vec::new(),
        })
    }

    #[test]
    fn only_the_guardian_and_known_hooks_are_started() {
        assert!(is_allowed("/proc/self/exe", &["guardian"], "QGA_PHASE"));
        let restored = ["hook", "restored", "/file"];
        assert!(is_allowed("/proc/self/exe", &restored, "QGA_PHASE"));
        assert!(is_allowed("/etc/hook", &["freeze"], "QGA_PHASE"));
        assert!(is_allowed("/etc/hook", &["thaw"], "QGA_PHASE"));
        for (program, args, variable) in [
            ("/proc/self/exe", &["selftest"][..], "QGA_PHASE"),
            ("/proc/self/exe", &["guardian", "x"], "QGA_PHASE"),
            (
                "/proc/self/exe",
                &["hook", "restored", "/other"],
                "QGA_PHASE",
            ),
            ("/proc/self/exe", &restored, "PATH"),
            ("/proc/self/exe", &[], "QGA_PHASE"),
            ("/etc/other", &["freeze"], "QGA_PHASE"),
            ("hook", &["freeze"], "QGA_PHASE"),
            ("/etc/hook", &["x"], "QGA_PHASE"),
            ("/etc/hook", &["freeze", "x"], "QGA_PHASE"),
            ("/etc/hook", &["freeze"], "LD_PRELOAD"),
            ("/proc/self/exe", &["guardian"], "PATH"),
        ] {
            assert!(
                !is_allowed(program, args, variable),
                "{program} {args:?} {variable}"
            );
        }
    }
}
