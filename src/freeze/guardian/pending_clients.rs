//! Who stands at the guardian's door and has not yet said what for.

use super::{Request, Response};
use crate::ipc::Connection;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// More at a time are not needed; the one who has waited longest goes.
const MAX_CLIENTS: usize = 8;
/// How long one who has begun a line may take to end it, or to take the answer in: whoever is slow
/// must not keep the guardian from its hold limit.
const CLIENT_IO_TIMEOUT: Duration = Duration::from_millis(200);

/// The connections whose first line is still to come.
#[derive(Debug, Default)]
pub struct PendingClients(VecDeque<Connection>);

impl PendingClients {
    /// Lets one in.
    pub fn accept(&mut self, visitor: UnixStream) {
        self.push(visitor.into());
    }

    /// Has one wait for the end of the freeze.
    pub fn push(&mut self, visitor: Connection) {
        if self.0.len() == MAX_CLIENTS {
            self.0.pop_front();
        }
        self.0.push_back(visitor);
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What to wait for, in order.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(Connection::as_fd)
    }

    /// The first line of the visitor number `index`, who is no visitor any more; `None` if it is
    /// none, and then the connection is closed.
    pub fn recv_request(&mut self, index: usize) -> Option<(Connection, Request)> {
        let mut visitor = self.0.remove(index)?;
        let order = visitor.recv(Some(CLIENT_IO_TIMEOUT)).ok()?;
        Some((visitor, order))
    }

    /// Tells all of them: one may be a successor that has not spoken yet.
    pub fn broadcast(&self, word: &Response) {
        for visitor in &self.0 {
            respond(visitor, word);
        }
    }
}

/// Tells one of them; whether it hears it is its own affair.
pub fn respond(visitor: &Connection, word: &Response) {
    visitor.send(word, CLIENT_IO_TIMEOUT).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    fn visit(visitors: &mut PendingClients, text: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(text.as_bytes()).unwrap();
        visitors.accept(theirs);
        ours
    }

    #[test]
    fn the_first_line_says_what_for() {
        let mut visitors = PendingClients::default();
        let _quiet = visit(&mut visitors, "");
        let asker = visit(&mut visitors, "\"status\"\n");
        let _noise = visit(&mut visitors, "GET / HTTP/1.0\n");
        assert_eq!((visitors.count(), visitors.fds().count()), (3, 3));
        assert!(visitors.recv_request(2).is_none());
        let (heard, order) = visitors.recv_request(1).unwrap();
        assert_eq!(order, Request::Status);
        respond(&heard, &Response::Ready);
        let mut line = String::new();
        BufReader::new(asker).read_line(&mut line).unwrap();
        assert_eq!(line, "\"ready\"\n");
        // One who begins a line and does not end it is let go after a moment.
        let _slow = visit(&mut visitors, "\"sta");
        assert!(visitors.recv_request(1).is_none());
        assert_eq!(visitors.count(), 1);
    }

    #[test]
    fn not_more_than_a_few_wait() {
        let mut visitors = PendingClients::default();
        let _lines: Vec<_> = (0..MAX_CLIENTS + 3)
            .map(|_| visit(&mut visitors, ""))
            .collect();
        assert_eq!(visitors.count(), MAX_CLIENTS);
    }
}
