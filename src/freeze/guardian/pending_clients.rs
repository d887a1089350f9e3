//! Connections to the guardian's socket whose first line, the request, has not arrived. A client must not keep the
//! guardian from its hold limit: their number is limited, and so is the time of each read and write.

use super::{Request, Response};
use crate::ipc::Connection;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The oldest is closed for a new one. Expected are one agent and a few tools.
const MAX_CLIENTS: usize = 8;
/// For the rest of a line after its begin, or for a response. The guardian has one thread: a slow client delays the
/// hold limit by this much.
const CLIENT_IO_TIMEOUT: Duration = Duration::from_millis(200);

/// Oldest first.
#[derive(Debug, Default)]
pub struct PendingClients(VecDeque<Connection>);

impl PendingClients {
    pub fn push(&mut self, client: Connection) {
        if self.0.len() == MAX_CLIENTS {
            self.0.pop_front();
        }
        self.0.push_back(client);
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// In the order of `recv_request`'s index.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(Connection::as_fd)
    }

    /// `None`, with the connection closed, if the line is no request or does not end in time.
    pub fn recv_request(&mut self, index: usize) -> Option<(Connection, Request)> {
        let mut client = self.0.remove(index)?;
        let request = client.recv(Some(CLIENT_IO_TIMEOUT)).ok()?;
        Some((client, request))
    }

    /// Sends to all of them: one may be the next agent, whose request has not arrived.
    pub fn broadcast(&self, response: &Response) {
        for client in &self.0 {
            respond(client, response);
        }
    }
}

/// A failure is the client's loss only, so it is ignored.
pub fn respond(client: &Connection, response: &Response) {
    client.send(response, CLIENT_IO_TIMEOUT).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    fn connect(clients: &mut PendingClients, text: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(text.as_bytes()).unwrap();
        clients.push(theirs.into());
        ours
    }

    #[test]
    fn the_first_line_says_what_for() {
        let mut clients = PendingClients::default();
        let _quiet = connect(&mut clients, "");
        let asker = connect(&mut clients, "\"status\"\n");
        let _noise = connect(&mut clients, "GET / HTTP/1.0\n");
        assert_eq!((clients.count(), clients.fds().count()), (3, 3));
        assert!(clients.recv_request(2).is_none());
        let (client, request) = clients.recv_request(1).unwrap();
        assert_eq!(request, Request::Status);
        respond(&client, &Response::Ready);
        let mut line = String::new();
        BufReader::new(asker).read_line(&mut line).unwrap();
        assert_eq!(line, "\"ready\"\n");
        // A client that begins a line and does not end it is dropped after the timeout.
        let _slow = connect(&mut clients, "\"sta");
        assert!(clients.recv_request(1).is_none());
        assert_eq!(clients.count(), 1);
    }

    #[test]
    fn not_more_than_a_few_wait() {
        let mut clients = PendingClients::default();
        let _lines: Vec<_> = (0..MAX_CLIENTS + 3)
            .map(|_| connect(&mut clients, ""))
            .collect();
        assert_eq!(clients.count(), MAX_CLIENTS);
    }
}
