//! Reads the output of a child up to a limit, and writes its input. Floor 4.
//!
//! One task for each pipe. Output beyond the limits is read and dropped, because a child whose pipe is full would block.
//! All streams share one budget; what is kept of them never exceeds it, however many children a host starts and forgets.

use crate::sys::strerror;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// Of each stream, as in the original.
pub const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Beyond it the stream that has been complete longest loses its data: its host probably never asks for it.
pub const MAX_TOTAL_OUTPUT_BYTES: usize = 64 << 20;
/// A quarter of a pipe's buffer (pipe(7)).
const READ_BYTES: usize = 16 << 10;

#[derive(Debug, Default)]
pub struct Captured {
    /// None if they were dropped for other streams.
    pub data: Vec<u8>,
    pub truncated: bool,
    complete: bool,
}

#[derive(Debug, Default)]
pub struct OutputBudget {
    kept: usize,
    /// The oldest first.
    complete: VecDeque<Weak<OutputStream>>,
}

#[derive(Debug)]
struct OutputStream {
    captured: Mutex<Captured>,
    budget: Arc<Mutex<OutputBudget>>,
}

impl OutputStream {
    fn append(&self, bytes: &[u8]) {
        // Always the budget's lock before a stream's: the other order could deadlock.
        let mut budget = lock(&self.budget);
        let room = MAX_OUTPUT_BYTES.saturating_sub(lock(&self.captured).data.len());
        let room = budget.grant(room.min(bytes.len()));
        let mut captured = lock(&self.captured);
        captured.data.extend_from_slice(&bytes[..room]);
        captured.truncated |= room < bytes.len();
    }

    fn mark_complete(self: Arc<Self>) {
        let mut budget = lock(&self.budget);
        let mut captured = lock(&self.captured);
        captured.complete = true;
        if !captured.data.is_empty() {
            budget.complete.retain(|other| other.strong_count() > 0);
            budget.complete.push_back(Arc::downgrade(&self));
        }
    }

    fn finish(&self) -> Captured {
        let mut budget = lock(&self.budget);
        let captured = std::mem::take(&mut *lock(&self.captured));
        budget.kept -= captured.data.len();
        captured
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        // Its record was replaced by one of the same process id: its bytes go back to the budget.
        self.finish();
    }
}

impl OutputBudget {
    /// Makes room for so many bytes, or as many as there can be.
    fn grant(&mut self, length: usize) -> usize {
        while self.kept + length > MAX_TOTAL_OUTPUT_BYTES {
            let Some(oldest) = self.complete.pop_front() else {
                break;
            };
            // This is never the last reference, whose drop would lock the budget again: records are replaced on this very
            // thread, so not meanwhile.
            let Some(oldest) = oldest.upgrade() else {
                continue;
            };
            let mut captured = lock(&oldest.captured);
            self.kept -= captured.data.len();
            captured.data = Vec::new();
            captured.truncated = true;
        }
        let granted = length.min(MAX_TOTAL_OUTPUT_BYTES - self.kept);
        self.kept += granted;
        granted
    }
}

/// `None` within means that the stream was not asked for.
#[derive(Debug, Default)]
pub struct Capture(Option<Arc<OutputStream>>);

impl Capture {
    pub fn start(fd: Option<OwnedFd>, budget: &Arc<Mutex<OutputBudget>>) -> io::Result<Self> {
        let Some(fd) = fd else {
            return Ok(Self(None));
        };
        let pipe = pipe::Receiver::from_owned_fd(fd)?;
        let stream = Arc::new(OutputStream {
            captured: Mutex::default(),
            budget: budget.clone(),
        });
        tokio::spawn(read_output(pipe, stream.clone()));
        Ok(Self(Some(stream)))
    }

    /// Whether every process that could write to the stream has closed it.
    pub fn is_complete(&self) -> bool {
        let stream = self.0.as_ref();
        stream.is_none_or(|stream| lock(&stream.captured).complete)
    }

    pub fn finish(self) -> Captured {
        self.0.map(|stream| stream.finish()).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_output(mut pipe: pipe::Receiver, stream: Arc<OutputStream>) {
    let mut piece = vec![0; READ_BYTES];
    loop {
        match pipe.read(&mut piece).await {
            Ok(0) => break,
            Ok(length) => stream.append(&piece[..length]),
            Err(error) => {
                tracing::warn!(
                    "cannot read the output of a guest-exec child: {}",
                    strerror(&error)
                );
                break;
            }
        }
    }
    stream.mark_complete();
}

/// Writes on a task of its own: the child may read slowly or never.
pub fn write_input(fd: OwnedFd, bytes: Vec<u8>) -> io::Result<()> {
    let mut pipe = pipe::Sender::from_owned_fd(fd)?;
    tokio::spawn(async move {
        match pipe.write_all(&bytes).await {
            Ok(()) => {}
            // The child closed its stdin: it has read what it needs.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => tracing::warn!(
                "cannot write the input of a guest-exec child: {}",
                strerror(&error)
            ),
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(budget: &Arc<Mutex<OutputBudget>>) -> Arc<OutputStream> {
        Arc::new(OutputStream {
            captured: Mutex::default(),
            budget: budget.clone(),
        })
    }

    #[test]
    fn the_first_16_mib_are_kept() {
        let stream = stream(&Arc::default());
        let kept = || {
            let captured = lock(&stream.captured);
            (captured.data.len(), captured.truncated)
        };
        stream.append(&vec![1; MAX_OUTPUT_BYTES - 1]);
        stream.append(&[2]);
        stream.append(&[]);
        assert_eq!(kept(), (MAX_OUTPUT_BYTES, false));
        stream.append(&[3]);
        assert_eq!(kept(), (MAX_OUTPUT_BYTES, true));
        assert_eq!(lock(&stream.captured).data.last(), Some(&2));
    }

    #[test]
    fn the_oldest_complete_stream_makes_room_for_others() {
        let budget = Arc::default();
        let full = || {
            let stream = stream(&budget);
            stream.append(&vec![1; MAX_OUTPUT_BYTES]);
            stream
        };
        let kept = |stream: &OutputStream| {
            let captured = lock(&stream.captured);
            (captured.data.len(), captured.truncated)
        };
        let streams = [full(), full(), full(), full()];
        // Nothing is complete.
        let late = stream(&budget);
        late.append(&[1]);
        assert_eq!(kept(&late), (0, true));
        streams[2].clone().mark_complete();
        streams[1].clone().mark_complete();
        late.append(&[1]);
        assert_eq!(kept(&streams[2]), (0, true));
        assert_eq!(kept(&streams[1]), (MAX_OUTPUT_BYTES, false));
        assert_eq!(kept(&late), (1, true));
        assert_eq!(streams[1].finish().data.len(), MAX_OUTPUT_BYTES);
        drop((streams, late));
        assert_eq!(lock(&budget).kept, 0);
    }
}
