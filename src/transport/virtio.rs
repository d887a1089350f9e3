//! A virtio-serial port (the kernel's drivers/char/virtio_console.c). Floor 2.
//!
//! While no host is connected, poll(2) of the port returns POLLHUP and read(2) end of file, every time. A loop around them
//! would keep a processor busy for as long as the host is away. So the port is in an epoll instance of its own,
//! edge-triggered: one wakeup when the host connects or sends, none while it is away. The runtime watches that instance
//! and not the port, because a hang-up that it saw once it would report as readiness from then on.

use super::{ChannelError, device_error};
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

/// udev makes a link there for each port that has a name.
const LINKS: &str = "/dev/virtio-ports";

/// No host needs to be connected. O_NOCTTY, because any path is opened as a port, a terminal's, too.
pub fn open(path: &Path) -> Result<OwnedFd, ChannelError> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let device = locate(path, Path::new("/"));
    nix::fcntl::open(&device, flags, Mode::empty()).map_err(|e| device_error(path, &e.into()))
}

/// `path`, or, if that is a link of udev's that is missing (Alpine and others run mdev), the port with that name in
/// sysfs. `root` is `/` except in tests.
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

/// nix's epoll instance does not implement [`AsRawFd`], which the runtime needs.
struct EpollFd(Epoll);

impl AsRawFd for EpollFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// How long a reply waits for a host that seems absent: the driver may deliver the first bytes of a new host before it
/// has noted that the host opened the port, and writes return EAGAIN until then.
const PORT_ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);

pub struct VirtioChannel {
    port: OwnedFd,
    watch: AsyncFd<EpollFd>,
    /// Until when replies to what was read wait for the host; after that they are dropped at once.
    arrival_deadline: Option<Instant>,
}

impl VirtioChannel {
    pub fn new(port: OwnedFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&port, EpollEvent::new(events, 0))?;
        #[allow(
            deprecated,
            reason = "its replacement is unsafe; `EpollFd` owns its descriptor, which is what that asks for"
        )]
        let watch = AsyncFd::with_interest(EpollFd(epoll), Interest::READABLE)?;
        Ok(Self {
            port,
            watch,
            arrival_deadline: None,
        })
    }

    async fn wait_for_edge(&self) -> io::Result<()> {
        let mut guard = self.watch.readable().await?;
        // All events must be fetched, or the epoll instance stays readable and the next call returns at once.
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

    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(&self.port, buffer) {
                // End of file: no host. EAGAIN: a host that sends nothing.
                Ok(0) | Err(Errno::EAGAIN) => {
                    self.arrival_deadline = None;
                    self.wait_for_edge().await?;
                }
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match nix::unistd::write(&self.port, data) {
                Ok(count) => {
                    self.arrival_deadline = None;
                    data = &data[count..];
                }
                // EAGAIN has two reasons, and only POLLHUP tells them apart: no host, or a host that does not read.
                Err(Errno::EAGAIN) if self.is_hung_up()? => {
                    let until = *self
                        .arrival_deadline
                        .get_or_insert_with(|| Instant::now() + PORT_ARRIVAL_TIMEOUT);
                    match timeout_at(until, self.wait_for_edge()).await {
                        Ok(edge) => edge?,
                        Err(_) => {
                            return Err(io::Error::new(
                                io::ErrorKind::BrokenPipe,
                                "the host disconnected before it read the whole reply",
                            ));
                        }
                    }
                }
                Err(Errno::EAGAIN) => self.wait_for_edge().await?,
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
