//! A tool's connection to the guardian: status and thaw.
//!
//! It is separate from the agent's connection and never replaces it. `qemu-ga status` and `qemu-ga thaw` use it.

use super::{FreezeStatus, Request, Response, Thawed, connect};
use crate::ipc::Connection;
use crate::state::Expiry;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long the guardian may take to answer with the status.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to thaw: enough for several FITHAWs that hang.
const THAW_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may then take for the thaw hooks: [`super::THAW_HOOKS_TIMEOUT`] and some reserve.
const HOOKS_TIMEOUT: Duration = Duration::from_secs(320);

/// The guardian's answer to a request to thaw.
#[derive(Debug)]
pub enum ThawAnswer {
    /// It has thawed. The thaw hooks are called afterwards: [`StatusClient::wait_for_hooks`].
    Thawed(Thawed),
    /// Nothing was done, for this reason.
    Refused(String),
}

/// A connection to the guardian.
#[derive(Debug)]
pub struct StatusClient {
    connection: Connection,
    pub pid: i32,
}

impl StatusClient {
    /// Connects to the guardian in `statedir`; `None` if there is none.
    ///
    /// # Errors
    /// The socket cannot be connected to (no permission, for example), or its peer is of another user.
    pub fn connect(statedir: &Path) -> io::Result<Option<Self>> {
        Ok(connect(statedir)?.map(|(connection, pid)| Self { connection, pid }))
    }

    /// # Errors
    /// No response in time, for example because the guardian thaws.
    pub fn request_status(mut self) -> io::Result<FreezeStatus> {
        self.send(&Request::Status)?;
        match self.recv(RESPONSE_TIMEOUT)? {
            Response::Standing(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    /// Ends the freeze.
    ///
    /// # Errors
    /// No response in time.
    pub fn request_thaw(&mut self) -> io::Result<ThawAnswer> {
        self.send(&Request::End)?;
        match self.recv(THAW_TIMEOUT)? {
            Response::Thawed(thawed) => Ok(ThawAnswer::Thawed(thawed)),
            Response::Refused(why) => Ok(ThawAnswer::Refused(why)),
            _ => Err(unexpected()),
        }
    }

    /// Waits until the thaw hooks have ended.
    ///
    /// # Errors
    /// No response within [`HOOKS_TIMEOUT`].
    pub fn wait_for_hooks(mut self) -> io::Result<Expiry> {
        match self.recv(HOOKS_TIMEOUT)? {
            Response::Ended(expiry) => Ok(expiry),
            _ => Err(unexpected()),
        }
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        self.connection.send(request, RESPONSE_TIMEOUT)
    }

    fn recv(&mut self, timeout: Duration) -> io::Result<Response> {
        self.connection.recv(Some(timeout)).map_err(|error| {
            if error.kind() != io::ErrorKind::TimedOut {
                return error;
            }
            let text = format!("no answer within {} s", timeout.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }
}

fn unexpected() -> io::Error {
    io::Error::other("it answered something else; is it of another version?")
}
