//! An ISA serial line: raw mode, whatever the other side's idea of a hang-up.

use super::{ChannelError, device_error};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_serial::{SerialPortBuilderExt, SerialStream};

/// The speed that hypervisors' serial ports are driven at.
const BAUD: u32 = 38400;

/// How long to wait after a hang-up before the line is opened again.
const HANG_UP_DELAY: Duration = Duration::from_secs(1);

/// Tells, before a daemon forks, whether the line can be opened at all.
pub fn probe(path: &Path) -> Result<(), ChannelError> {
    super::virtio::open(path).map(drop)
}

fn open(path: &Path) -> io::Result<SerialStream> {
    tokio_serial::new(path.to_string_lossy(), BAUD)
        .open_native_async()
        .map_err(|e| io::Error::other(device_error(path, &e.into())))
}

/// An open line.
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

    /// Reads. An end of file is a hang-up, after which the descriptor is dead for good (tty_ioctl(4),
    /// vhangup(2)): the line is opened again, and lost only if that fails.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    tokio::time::sleep(HANG_UP_DELAY).await;
                    self.stream.insert(open(&self.path)?)
                }
            };
            match stream.read(buffer).await? {
                0 => {
                    tracing::warn!(
                        "serial line {} hung up; opening it again in {} s",
                        self.path.display(),
                        HANG_UP_DELAY.as_secs()
                    );
                    self.stream = None;
                }
                count => return Ok(count),
            }
        }
    }

    /// Writes.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) => stream.write_all(data).await,
            None => Ok(()),
        }
    }
}
