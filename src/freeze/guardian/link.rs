//! The agent's end of the line to the guardian.

use super::{Claim, Entrusted, Order, Word, door};
use crate::state::Expiry;
use crate::sys::process::{self, Announcement, Family};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// How long the guardian may take to answer: it has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the guardian has said by itself.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// Nothing.
    Nothing,
    /// It has ended the freeze.
    Ended(Expiry),
    /// It is gone without a word.
    Gone,
}

/// A line to the guardian of the freeze at work.
#[derive(Debug)]
pub struct Link {
    line: BufReader<UnixStream>,
    /// The process, if this agent started it.
    child: Option<Child>,
}

impl Link {
    /// Starts a guardian for `filesystems`, each with its mountpoint and level, and waits until it stands by. `freezing` hangs up when the
    /// hook master that is told to freeze has ended.
    ///
    /// # Errors
    /// It cannot be started, or does not answer.
    pub fn start(
        filesystems: &[(BorrowedFd<'_>, String, usize)],
        hook: Option<PathBuf>,
        statedir: PathBuf,
        freezing: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = process::own_program()?;
        command
            .arg("guardian")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let freezing = freezing.map(|fd| fd.as_raw_fd());
        let keep = filesystems.iter().map(|(fd, ..)| fd.as_raw_fd());
        let keep = keep.chain(freezing).collect();
        process::prepare(&mut command, Family::Session, keep, Vec::new());
        let child = command.spawn()?;
        // The command holds the guardian's end, which must close when the guardian dies.
        drop(command);
        let mut link = Self {
            line: BufReader::new(ours),
            child: Some(child),
        };
        link.set_patience()?;
        let entrust = |(fd, mountpoint, level): &(BorrowedFd<'_>, String, usize)| Entrusted {
            fd: fd.as_raw_fd(),
            mountpoint: mountpoint.clone(),
            level: *level,
        };
        link.tell(&Order::Watch {
            filesystems: filesystems.iter().map(entrust).collect(),
            hook,
            statedir,
            freezing,
        })?;
        match link.read()? {
            Word::Ready => Ok(link),
            _ => Err(io::Error::other(
                "it answered, but not that it stands ready",
            )),
        }
    }

    /// Finds the guardian that an earlier agent started; `None` if there is none.
    pub fn find(statedir: &Path) -> Option<Self> {
        let line = UnixStream::connect(door(statedir)).ok()?;
        let mut link = Self {
            line: BufReader::new(line),
            child: None,
        };
        link.set_patience().ok()?;
        link.tell(&Order::Succeed).ok()?;
        Some(link)
    }

    fn set_patience(&self) -> io::Result<()> {
        let stream = self.line.get_ref();
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))
    }

    /// Tells it something.
    ///
    /// # Errors
    /// It is gone.
    pub fn tell(&mut self, order: &Order) -> io::Result<()> {
        let mut text = serde_json::to_vec(order)?;
        text.push(b'\n');
        self.line.get_mut().write_all(&text)
    }

    /// What the hook master is to say for itself as it starts, so that the guardian knows of it
    /// even if the agent dies in that moment.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn announcement(&self, order: &Order) -> io::Result<Announcement> {
        let mut text = serde_json::to_vec(order)?;
        text.push(b'\n');
        let fd = self.watch()?;
        Ok(Announcement { fd, text })
    }

    fn read(&mut self) -> io::Result<Word> {
        let mut text = String::new();
        if self.line.read_line(&mut text)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(text.as_bytes())?)
    }

    /// Asks who thaws. A guardian that does not answer is ended, so that it cannot act later; the
    /// thaw is then the agent's.
    pub fn claim(&mut self) -> Claim {
        // One that ended the freeze has said so and gone: its last word is still to be read.
        self.tell(&Order::Claim).ok();
        match self.read() {
            Ok(Word::Ended(expiry)) => Claim::Ended(expiry),
            Ok(Word::Yours(report)) => Claim::Ours(report),
            // What is for others only says that it lives.
            Ok(Word::Ready | Word::Standing(_) | Word::Thawed { .. } | Word::Refused(_)) => {
                Claim::Ours(None)
            }
            Err(error) => {
                tracing::warn!("the guardian does not answer: {error}");
                self.end();
                Claim::Ours(None)
            }
        }
    }

    /// What it has said by itself; never waits.
    pub fn hear(&mut self) -> Heard {
        if self.line.get_ref().set_nonblocking(true).is_err() {
            return Heard::Gone;
        }
        let word = self.read();
        let blocking = self.line.get_ref().set_nonblocking(false);
        match word {
            Ok(Word::Ended(expiry)) => Heard::Ended(expiry),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && blocking.is_ok() => {
                Heard::Nothing
            }
            Ok(_) => Heard::Nothing,
            Err(_) => Heard::Gone,
        }
    }

    /// Becomes readable when the guardian speaks or goes.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        self.line.get_ref().as_fd().try_clone_to_owned()
    }

    /// Lets it go.
    pub fn dismiss(mut self) {
        if self.tell(&Order::Done).is_ok() {
            // It closes the line when it leaves.
            self.read().err();
        }
        self.end();
    }

    /// Leaves it in charge of the descriptors `late` alone, which FIFREEZE has not answered yet, until what this
    /// returns is dropped: should this process end before that, it thaws them.
    pub fn linger(mut self, late: &[i32]) -> Lingering {
        let orders = late.iter().map(|&number| Order::Late(number));
        for order in orders.chain([Order::Linger]) {
            self.tell(&order).ok();
        }
        // The next one must find the door free.
        if !matches!(self.read(), Ok(Word::Ready)) {
            tracing::warn!("the guardian does not stay for a freeze that may still come through");
            self.end();
            return Lingering(None);
        }
        Lingering(Some(self))
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        } else if let Ok(peer) = nix::sys::socket::getsockopt(
            self.line.get_ref(),
            nix::sys::socket::sockopt::PeerCredentials,
        ) {
            // Started by a predecessor, reaped by init.
            process::kill(peer.pid(), nix::libc::SIGKILL).ok();
        }
    }
}

/// A guardian that stays behind, unless it does not answer; let go when this is dropped.
#[derive(Debug)]
pub struct Lingering(Option<Link>);

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(link) = self.0.take() {
            link.dismiss();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // An agent that leaves while frozen leaves the guardian behind on purpose.
        if let Some(child) = &mut self.child {
            child.try_wait().ok();
        }
    }
}
