//! A buffered file: what a handle of guest-file-open is. Floor 4.
//!
//! Clients of the original see stdio's buffering, so it is reproduced here: written data stays in the buffer until it is
//! full or a flush, seek, read or close writes it; reads use what was read ahead first; between reading and writing the
//! file's position is corrected by what was read ahead. A write that fails loses the buffer, and its error is returned
//! once. Not std's BufReader and BufWriter: neither does both directions, and a BufWriter keeps what it could not write.

use nix::libc;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Smaller if the filesystem's block (st_blksize) is.
const MAX_BLOCK_BYTES: u64 = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastUse {
    Neither,
    Reading,
    Writing,
}

#[derive(Debug)]
pub struct Stream {
    file: File,
    readable: bool,
    writable: bool,
    block: usize,
    /// A terminal: every line is written when it is complete.
    line_buffered: bool,
    last_use: LastUse,
    /// Read from the file, and not by the client yet.
    unread: Vec<u8>,
    /// Bytes of `unread` that the client has read.
    used: usize,
    unwritten: Vec<u8>,
}

#[derive(Debug)]
pub enum ReadEnd {
    Full,
    Eof,
    /// The bytes before the error are valid.
    Failed(io::Error),
}

/// Each step has a text of its own on the wire.
#[derive(Debug)]
pub enum TransferError {
    /// Before a read.
    Flush(io::Error),
    /// Correcting the position before a write.
    Seek(io::Error),
    Transfer(io::Error),
}

impl Stream {
    pub fn new(file: File, readable: bool, writable: bool) -> io::Result<Self> {
        let meta = file.metadata()?;
        let block = match meta.blksize() {
            0 => MAX_BLOCK_BYTES,
            size => size.min(MAX_BLOCK_BYTES),
        };
        let line_buffered = meta.file_type().is_char_device() && file.is_terminal();
        Ok(Self {
            file,
            readable,
            writable,
            block: usize::try_from(block).unwrap_or(4096),
            line_buffered,
            last_use: LastUse::Neither,
            unread: Vec::new(),
            used: 0,
            unwritten: Vec::new(),
        })
    }

    /// Writes what is buffered, so that a read sees it.
    pub fn prepare_read(&mut self) -> Result<(), TransferError> {
        if self.last_use == LastUse::Writing {
            self.write_out().map_err(TransferError::Flush)?;
        }
        self.last_use = LastUse::Reading;
        Ok(())
    }

    /// Fills `into`, over as many reads of the file as that takes. Call [`Self::prepare_read`] before.
    pub fn read(&mut self, into: &mut [u8]) -> (usize, ReadEnd) {
        let mut filled = 0;
        while filled < into.len() {
            if !self.readable {
                // stdio checks this itself, without a system call; the error is the same.
                return (filled, ReadEnd::Failed(bad_descriptor()));
            }
            let ahead = &self.unread[self.used..];
            if !ahead.is_empty() {
                let take = ahead.len().min(into.len() - filled);
                into[filled..filled + take].copy_from_slice(&ahead[..take]);
                filled += take;
                self.used += take;
                continue;
            }
            // Whole blocks go straight to the client, as in stdio: a large read does not pass through the buffer.
            let whole = (into.len() - filled) / self.block * self.block;
            let result = if whole > 0 {
                let result = self.file.read(&mut into[filled..filled + whole]);
                filled += result.as_ref().copied().unwrap_or(0);
                result
            } else {
                self.read_ahead()
            };
            match result {
                Ok(0) => return (filled, ReadEnd::Eof),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return (filled, ReadEnd::Failed(e)),
            }
        }
        (filled, ReadEnd::Full)
    }

    fn read_ahead(&mut self) -> io::Result<usize> {
        self.used = 0;
        self.unread.resize(self.block, 0);
        let result = self.file.read(&mut self.unread);
        self.unread.truncate(result.as_ref().copied().unwrap_or(0));
        result
    }

    /// After an error some of `bytes`, and of the buffer, may be written.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), TransferError> {
        if self.last_use == LastUse::Reading {
            self.seek(SeekFrom::Current(0))
                .map_err(TransferError::Seek)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.writable {
            return Err(TransferError::Transfer(bad_descriptor()));
        }
        self.last_use = LastUse::Writing;
        let has_line = self.line_buffered && bytes.contains(&b'\n');
        let room = self.block.saturating_sub(self.unwritten.len());
        if bytes.len() >= room && !self.unwritten.is_empty() {
            let (head, tail) = bytes.split_at(room);
            self.unwritten.extend_from_slice(head);
            self.write_out().map_err(TransferError::Transfer)?;
            bytes = tail;
        }
        // Whole blocks are written at once; the rest stays in the buffer, as in stdio.
        let (head, tail) = bytes.split_at(if bytes.len() < room {
            0
        } else {
            bytes.len() / self.block * self.block
        });
        self.file.write_all(head).map_err(TransferError::Transfer)?;
        self.unwritten.extend_from_slice(tail);
        if has_line {
            self.write_out().map_err(TransferError::Transfer)?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&self.unwritten);
        // Also after an error: a later write must not send old data to a place that it was not meant for.
        self.unwritten.clear();
        result
    }

    /// Writes the buffer, or moves the position back by what was read ahead.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        let ahead = self.unread.len() - self.used;
        if ahead > 0 {
            match self.file.seek_relative(-(ahead as i64)) {
                Ok(()) => self.unread.clear(),
                // A pipe has no position; what was read ahead stays for the next read.
                Err(e) if e.kind() == ErrorKind::NotSeekable => {}
                Err(e) => return Err(e),
            }
            self.used = self.used.min(self.unread.len());
        }
        self.last_use = LastUse::Neither;
        Ok(())
    }

    /// Returns the new position. After an error what was read ahead stays.
    pub fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.write_out()?;
        let ahead = (self.unread.len() - self.used) as i64;
        let to = match to {
            SeekFrom::Current(offset) => SeekFrom::Current(
                offset
                    .checked_sub(ahead)
                    .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?,
            ),
            // lseek(2) takes it as a signed number and returns EINVAL for a negative one.
            other => other,
        };
        let position = self.file.seek(to).or_else(|e| self.seek_by_size(to, e))?;
        self.unread.clear();
        self.used = 0;
        self.last_use = LastUse::Neither;
        Ok(position)
    }

    /// Many files of /proc do not support SEEK_END; stdio uses their size then, which is 0.
    fn seek_by_size(&mut self, to: SeekFrom, error: io::Error) -> io::Result<u64> {
        let meta = self.file.metadata()?;
        match to {
            SeekFrom::End(offset) if meta.is_file() => {
                let place = meta.len().checked_add_signed(offset).ok_or(error)?;
                self.file.seek(SeekFrom::Start(place))
            }
            _ => Err(error),
        }
    }

    /// After an error not everything was written; the file is closed nevertheless.
    pub fn close(mut self) -> io::Result<()> {
        let written = self.write_out();
        // Not by drop, which hides the error: NFS reports a full disk at close(2).
        let closed = nix::unistd::close(self.file.into_raw_fd());
        written?;
        closed?;
        Ok(())
    }
}

fn bad_descriptor() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};

    fn stream(path: &std::path::Path) -> Stream {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        Stream::new(file, true, true).unwrap()
    }

    fn read(stream: &mut Stream, count: usize) -> (Vec<u8>, bool) {
        stream.prepare_read().unwrap();
        let mut buffer = vec![0; count];
        let (length, end) = stream.read(&mut buffer);
        buffer.truncate(length);
        assert!(!matches!(end, ReadEnd::Failed(_)), "{end:?}");
        (buffer, matches!(end, ReadEnd::Eof))
    }

    #[test]
    fn small_writes_wait_and_whole_blocks_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut stream = stream(&path);
        let block = stream.block;
        let on_disk = || fs::read(&path).unwrap().len();
        stream.write(b"small").unwrap();
        assert_eq!(on_disk(), 0);
        stream.write(&vec![b'x'; block - 6]).unwrap();
        assert_eq!(on_disk(), 0);
        stream.write(&vec![b'y'; 2 * block + 10]).unwrap();
        assert_eq!(on_disk(), 3 * block);
        stream.flush().unwrap();
        assert_eq!(on_disk(), 3 * block + 9);
        stream.write(b"end").unwrap();
        stream.close().unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 3 * block + 12);
        assert!(content.starts_with(b"smallxxx") && content.ends_with(b"yyyend"));
    }

    #[test]
    fn turning_round_keeps_the_client_s_position() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "0123456789").unwrap();
        let mut stream = stream(&path);
        assert_eq!(read(&mut stream, 3), (b"012".to_vec(), false));
        stream.write(b"ABC").unwrap();
        assert_eq!(read(&mut stream, 2), (b"67".to_vec(), false));
        assert_eq!(stream.seek(SeekFrom::Current(-1)).unwrap(), 7);
        assert_eq!(read(&mut stream, 9), (b"789".to_vec(), true));
        assert_eq!(read(&mut stream, 0), (vec![], false));
        // The file has grown meanwhile.
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"more")
            .unwrap();
        assert_eq!(read(&mut stream, 2), (b"mo".to_vec(), false));
        stream.flush().unwrap();
        assert_eq!(stream.seek(SeekFrom::Current(0)).unwrap(), 12);
        assert_eq!(stream.seek(SeekFrom::End(-1)).unwrap(), 13);
        assert!(stream.seek(SeekFrom::Current(-14)).is_err());
        assert!(stream.seek(SeekFrom::Current(i64::MIN)).is_err());
        assert_eq!(read(&mut stream, 5), (b"e".to_vec(), true));
        assert_eq!(fs::read(&path).unwrap(), b"012ABC6789more");
        let kernel = File::open("/proc/self/mountinfo").unwrap();
        let mut kernel = Stream::new(kernel, true, false).unwrap();
        assert_eq!(kernel.seek(SeekFrom::End(0)).unwrap(), 0);
        assert!(kernel.seek(SeekFrom::End(-1)).is_err());
    }

    #[test]
    fn a_failed_write_out_is_told_once() {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut stream = Stream::new(file, true, true).unwrap();
        let no_space = |failure| match failure {
            TransferError::Transfer(e) | TransferError::Flush(e) | TransferError::Seek(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
            }
        };
        stream.write(b"x").unwrap();
        assert!(stream.flush().is_err());
        stream.flush().unwrap();
        no_space(stream.write(&[b'x'; 10_000]).unwrap_err());
        stream.write(b"x").unwrap();
        no_space(stream.prepare_read().unwrap_err());
        assert_eq!(read(&mut stream, 3), (vec![0; 3], false));
        stream.close().unwrap();
    }

    #[test]
    fn a_seek_reads_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old text").unwrap();
        let mut stream = stream(&path);
        assert_eq!(read(&mut stream, 3), (b"old".to_vec(), false));
        fs::write(&path, "new text").unwrap();
        assert_eq!(stream.seek(SeekFrom::Start(0)).unwrap(), 0);
        assert_eq!(read(&mut stream, 8), (b"new text".to_vec(), false));
    }
}
