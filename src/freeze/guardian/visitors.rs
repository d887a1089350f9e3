//! Who stands at the guardian's door and has not yet said what for.

use super::{Order, Word};
use crate::ipc::Connection;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// More at a time are not needed; the one who has waited longest goes.
const MOST: usize = 8;
/// How long one who has begun a line may take to end it, or to take the answer in: whoever is slow
/// must not keep the guardian from its hold limit.
const PATIENCE: Duration = Duration::from_millis(200);

/// The connections whose first line is still to come.
#[derive(Debug, Default)]
pub struct Visitors(VecDeque<Connection>);

impl Visitors {
    /// Lets one in.
    pub fn receive(&mut self, visitor: UnixStream) {
        self.keep(visitor.into());
    }

    /// Has one wait for the end of the freeze.
    pub fn keep(&mut self, visitor: Connection) {
        if self.0.len() == MOST {
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
    pub fn lines(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(Connection::as_fd)
    }

    /// The first line of the visitor number `index`, who is no visitor any more; `None` if it is
    /// none, and then the connection is closed.
    pub fn hear(&mut self, index: usize) -> Option<(Connection, Order)> {
        let mut visitor = self.0.remove(index)?;
        let order = visitor.recv(Some(PATIENCE)).ok()?;
        Some((visitor, order))
    }

    /// Tells all of them: one may be a successor that has not spoken yet.
    pub fn tell(&self, word: &Word) {
        for visitor in &self.0 {
            answer(visitor, word);
        }
    }
}

/// Tells one of them; whether it hears it is its own affair.
pub fn answer(visitor: &Connection, word: &Word) {
    visitor.send(word, PATIENCE).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    fn visit(visitors: &mut Visitors, text: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(text.as_bytes()).unwrap();
        visitors.receive(theirs);
        ours
    }

    #[test]
    fn the_first_line_says_what_for() {
        let mut visitors = Visitors::default();
        let _quiet = visit(&mut visitors, "");
        let asker = visit(&mut visitors, "\"status\"\n");
        let _noise = visit(&mut visitors, "GET / HTTP/1.0\n");
        assert_eq!((visitors.count(), visitors.lines().count()), (3, 3));
        assert!(visitors.hear(2).is_none());
        let (heard, order) = visitors.hear(1).unwrap();
        assert_eq!(order, Order::Status);
        answer(&heard, &Word::Ready);
        let mut line = String::new();
        BufReader::new(asker).read_line(&mut line).unwrap();
        assert_eq!(line, "\"ready\"\n");
        // One who begins a line and does not end it is let go after a moment.
        let _slow = visit(&mut visitors, "\"sta");
        assert!(visitors.hear(1).is_none());
        assert_eq!(visitors.count(), 1);
    }

    #[test]
    fn not_more_than_a_few_wait() {
        let mut visitors = Visitors::default();
        let _lines: Vec<_> = (0..MOST + 3).map(|_| visit(&mut visitors, "")).collect();
        assert_eq!(visitors.count(), MOST);
    }
}
