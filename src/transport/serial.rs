//! An ISA serial line, in raw mode. Floor 2.
//!
//! A serial line has no connections: the agent cannot tell one host from the next, and writes whether or not anybody
//! reads. After a hang-up the line is opened again.

use super::{ChannelError, device_error};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_serial::{SerialPortBuilderExt, SerialStream};

/// As the original sets it; emulated ports ignore the speed.
const BAUD: u32 = 38400;

/// A line that hangs up at once must not keep the processor busy.
const HANG_UP_DELAY: Duration = Duration::from_secs(1);

/// Opens and closes the line: an error must be found before a daemon forks, but the stream needs the runtime.
pub fn probe(path: &Path) -> Result<(), ChannelError> {
    super::virtio::open(path).map(drop)
}

fn open(path: &Path) -> io::Result<SerialStream> {
    tokio_serial::new(path.to_string_lossy(), BAUD)
        .open_native_async()
        .map_err(|e| io::Error::other(device_error(path, &e.into())))
}

/// EIO comes from a pseudo terminal whose other end is closed and that is not hung up yet (drivers/tty/pty.c pty_close).
fn is_hang_up(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EIO)
}

pub struct SerialChannel {
    path: PathBuf,
    /// `None` after a hang-up.
    stream: Option<SerialStream>,
}

impl SerialChannel {
    /// Opens `path` in raw mode.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            stream: Some(open(path)?),
        })
    }

    /// End of file is a hang-up (vhangup(2)), after which every read of this descriptor returns end of file: the line
    /// is opened again, and lost only if that fails.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    tokio::time::sleep(HANG_UP_DELAY).await;
                    self.stream.insert(open(&self.path)?)
                }
            };
            match stream.read(buffer).await {
                Ok(count) if count > 0 => return Ok(count),
                Err(error) if !is_hang_up(&error) => return Err(error),
                _ => {
                    tracing::warn!(
                        "serial line {} hung up; opening it again in {} s",
                        self.path.display(),
                        HANG_UP_DELAY.as_secs()
                    );
                    self.stream = None;
                }
            }
        }
    }

    /// After a hang-up the data are dropped, because the host that asked is no longer there.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) => stream.write_all(data).await,
            None => Ok(()),
        }
    }
}
