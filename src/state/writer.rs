//! Floor 2: changes of the state directory for a confined agent.
//!
//! The directory decides which programs the next thaw runs as root, and it is often all of /run. So an agent with the
//! profile `backup` can write nothing in it. Its launcher makes the few changes that a freeze needs, and no others: it
//! runs [`serve`], and [`StateDir`](super::StateDir) asks it once [`start`] was called.

use super::{EXPIRED, MARKER, Marker, REPORTS, replace, write_marker};
use crate::ipc::Connection;
use crate::sys::guardian::{SocketPath, bind_guardian_socket};
use crate::sys::process;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// A disk may be busy.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) const GUARDIAN_SOCKET: &str = "qga.guardian";

/// The first message: what may be changed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WritableFiles {
    pub(crate) statedir: PathBuf,
    /// Hook masters that a marker may name: the next agent calls that one.
    pub(crate) hooks: Vec<PathBuf>,
    pub(crate) pidfile: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Change {
    WriteMarker(Marker),
    RemoveMarker,
    /// The content comes as a memory file: reports may be longer than a message.
    ReplaceReports,
    ReplaceExpiry,
    RemoveExpiry,
    Listen,
    StopListening(SocketPath),
    /// The agent locks it: a lock of fcntl(2) belongs to a process.
    OpenPidFile,
    RemovePidFile,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    /// The listening socket comes with it.
    Listening(SocketPath),
    /// The pid file comes with it.
    Opened,
    /// With the errno.
    Failed(i32),
}

static CURRENT: OnceLock<StateWriter> = OnceLock::new();

/// The agent's connection to it.
#[derive(Debug)]
pub(crate) struct StateWriter(Mutex<Connection>);

/// All changes are made by the process at the other end from now on.
pub(crate) fn start(stream: UnixStream, files: &WritableFiles) -> io::Result<()> {
    let connection = Connection::from(stream);
    connection.send(files, CHANGE_TIMEOUT)?;
    // The agent calls this once, before other threads exist.
    let _ = CURRENT.set(StateWriter(Mutex::new(connection)));
    Ok(())
}

/// `None`: this process makes the changes itself.
pub(super) fn current() -> Option<&'static StateWriter> {
    CURRENT.get()
}

pub(crate) fn listen(statedir: &Path) -> io::Result<(UnixListener, SocketPath)> {
    match current() {
        Some(writer) => writer.listen(),
        None => bind_guardian_socket(&statedir.join(GUARDIAN_SOCKET)),
    }
}

pub(crate) fn stop_listening(path: SocketPath) {
    match current() {
        // A stale socket does no harm: the next guardian replaces it.
        Some(writer) => writer.request(&Change::StopListening(path)).unwrap_or(()),
        None => path.remove(),
    }
}

pub(crate) fn open_pid_file(path: &Path) -> io::Result<File> {
    match current() {
        Some(writer) => writer.open_pid_file(),
        None => create_pid_file(path),
    }
}

fn create_pid_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        // Not before the lock is held: the file may be a running agent's.
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

pub(crate) fn remove_pid_file(path: &Path) -> io::Result<()> {
    match current() {
        Some(writer) => writer.request(&Change::RemovePidFile),
        None => fs::remove_file(path),
    }
}

/// Whether it is the guardian's socket, by whichever name of the directory: /var/run or /run.
pub(crate) fn is_socket_in(path: &Path, statedir: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let directory = path.parent().and_then(real);
    path.file_name().is_some_and(|name| name == GUARDIAN_SOCKET)
        && directory.is_some()
        && directory == real(statedir)
}

impl StateWriter {
    pub(super) fn write_marker(&self, content: &Marker) -> io::Result<()> {
        self.request(&Change::WriteMarker(content.clone()))
    }

    pub(super) fn remove_marker(&self) -> io::Result<()> {
        self.request(&Change::RemoveMarker)
    }

    pub(super) fn remove_expiry(&self) -> io::Result<()> {
        self.request(&Change::RemoveExpiry)
    }

    pub(super) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let change = match name {
            REPORTS => Change::ReplaceReports,
            _ => Change::ReplaceExpiry,
        };
        let file = memfd_create(c"qga-state", MFdFlags::MFD_CLOEXEC)?;
        let mut file = File::from(file);
        file.write_all(content)?;
        let done = self.exchange(&change, &[file.as_fd()], Some(CHANGE_TIMEOUT));
        done.map(drop)
    }

    fn request(&self, change: &Change) -> io::Result<()> {
        self.exchange(change, &[], Some(CHANGE_TIMEOUT)).map(drop)
    }

    fn listen(&self) -> io::Result<(UnixListener, SocketPath)> {
        // Without a limit: an earlier agent may have frozen the directory, and the caller has a limit of its own.
        match self.exchange(&Change::Listen, &[], None)? {
            (Answer::Listening(path), Some(listener)) => Ok((listener.into(), path)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn open_pid_file(&self) -> io::Result<File> {
        match self.exchange(&Change::OpenPidFile, &[], Some(CHANGE_TIMEOUT))? {
            (Answer::Opened, Some(file)) => Ok(file.into()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn exchange(
        &self,
        change: &Change,
        fds: &[BorrowedFd<'_>],
        limit: Option<Duration>,
    ) -> io::Result<(Answer, Option<OwnedFd>)> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer: io::Result<Answer> = connection
            .send_with_fds(change, fds, CHANGE_TIMEOUT)
            .and_then(|()| connection.recv(limit));
        let answer = answer.inspect_err(|_| {
            // A late answer must not be taken for that to the next request.
            connection.shutdown_write().ok();
        });
        match answer? {
            Answer::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
            done => Ok((done, connection.take_fds().pop())),
        }
    }
}

/// The other end: until the agent has ended. `log` gets a line for what is refused.
pub(crate) fn serve(mut agent: Connection, log: &mut dyn FnMut(&str)) -> io::Result<()> {
    let files: WritableFiles = agent.recv(Some(CHANGE_TIMEOUT))?;
    let pid = agent.peer()?.pid();
    let has_ended = || process::stat(pid).is_none_or(|stat| stat.is_exiting);
    loop {
        let change: Change = match agent.recv(None) {
            Ok(change) => change,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let fds = agent.take_fds();
        // What an agent that was killed has asked for would disturb its guardian or the next agent.
        if has_ended() {
            return Ok(());
        }
        if let Err(why) = files.check(&change) {
            log(&why);
            agent.send(&Answer::Failed(libc::EPERM), CHANGE_TIMEOUT)?;
            continue;
        }
        let is_marker = matches!(change, Change::WriteMarker(_));
        let (answer, opened) = files.make(change, fds).unwrap_or_else(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            (Answer::Failed(errno), None)
        });
        // Then nothing was frozen, and the guardian may have looked for the marker before it was there. A guardian that
        // notices the end later removes it itself.
        if is_marker && has_ended() {
            return fs::remove_file(files.statedir.join(MARKER));
        }
        let passed: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
        agent.send_with_fds(&answer, &passed, CHANGE_TIMEOUT)?;
    }
}

impl WritableFiles {
    fn check(&self, change: &Change) -> Result<(), String> {
        match change {
            Change::WriteMarker(Marker {
                hook: Some(hook), ..
            }) if !self.hooks.contains(hook) => Err(format!(
                "the marker of the freeze was refused: it names {}, which is not the configured hook master",
                hook.display()
            )),
            Change::StopListening(socket) if !is_socket_in(socket.path(), &self.statedir) => {
                Err(format!(
                    "{} was not removed: it is not the guardian's socket",
                    socket.path().display()
                ))
            }
            _ => Ok(()),
        }
    }

    /// `pidfile` of an agent that has one.
    fn pidfile(&self) -> io::Result<&Path> {
        Ok(self.pidfile.as_deref().ok_or(io::ErrorKind::NotFound)?)
    }

    fn make(&self, change: Change, fds: Vec<OwnedFd>) -> io::Result<(Answer, Option<OwnedFd>)> {
        let path = |name| self.statedir.join(name);
        match change {
            Change::WriteMarker(content) => write_marker(&path(MARKER), &content)?,
            Change::RemoveMarker => fs::remove_file(path(MARKER))?,
            Change::ReplaceReports => replace_from(&path(REPORTS), fds)?,
            Change::ReplaceExpiry => replace_from(&path(EXPIRED), fds)?,
            Change::RemoveExpiry => fs::remove_file(path(EXPIRED))?,
            Change::Listen => {
                let (listener, socket) = bind_guardian_socket(&path(GUARDIAN_SOCKET))?;
                return Ok((Answer::Listening(socket), Some(listener.into())));
            }
            Change::StopListening(socket) => socket.remove(),
            Change::OpenPidFile => {
                let file = create_pid_file(self.pidfile()?)?;
                return Ok((Answer::Opened, Some(file.into())));
            }
            Change::RemovePidFile => fs::remove_file(self.pidfile()?)?,
        }
        Ok((Answer::Done, None))
    }
}

fn replace_from(path: &Path, mut fds: Vec<OwnedFd>) -> io::Result<()> {
    let mut file = File::from(fds.pop().ok_or(io::ErrorKind::InvalidData)?);
    file.rewind()?;
    let mut content = Vec::new();
    file.take(super::MAX_SIZE).read_to_end(&mut content)?;
    replace(path, &content, 0o600, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_changes_its_own_files_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let files = WritableFiles {
            statedir: dir.path().to_owned(),
            hooks: vec!["/etc/hook".into()],
            pidfile: Some(path("pid")),
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || {
            let mut refused = Vec::new();
            serve(Connection::from(theirs), &mut |why| {
                refused.push(why.to_owned())
            })
            .unwrap();
            refused
        });
        let connection = Connection::from(ours);
        connection.send(&files, CHANGE_TIMEOUT).unwrap();
        let writer = StateWriter(Mutex::new(connection));
        let marker = |hook: &str| Marker {
            hook: Some(hook.into()),
            ..Marker::default()
        };
        writer.write_marker(&marker("/etc/hook")).unwrap();
        let other = writer.write_marker(&marker("/tmp/other")).unwrap_err();
        assert_eq!(other.raw_os_error(), Some(libc::EPERM));
        let text = fs::read_to_string(path(MARKER)).unwrap();
        assert!(text.contains("/etc/hook"), "{text}");
        writer.remove_marker().unwrap();
        let gone = writer.remove_marker().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        let long = vec![b'x'; 1 << 20];
        writer.replace(REPORTS, &long).unwrap();
        assert_eq!(fs::read(path(REPORTS)).unwrap(), long);
        let (_listener, socket) = writer.listen().unwrap();
        assert!(path(GUARDIAN_SOCKET).exists());
        writer.open_pid_file().unwrap().write_all(b"1").unwrap();
        assert_eq!(fs::read(path("pid")).unwrap(), b"1");
        writer.request(&Change::RemovePidFile).unwrap();
        assert!(!path("pid").exists());
        let (_other, elsewhere) = bind_guardian_socket(&path("other")).unwrap();
        let kept = writer.request(&Change::StopListening(elsewhere));
        assert_eq!(kept.unwrap_err().raw_os_error(), Some(libc::EPERM));
        writer.request(&Change::StopListening(socket)).unwrap();
        assert!(path("other").exists() && !path(GUARDIAN_SOCKET).exists());
        drop(writer);
        let refused = served.join().unwrap();
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused[0].contains("/tmp/other"), "{refused:?}");
    }
}
