//! A host's side of a unix socket.

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// A connection.
pub struct Client {
    pub stream: BufReader<UnixStream>,
}

impl Client {
    /// Takes over a connected stream.
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.stream.get_mut();
        stream.write_all(bytes.as_ref()).expect("the agent reads");
    }

    /// Sends a request that nobody has answered yet.
    pub fn post(&mut self, request: &str) {
        self.send(format!("{request}\n"));
    }

    /// The next reply, without its line end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("a reply");
        assert_eq!(line.pop(), Some(b'\n'), "the agent closed the connection");
        String::from_utf8(line).expect("ASCII")
    }

    /// Sends a request and returns its reply.
    pub fn ask(&mut self, request: &str) -> String {
        self.post(request);
        self.line()
    }

    /// Sends a command without arguments and returns its reply.
    pub fn call(&mut self, command: &str) -> String {
        self.ask(&super::cmd(command))
    }

    /// Sends bytes, closes the sending side and returns all that comes until the agent closes.
    pub fn exchange(mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.finish()
    }

    /// Closes the sending side and returns all that comes until the agent closes.
    pub fn finish(mut self) -> Vec<u8> {
        self.stream
            .get_mut()
            .shutdown(Shutdown::Write)
            .expect("half close");
        let mut all = Vec::new();
        self.stream.read_to_end(&mut all).expect("replies");
        all
    }
}
