//! Logged-in users and the runlevel: the records of utmp(5), as the C library of this machine writes them. Floor 1.
//!
//! There are two layouts. With 32 bits, and on 64-bit processors where glibc shares the file with 32-bit programs
//! (`__WORDSIZE_TIME64_COMPAT32` in its bits/wordsize.h: x86_64, ppc64, riscv64), times have 32 bits; elsewhere (aarch64,
//! s390x, loongarch64) they have 64, and records are longer. A static build with musl uses the processor's layout, too,
//! because the file is the guest's. Times of 32 bits are unsigned, as glibc has them since 2.40: they end in 2106 and not in
//! 2038. Guests without utmp have no logins here, but in `logind`. guest-get-users calls this.

use super::{Error, System};

/// The record of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Need not be UTF-8.
    pub user: Vec<u8>,
    /// Since the epoch.
    pub(crate) seconds: i64,
    pub(crate) microseconds: i64,
}

/// The offsets of the members of a record, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    length: usize,
    time: usize,
    time_width: usize,
}

impl Layout {
    /// With 32-bit times.
    pub const NARROW: Self = Self {
        length: 384,
        time: 340,
        time_width: 4,
    };
    /// With 64-bit times.
    pub const WIDE: Self = Self {
        length: 400,
        time: 344,
        time_width: 8,
    };
    pub(crate) const NATIVE: Self = if cfg!(any(
        target_arch = "aarch64",
        target_arch = "s390x",
        target_arch = "loongarch64"
    )) {
        Self::WIDE
    } else {
        Self::NARROW
    };
}

/// Compares the layout with the C library's for every processor that is compiled for, in `cargo check`, too.
#[cfg(target_env = "gnu")]
const _: () = {
    use nix::libc::utmpx;
    use std::mem::offset_of;
    assert!(size_of::<utmpx>() == Layout::NATIVE.length);
    assert!(offset_of!(utmpx, ut_user) == USER && offset_of!(utmpx, ut_pid) == PID);
    assert!(offset_of!(utmpx, ut_tv) == Layout::NATIVE.time);
};

/// Other records are of boots, terminals and logouts.
const USER_PROCESS: i16 = 7;
const RUN_LVL: i16 = 1;
const PID: usize = 4;
const USER: usize = 44;
const USER_LENGTH: usize = 32;

/// No logins if the file does not exist.
pub(crate) fn read(system: &System) -> Result<Vec<Login>, Error> {
    match system.bytes("/var/run/utmp") {
        Ok(records) => Ok(parse(&records, Layout::NATIVE)),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// As an ASCII digit, during a change the new one; `None` if it is not recorded.
pub(crate) fn read_runlevel(system: &System) -> Option<u8> {
    let records = system.bytes("/var/run/utmp").ok()?;
    let mut records = records.chunks_exact(Layout::NATIVE.length);
    let record = records.rfind(|record| record.starts_with(&RUN_LVL.to_ne_bytes()))?;
    let pid = record.get(PID..PID + 4)?.try_into().ok()?;
    // The next byte is the previous runlevel.
    Some(i32::from_ne_bytes(pid) as u8)
}

/// The logins in file order. An incomplete record at the end is left out.
pub fn parse(records: &[u8], layout: Layout) -> Vec<Login> {
    let login = |record| parse_record(record, layout);
    records
        .chunks_exact(layout.length)
        .filter_map(login)
        .collect()
}

fn parse_record(record: &[u8], layout: Layout) -> Option<Login> {
    let kind = i16::from_ne_bytes(record.get(..2)?.try_into().ok()?);
    if kind != USER_PROCESS {
        return None;
    }
    let name = record.get(USER..USER + USER_LENGTH)?;
    let user = name.split(|&byte| byte == 0).next()?.to_vec();
    let number = |offset: usize| {
        let bytes = record.get(offset..offset + layout.time_width)?;
        match layout.time_width {
            4 => Some(i64::from(u32::from_ne_bytes(bytes.try_into().ok()?))),
            _ => Some(i64::from_ne_bytes(bytes.try_into().ok()?)),
        }
    };
    Some(Login {
        user,
        seconds: number(layout.time)?,
        microseconds: number(layout.time + layout.time_width)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;

    pub fn record(layout: Layout, kind: i16, user: &[u8], time: (i64, i64)) -> Vec<u8> {
        let mut record = vec![0; layout.length];
        record[..2].copy_from_slice(&kind.to_ne_bytes());
        record[USER..USER + user.len()].copy_from_slice(user);
        for (index, number) in [time.0, time.1].into_iter().enumerate() {
            let at = layout.time + index * layout.time_width;
            match layout.time_width {
                4 => record[at..at + 4].copy_from_slice(&(number as i32).to_ne_bytes()),
                _ => record[at..at + 8].copy_from_slice(&number.to_ne_bytes()),
            }
        }
        record
    }

    /// In 2106; the highest bit of 32 is set.
    const LATE: i64 = 0xffff_fffe;

    #[test]
    fn logins_of_both_layouts() {
        assert_eq!((Layout::NARROW.length, Layout::WIDE.length), (384, 400));
        for layout in [Layout::NARROW, Layout::WIDE] {
            let mut file = record(layout, 2, b"reboot", (1, 0));
            file.extend(record(layout, 7, b"root", (1_600_000_000, 5)));
            file.extend(record(layout, 8, b"gone", (1, 0)));
            file.extend(record(layout, 7, &[b'x'; USER_LENGTH], (LATE, 999_999)));
            file.extend(&record(layout, 7, b"cut", (1, 0))[..layout.length - 1]);
            let logins = parse(&file, layout);
            assert_eq!(logins.len(), 2);
            let root = Login {
                user: b"root".to_vec(),
                seconds: 1_600_000_000,
                microseconds: 5,
            };
            assert_eq!(logins[0], root);
            assert_eq!(
                (logins[1].user.len(), logins[1].seconds),
                (USER_LENGTH, LATE)
            );
        }
    }

    #[test]
    fn without_a_file_there_are_no_logins() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        assert_eq!(read(&system).unwrap(), []);
        fs::create_dir_all(root.path().join("var/run/utmp")).unwrap();
        let error = read(&system).unwrap_err();
        assert!(error.to_string().starts_with("read(\"/var/run/utmp\"): "));
    }
}
