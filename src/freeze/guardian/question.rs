//! A person's end of the line to the guardian: questions that leave the agent's line alone.

use super::{Order, Standing, Word, connect};
use crate::ipc::Connection;
use crate::state::Expiry;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long the guardian may take to say how things stand.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to thaw: some FITHAWs that hang.
const THAW_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may then take to tell the hooks.
const HOOKS_PATIENCE: Duration = Duration::from_secs(320);

/// What the guardian thawed.
#[derive(Debug)]
pub struct Thawed {
    /// Mountpoints, in the order of thawing.
    pub filesystems: Vec<String>,
    /// What went wrong: one line each.
    pub failures: Vec<String>,
}

/// A line to a guardian that stands by.
#[derive(Debug)]
pub struct Question {
    line: Connection,
    /// The guardian's process id.
    pub pid: i32,
}

impl Question {
    /// Goes to the door in `statedir`; `None` if nobody stands guard there.
    ///
    /// # Errors
    /// There is a guardian, or a door that cannot be examined: no permission. Or a socket of another user.
    pub fn at(statedir: &Path) -> io::Result<Option<Self>> {
        Ok(connect(statedir)?.map(|(line, pid)| Self { line, pid }))
    }

    /// Asks how things stand.
    ///
    /// # Errors
    /// It does not answer in time, as while it thaws.
    pub fn standing(mut self) -> io::Result<Standing> {
        self.tell(&Order::Status)?;
        match self.read(PATIENCE)? {
            Word::Standing(standing) => Ok(*standing),
            _ => Err(unexpected()),
        }
    }

    /// Asks for the end of the freeze; answers what was thawed, or why nothing was done. Whatever is to be told to the hooks is told afterwards:
    /// [`Question::wait`].
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn end(&mut self) -> io::Result<Result<Thawed, String>> {
        self.tell(&Order::End)?;
        match self.read(THAW_PATIENCE)? {
            Word::Thawed {
                filesystems,
                failures,
            } => Ok(Ok(Thawed {
                filesystems,
                failures,
            })),
            Word::Refused(why) => Ok(Err(why)),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the hooks have been told.
    ///
    /// # Errors
    /// They take very long.
    pub fn wait(mut self) -> io::Result<Expiry> {
        match self.read(HOOKS_PATIENCE)? {
            Word::Ended(expiry) => Ok(expiry),
            _ => Err(unexpected()),
        }
    }

    fn tell(&mut self, order: &Order) -> io::Result<()> {
        self.line.send(order, PATIENCE)
    }

    fn read(&mut self, patience: Duration) -> io::Result<Word> {
        self.line.recv(Some(patience)).map_err(|error| {
            if error.kind() != io::ErrorKind::TimedOut {
                return error;
            }
            let text = format!("no answer within {} s", patience.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }
}

fn unexpected() -> io::Error {
    io::Error::other("it answered something else; is it of another version?")
}
