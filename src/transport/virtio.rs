//! A virtio-serial port (linux/virtio_console.h; drivers/char/virtio_console.c for its poll).
//!
//! While no host is connected the port polls as hung up and reads as end of file, both for ever.
//! So it is watched by an epoll instance of its own, edge-triggered: one wakeup when the host
//! comes or sends, none while it is away. The runtime watches that instance, for a hang-up that
//! it saw on the port itself would count as readiness for ever.

use super::{OpenError, cannot_open};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// Where udev makes a link for each port that has a name.
const LINKS: &str = "/dev/virtio-ports";

/// Opens a port without waiting for a host.
pub fn open(path: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let device = locate(path, Path::new("/"));
    nix::fcntl::open(&device, flags, Mode::empty()).map_err(|e| cannot_open(path, &e.into()))
}

/// The device of a port: `path`, or, if that is a link of udev's that is missing (Alpine and others run mdev), the port
/// with that name in sysfs. `root` is `/` except in tests.
pub fn locate(path: &Path, root: &Path) -> PathBuf {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let name = path.strip_prefix(LINKS).ok().and_then(Path::to_str);
    let (Some(name), false) = (name, below(path).exists()) else {
        return path.to_owned();
    };
    // Without the directory there is no such port, and the caller reports that `path` is missing.
    let ports = std::fs::read_dir(below(Path::new("/sys/class/virtio-ports")));
    let has_name = |port: &std::fs::DirEntry| {
        std::fs::read_to_string(port.path().join("name")).is_ok_and(|text| text.trim_end() == name)
    };
    let found = ports.into_iter().flatten().flatten().find(has_name);
    found.map_or_else(
        || path.to_owned(),
        |port| Path::new("/dev").join(port.file_name()),
    )
}

struct Watch(Epoll);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// How long a reply waits for a host that seems absent. The driver may hand over a new host's first
/// bytes before it has noted that host's arrival, and refuses writes until then.
const PORT_ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A port and its watch.
pub struct VirtioChannel {
    port: OwnedFd,
    watch: AsyncFd<Watch>,
    /// Until when replies to what was read wait for a host; later ones are dropped at once.
    arrival: Option<Instant>,
}

impl VirtioChannel {
    /// Starts to watch an open port.
    pub fn new(port: OwnedFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&port, EpollEvent::new(events, 0))?;
        #[allow(
            deprecated,
            reason = "its replacement is unsafe; `Watch` owns its descriptor, which is what that asks for"
        )]
        let watch = AsyncFd::with_interest(Watch(epoll), Interest::READABLE)?;
        Ok(Self {
            port,
            watch,
            arrival: None,
        })
    }

    /// Waits until something about the port changes.
    async fn edge(&self) -> io::Result<()> {
        let mut guard = self.watch.readable().await?;
        let mut events = [EpollEvent::empty(); 1];
        while self
            .watch
            .get_ref()
            .0
            .wait(&mut events, EpollTimeout::ZERO)?
            > 0
        {}
        guard.clear_ready();
        Ok(())
    }

    /// Waits for a host and its bytes.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(&self.port, buffer) {
                Ok(0) | Err(Errno::EAGAIN) => {
                    self.arrival = None;
                    self.edge().await?;
                }
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Writes while the host is there.
    pub async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match nix::unistd::write(&self.port, data) {
                Ok(count) => {
                    self.arrival = None;
                    data = &data[count..];
                }
                Err(Errno::EAGAIN) if self.is_hung_up()? => {
                    let until = *self
                        .arrival
                        .get_or_insert_with(|| Instant::now() + PORT_ARRIVAL_TIMEOUT);
                    match timeout_at(until, self.edge()).await {
                        Ok(edge) => edge?,
                        Err(_) => {
                            return Err(io::Error::new(
                                io::ErrorKind::BrokenPipe,
                                "the host disconnected before it took the whole reply",
                            ));
                        }
                    }
                }
                Err(Errno::EAGAIN) => self.edge().await?,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn is_hung_up(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.port.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO)?;
        Ok(fds[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_port_without_a_link_is_found_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let locate = |path: &str| locate(Path::new(path), root.path());
        let link = "/dev/virtio-ports/org.qemu.guest_agent.0";
        assert_eq!(locate(link), Path::new(link), "no port at all");
        write(
            "sys/class/virtio-ports/vport1p1/name",
            "com.redhat.spice.0\n",
        );
        write(
            "sys/class/virtio-ports/vport1p2/name",
            "org.qemu.guest_agent.0\n",
        );
        write("sys/class/virtio-ports/vport1p3/dev", "no name\n");
        assert_eq!(locate(link), Path::new("/dev/vport1p2"));
        assert_eq!(locate("/dev/vport9p9"), Path::new("/dev/vport9p9"));
        write(&link[1..], "");
        assert_eq!(locate(link), Path::new(link), "udev's link comes first");
    }
}
