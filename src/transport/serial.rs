//! An ISA serial line: raw mode, whatever the other side's idea of a hang-up.

use super::{OpenError, cannot_open};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_serial::{SerialPortBuilderExt, SerialStream};

/// The speed that hypervisors' serial ports are driven at.
const BAUD: u32 = 38400;

/// How long to wait after a hang-up before the line is read again.
const AFTER_HANG_UP: Duration = Duration::from_secs(1);

/// Tells, before a daemon forks, whether the line can be opened at all.
pub fn probe(path: &Path) -> Result<(), OpenError> {
    super::virtio::open(path).map(drop)
}

/// An open line.
pub struct SerialChannel {
    stream: SerialStream,
}

impl SerialChannel {
    /// Opens `path` in raw mode.
    pub fn open(path: &Path) -> io::Result<Self> {
        let stream = tokio_serial::new(path.to_string_lossy(), BAUD)
            .open_native_async()
            .map_err(|e| io::Error::other(cannot_open(path, &e.into())))?;
        Ok(Self { stream })
    }

    /// Reads; an end of file is a hang-up of the line, after which it may come back.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer).await? {
                0 => tokio::time::sleep(AFTER_HANG_UP).await,
                count => return Ok(count),
            }
        }
    }

    /// Writes.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(data).await
    }
}
