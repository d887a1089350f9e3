//! Floor 4: disks and their counters: guest-get-disks, guest-get-diskstats.
//!
//! Read-only. The disks are those of sysfs that have a size and a device node. Only NVMe disks are opened: the controller
//! is asked for its SMART log. A controller may take seconds to answer, so this runs on a worker thread.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::fs::DiskAddress;
use super::{Class, Command, answer, probe_error, worker};
use crate::probe::address::{self, BusType};
use crate::probe::diskstats::{self, DiskCounters, DiskStats};
use crate::probe::nvme::{self, SmartLog};
use crate::probe::{System, sysblock, udev};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::sys::{nvme::read_smart_log, strerror};

pub(super) const COMMANDS: &[Command] = &[
    Command::later(25, "guest-get-disks", Class::Query, |_, arguments| {
        Box::pin(async move {
            let NoArguments {} = decode(arguments)?;
            answer(worker::run(worker::FILE_COMMAND_TIMEOUT, || get_disks(&System::host())).await?)
        })
    }),
    Command::now(40, "guest-get-diskstats", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_diskstats(&System::host())?)
    }),
];

const BLOCK: &str = "/sys/block";

#[derive(Debug, Serialize)]
struct DiskInfo {
    name: String,
    partition: bool,
    /// Device nodes of the devices below it.
    dependencies: Option<Vec<String>>,
    /// Only of disks with hardware.
    address: Option<DiskAddress>,
    /// Its name in device mapper.
    alias: Option<String>,
    smart: Option<NvmeSmart>,
}

/// The disks that have a size, the last of the directory first, each after its partitions.
fn get_disks(system: &System) -> Result<Vec<DiskInfo>, CommandError> {
    let names = system.names(BLOCK.as_ref()).map_err(|error| {
        let reason = strerror(&error.source);
        CommandError::generic(format!("Can't open directory \"{BLOCK}\": {reason}"))
    })?;
    let partitions = partitions(system, &names);
    let mut disks = Vec::new();
    for name in names {
        // Not an error: an entry that is no link is no disk, and one that was unplugged meanwhile cannot be resolved.
        if let Ok(disk) = system.sysfs_link(&Path::new(BLOCK).join(name)) {
            if has_size(system, &disk) {
                let partitions = partitions.get(&disk).map_or(&[][..], Vec::as_slice);
                describe(system, &disk, partitions, &mut disks);
            }
        }
    }
    disks.reverse();
    Ok(disks)
}

/// Empty drives and unused loop devices have size 0.
fn has_size(system: &System, disk: &Path) -> bool {
    let size = system.attribute(&disk.join("size"));
    !matches!(size.trim(), "" | "0")
}

/// In the reverse of the reply's order.
fn describe(system: &System, disk: &Path, partitions: &[PathBuf], disks: &mut Vec<DiskInfo>) {
    let device = udev::block_device(system, disk);
    let Some(devnode) = device.devnode else {
        return;
    };
    // A virtual device (dm, md, loop) has no hardware of its own; guest-get-fsinfo lists that of the disks below.
    let found = (!sysblock::is_virtual(disk))
        .then(|| address::disk_address(system, disk))
        .flatten();
    let is_nvme = found
        .as_ref()
        .is_some_and(|found| found.bus_type == BusType::Nvme);
    disks.push(DiskInfo {
        name: devnode.clone(),
        partition: false,
        dependencies: dependencies(system, disk),
        address: found.map(DiskAddress::from),
        alias: device.dm_name,
        // The schema has a SMART log for NVMe only.
        smart: if is_nvme {
            smart(&system.path(&devnode))
        } else {
            None
        },
    });
    for partition in partitions {
        if let Some(name) = udev::block_device(system, partition).devnode {
            disks.push(DiskInfo {
                name,
                partition: true,
                dependencies: Some(vec![devnode.clone()]),
                address: None,
                alias: None,
                smart: None,
            });
        }
    }
}

/// `None`, and the member is left out, if the device has no list of devices below it, or the list cannot be read.
fn dependencies(system: &System, disk: &Path) -> Option<Vec<String>> {
    let slaves = sysblock::slaves_if_listed(system, disk).ok().flatten()?;
    let devnode = |slave: &PathBuf| udev::block_device(system, slave).devnode;
    Some(slaves.iter().filter_map(devnode).collect())
}

/// The directory of all block devices is read once: it has them in the same order as each disk's own directory.
fn partitions(system: &System, disks: &[OsString]) -> HashMap<PathBuf, Vec<PathBuf>> {
    let disks: HashSet<&OsString> = disks.iter().collect();
    let mut partitions: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    let directory = Path::new("/sys/class/block");
    // Without that directory the disks are listed without partitions.
    for name in system.names(directory).unwrap_or_default() {
        if disks.contains(&name) {
            continue;
        }
        let Ok(path) = system.sysfs_link(&directory.join(&name)) else {
            continue;
        };
        if let Some(disk) = path.parent().filter(|disk| is_partition(disk, &name)) {
            partitions.entry(disk.to_owned()).or_default().push(path);
        }
    }
    partitions
}

/// `sda1` of `sda`, or `nvme0n1p1` of `nvme0n1`.
fn is_partition(disk: &Path, name: &OsStr) -> bool {
    let disk = disk.file_name().unwrap_or_default().as_bytes();
    name.as_bytes().strip_prefix(disk).is_some_and(|number| {
        let number = number.strip_prefix(b"p").unwrap_or(number);
        !number.is_empty() && number.iter().all(u8::is_ascii_digit)
    })
}

fn smart(devnode: &Path) -> Option<NvmeSmart> {
    let log = File::open(devnode).and_then(|device| read_smart_log(&device));
    match log {
        Ok(page) => nvme::parse(&page).map(NvmeSmart::from),
        Err(error) => {
            tracing::debug!(
                "cannot read the SMART log of {}: {}; leaving it out",
                devnode.display(),
                strerror(&error)
            );
            None
        }
    }
}

/// NVM Express base specification, "SMART / Health Information". Its 128-bit counters are sent in two halves each.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct NvmeSmart {
    #[serde(rename = "type")]
    kind: &'static str,
    critical_warning: u64,
    temperature: u64,
    available_spare: u64,
    available_spare_threshold: u64,
    percentage_used: u64,
    data_units_read_lo: u64,
    data_units_read_hi: u64,
    data_units_written_lo: u64,
    data_units_written_hi: u64,
    host_read_commands_lo: u64,
    host_read_commands_hi: u64,
    host_write_commands_lo: u64,
    host_write_commands_hi: u64,
    controller_busy_time_lo: u64,
    controller_busy_time_hi: u64,
    power_cycles_lo: u64,
    power_cycles_hi: u64,
    power_on_hours_lo: u64,
    power_on_hours_hi: u64,
    unsafe_shutdowns_lo: u64,
    unsafe_shutdowns_hi: u64,
    media_errors_lo: u64,
    media_errors_hi: u64,
    number_of_error_log_entries_lo: u64,
    number_of_error_log_entries_hi: u64,
}

impl From<SmartLog> for NvmeSmart {
    fn from(log: SmartLog) -> Self {
        let lo = |counter: u128| counter as u64;
        let hi = |counter: u128| (counter >> 64) as u64;
        Self {
            kind: "nvme",
            critical_warning: log.critical_warning.into(),
            temperature: log.temperature.into(),
            available_spare: log.available_spare.into(),
            available_spare_threshold: log.available_spare_threshold.into(),
            percentage_used: log.percentage_used.into(),
            data_units_read_lo: lo(log.data_units_read),
            data_units_read_hi: hi(log.data_units_read),
            data_units_written_lo: lo(log.data_units_written),
            data_units_written_hi: hi(log.data_units_written),
            host_read_commands_lo: lo(log.host_read_commands),
            host_read_commands_hi: hi(log.host_read_commands),
            host_write_commands_lo: lo(log.host_write_commands),
            host_write_commands_hi: hi(log.host_write_commands),
            controller_busy_time_lo: lo(log.controller_busy_time),
            controller_busy_time_hi: hi(log.controller_busy_time),
            power_cycles_lo: lo(log.power_cycles),
            power_cycles_hi: hi(log.power_cycles),
            power_on_hours_lo: lo(log.power_on_hours),
            power_on_hours_hi: hi(log.power_on_hours),
            unsafe_shutdowns_lo: lo(log.unsafe_shutdowns),
            unsafe_shutdowns_hi: hi(log.unsafe_shutdowns),
            media_errors_lo: lo(log.media_errors),
            media_errors_hi: hi(log.media_errors),
            number_of_error_log_entries_lo: lo(log.error_log_entries),
            number_of_error_log_entries_hi: hi(log.error_log_entries),
        }
    }
}

#[derive(Debug, Serialize)]
struct DiskStatsInfo {
    name: String,
    major: u64,
    minor: u64,
    stats: Stats,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Stats {
    read_sectors: Option<u64>,
    read_ios: Option<u64>,
    read_merges: Option<u64>,
    write_sectors: Option<u64>,
    write_ios: Option<u64>,
    write_merges: Option<u64>,
    discard_sectors: Option<u64>,
    discard_ios: Option<u64>,
    discard_merges: Option<u64>,
    flush_ios: Option<u64>,
    read_ticks: Option<u64>,
    write_ticks: Option<u64>,
    discard_ticks: Option<u64>,
    flush_ticks: Option<u64>,
    ios_pgr: Option<u64>,
    total_ticks: Option<u64>,
    weight_ticks: Option<u64>,
}

fn get_diskstats(system: &System) -> Result<Vec<DiskStatsInfo>, CommandError> {
    let text = system.text("/proc/diskstats").map_err(probe_error)?;
    Ok(diskstats::parse(&text)
        .into_iter()
        .map(DiskStatsInfo::from)
        .collect())
}

impl From<DiskStats> for DiskStatsInfo {
    fn from(found: DiskStats) -> Self {
        Self {
            name: found.name,
            major: found.major,
            minor: found.minor,
            stats: found.counters.into(),
        }
    }
}

impl From<DiskCounters> for Stats {
    fn from(found: DiskCounters) -> Self {
        Self {
            read_sectors: found.read_sectors,
            read_ios: found.read_ios,
            read_merges: found.read_merges,
            write_sectors: found.write_sectors,
            write_ios: found.write_ios,
            write_merges: found.write_merges,
            discard_sectors: found.discard_sectors,
            discard_ios: found.discard_ios,
            discard_merges: found.discard_merges,
            flush_ios: found.flush_ios,
            read_ticks: found.read_ticks,
            write_ticks: found.write_ticks,
            discard_ticks: found.discard_ticks,
            flush_ticks: found.flush_ticks,
            ios_pgr: found.ios_in_progress,
            total_ticks: found.total_ticks,
            weight_ticks: found.weight_ticks,
        }
    }
}

#[cfg(test)]
mod tests;
