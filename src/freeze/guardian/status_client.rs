//! A person's end of the line to the guardian: questions that leave the agent's line alone.

use super::{FreezeStatus, Request, Response, connect};
use crate::ipc::Connection;
use crate::state::Expiry;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long the guardian may take to say how things stand.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to thaw: some FITHAWs that hang.
const THAW_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may then take to tell the hooks.
const HOOKS_TIMEOUT: Duration = Duration::from_secs(320);

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
pub struct StatusClient {
    line: Connection,
    /// The guardian's process id.
    pub pid: i32,
}

impl StatusClient {
    /// Goes to the door in `statedir`; `None` if nobody stands guard there.
    ///
    /// # Errors
    /// There is a guardian, or a door that cannot be examined: no permission. Or a socket of another user.
    pub fn connect(statedir: &Path) -> io::Result<Option<Self>> {
        Ok(connect(statedir)?.map(|(line, pid)| Self { line, pid }))
    }

    /// Asks how things stand.
    ///
    /// # Errors
    /// It does not answer in time, as while it thaws.
    pub fn request_status(mut self) -> io::Result<FreezeStatus> {
        self.send(&Request::Status)?;
        match self.recv(RESPONSE_TIMEOUT)? {
            Response::Standing(standing) => Ok(*standing),
            _ => Err(unexpected()),
        }
    }

    /// Asks for the end of the freeze; answers what was thawed, or why nothing was done. Whatever is to be told to the hooks is told afterwards:
    /// [`StatusClient::wait_for_hooks`].
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn request_thaw(&mut self) -> io::Result<Result<Thawed, String>> {
        self.send(&Request::End)?;
        match self.recv(THAW_TIMEOUT)? {
            Response::Thawed {
                filesystems,
                failures,
            } => Ok(Ok(Thawed {
                filesystems,
                failures,
            })),
            Response::Refused(why) => Ok(Err(why)),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the hooks have been told.
    ///
    /// # Errors
    /// They take very long.
    pub fn wait_for_hooks(mut self) -> io::Result<Expiry> {
        match self.recv(HOOKS_TIMEOUT)? {
            Response::Ended(expiry) => Ok(expiry),
            _ => Err(unexpected()),
        }
    }

    fn send(&mut self, order: &Request) -> io::Result<()> {
        self.line.send(order, RESPONSE_TIMEOUT)
    }

    fn recv(&mut self, patience: Duration) -> io::Result<Response> {
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
