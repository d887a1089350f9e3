//! The two ends of a child's pipes (floor 4): output kept up to a limit, input fed as it is taken.

use crate::sys::strerror;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// Bytes kept of each stream; the rest is read and thrown away, so that no child waits for us.
pub const LIMIT: usize = 16 << 20;
/// Bytes taken at a time.
const PIECE: usize = 16 << 10;

/// What a stream has brought.
#[derive(Debug, Default)]
pub struct Captured {
    /// Its beginning.
    pub data: Vec<u8>,
    /// Whether there was more.
    pub truncated: bool,
    /// Whether it is at its end.
    complete: bool,
}

impl Captured {
    fn take(&mut self, bytes: &[u8]) {
        let room = LIMIT.saturating_sub(self.data.len()).min(bytes.len());
        self.data.extend_from_slice(&bytes[..room]);
        self.truncated |= room < bytes.len();
    }
}

/// A stream that is being captured; `None` within means that none was asked for.
#[derive(Debug, Default)]
pub struct Capture(Option<Arc<Mutex<Captured>>>);

impl Capture {
    /// Starts to read `fd`, if any, on a task of its own.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn start(fd: Option<OwnedFd>) -> io::Result<Self> {
        let Some(fd) = fd else {
            return Ok(Self(None));
        };
        let pipe = pipe::Receiver::from_owned_fd(fd)?;
        let captured = Arc::new(Mutex::new(Captured::default()));
        tokio::spawn(drain(pipe, captured.clone()));
        Ok(Self(Some(captured)))
    }

    /// Whether the last process that could write to the stream has closed it.
    pub fn is_complete(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|captured| lock(captured).complete)
    }

    /// What was captured.
    pub fn finish(self) -> Captured {
        self.0
            .map(|captured| std::mem::take(&mut *lock(&captured)))
            .unwrap_or_default()
    }
}

fn lock(captured: &Mutex<Captured>) -> std::sync::MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drain(mut pipe: pipe::Receiver, captured: Arc<Mutex<Captured>>) {
    let mut piece = vec![0; PIECE];
    loop {
        match pipe.read(&mut piece).await {
            Ok(0) => break,
            Ok(length) => lock(&captured).take(&piece[..length]),
            Err(error) => {
                tracing::warn!("cannot read a child's output: {}", strerror(&error));
                break;
            }
        }
    }
    lock(&captured).complete = true;
}

/// Writes `bytes` to `fd` as they are taken, then closes it, on a task of its own.
///
/// # Errors
/// The runtime cannot watch it.
pub fn feed(fd: OwnedFd, bytes: Vec<u8>) -> io::Result<()> {
    let mut pipe = pipe::Sender::from_owned_fd(fd)?;
    tokio::spawn(async move {
        match pipe.write_all(&bytes).await {
            Ok(()) => {}
            // It has read what it wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => tracing::warn!("cannot write a child's input: {}", strerror(&error)),
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_16_mib_are_kept() {
        let mut captured = Captured::default();
        captured.take(&vec![1; LIMIT - 1]);
        captured.take(&[2]);
        assert_eq!((captured.data.len(), captured.truncated), (LIMIT, false));
        captured.take(&[]);
        assert!(!captured.truncated);
        captured.take(&[3]);
        assert_eq!((captured.data.len(), captured.truncated), (LIMIT, true));
        assert_eq!(captured.data.last(), Some(&2));
    }
}
