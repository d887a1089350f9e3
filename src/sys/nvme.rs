//! The SMART log of an NVMe controller (floor 1), by the kernel's pass-through of administrative commands
//! (linux/nvme_ioctl.h). guest-get-disks calls this, and [`crate::probe::nvme`] parses the page.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// In bytes.
pub const SMART_LOG_LENGTH: usize = 512;

const GET_LOG_PAGE: u8 = 0x02;
const SMART_LOG: u32 = 0x02;
/// Retain Asynchronous Event: otherwise reading the log would clear events for which other programs wait.
const RETAIN_EVENTS: u32 = 1 << 15;
const ALL_NAMESPACES: u32 = 0xFFFF_FFFF;
const ADMIN_TIMEOUT_MS: u32 = 5000;

#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    words_10_15: [u32; 6],
    timeout: u32,
    result: u32,
}

const _: () = assert!(size_of::<AdminCommand>() == 72);

mod request {
    nix::ioctl_readwrite!(admin, b'N', 0x41, super::AdminCommand);
}

/// `device` is a namespace or the controller itself.
pub fn read_smart_log(device: &File) -> io::Result<[u8; SMART_LOG_LENGTH]> {
    let mut log = [0_u8; SMART_LOG_LENGTH];
    let length = log.len() as u32;
    let mut command = AdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: ALL_NAMESPACES,
        address: log.as_mut_ptr() as u64,
        data_length: length,
        // AdminCommand dword 10: the upper half is the number of four-byte words, less one.
        words_10_15: [
            SMART_LOG | RETAIN_EVENTS | ((length / 4 - 1) << 16),
            0,
            0,
            0,
            0,
            0,
        ],
        timeout: ADMIN_TIMEOUT_MS,
        ..AdminCommand::default()
    };
    // SAFETY: `command` has the layout that this request reads and writes. The kernel writes at most `data_length` bytes
    // at `address`, which is all of `log`, and `log` is not used otherwise during the call.
    let status = unsafe { request::admin(device.as_raw_fd(), &mut command) }?;
    if status != 0 {
        return Err(io::Error::other(format!("NVMe status {status:#x}")));
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_devices_refuse() {
        let error = read_smart_log(&File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTTY));
    }
}
