//! A tool's connection to the guardian, for `qemu-ga status` and `qemu-ga thaw`. It never replaces the agent's.

use super::{FreezeStatus, Request, Response, Thawed, connect};
use crate::ipc::Connection;
use crate::state::Expiry;
use std::io;
use std::path::Path;
use std::time::Duration;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Enough for several FITHAWs that hang.
const THAW_TIMEOUT: Duration = Duration::from_secs(60);
/// [`super::THAW_HOOKS_TIMEOUT`] and some reserve.
const HOOKS_TIMEOUT: Duration = Duration::from_secs(320);

#[derive(Debug)]
pub enum ThawAnswer {
    /// The thaw hooks are called afterwards: [`StatusClient::wait_for_hooks`].
    Thawed(Thawed),
    /// Nothing was done, for this reason.
    Refused(String),
}

#[derive(Debug)]
pub struct StatusClient {
    connection: Connection,
    pub pid: i32,
}

impl StatusClient {
    /// `None` without a guardian. Fails if the socket cannot be connected to, or its peer is of another user.
    pub fn connect(statedir: &Path) -> io::Result<Option<Self>> {
        Ok(connect(statedir)?.map(|(connection, pid)| Self { connection, pid }))
    }

    /// Fails without a response in time, for example because the guardian thaws.
    pub fn request_status(mut self) -> io::Result<FreezeStatus> {
        self.send(&Request::Status)?;
        match self.recv(RESPONSE_TIMEOUT)? {
            Response::Standing(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    pub fn request_thaw(&mut self) -> io::Result<ThawAnswer> {
        self.send(&Request::End)?;
        match self.recv(THAW_TIMEOUT)? {
            Response::Thawed(thawed) => Ok(ThawAnswer::Thawed(thawed)),
            Response::Refused(why) => Ok(ThawAnswer::Refused(why)),
            _ => Err(unexpected()),
        }
    }

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
