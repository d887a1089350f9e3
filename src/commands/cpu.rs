//! Floor 4: processors: guest-get-vcpus, guest-set-vcpus, guest-get-cpustats, guest-get-load.
//!
//! All of it comes from /sys/devices/system/cpu, /proc/stat and getloadavg(3). Only guest-set-vcpus changes anything, in the
//! order of its list and up to the first failure. To take a processor offline the kernel first moves its tasks and
//! interrupts away, so this runs on a worker thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::libc;
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use super::{Class, Command, CommandFuture, Context, answer, probe_error, worker};
use crate::probe::procstat::{self, CpuTicks};
use crate::probe::{self, System};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::value::Dict;
use crate::sys::{load, strerror};

pub(super) const COMMANDS: &[Command] = &[
    Command::now(23, "guest-get-vcpus", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_vcpus(&System::host())?)
    }),
    Command::later(24, "guest-set-vcpus", Class::Hardware, set_vcpus_of_host),
    Command::now(41, "guest-get-cpustats", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_cpustats(&System::host())?)
    }),
    Command::now(42, "guest-get-load", Class::Query, |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_load()?)
    }),
];

const CPUS: &str = "/sys/devices/system/cpu";

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct LogicalProcessor {
    logical_id: i64,
    online: bool,
    can_offline: bool,
}

/// `can-offline` is accepted, because clients send back what guest-get-vcpus returned, and ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WantedProcessor {
    logical_id: i64,
    online: bool,
    #[allow(dead_code)]
    can_offline: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct SetVcpus {
    vcpus: Vec<WantedProcessor>,
}

fn set_vcpus_of_host(_: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let SetVcpus { vcpus } = decode(arguments)?;
        answer(
            worker::run(worker::SLOW_COMMAND_TIMEOUT, move || {
                set_vcpus(&System::host(), &vcpus)
            })
            .await?,
        )
    })
}

/// In the order of the directory, as the original lists them.
fn get_vcpus(system: &System) -> Result<Vec<LogicalProcessor>, CommandError> {
    let names = system.names(CPUS.as_ref()).map_err(|error| {
        let reason = strerror(&error.source);
        CommandError::generic(format!("failed to list entries: {CPUS}: {reason}"))
    })?;
    // Not `cpufreq` or `cpuidle`. A number beyond i64 is not one of the kernel's.
    let id = |name: &std::ffi::OsString| {
        let number = name.to_str()?.strip_prefix("cpu")?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse().ok())?
    };
    names
        .iter()
        .filter_map(id)
        .map(|id| read_processor(system, id))
        .collect()
}

fn read_processor(system: &System, logical_id: i64) -> Result<LogicalProcessor, CommandError> {
    let online = match OnlineFile::open(system, logical_id, false)? {
        Some(file) => Some(file.is_online()?),
        None => None,
    };
    Ok(LogicalProcessor {
        logical_id,
        online: online.unwrap_or(true),
        can_offline: online.is_some(),
    })
}

/// Until one fails; returns how many are as wanted, as the schema demands. An error is the first one's.
fn set_vcpus(system: &System, wanted: &[WantedProcessor]) -> Result<u64, CommandError> {
    let mut done = 0;
    for processor in wanted {
        match set_processor(system, processor) {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(error) => {
                tracing::warn!(
                    "guest-set-vcpus: set {done} of {} processors: {error}",
                    wanted.len()
                );
                break;
            }
        }
    }
    Ok(done)
}

fn set_processor(system: &System, wanted: &WantedProcessor) -> Result<(), CommandError> {
    let &WantedProcessor {
        logical_id, online, ..
    } = wanted;
    match OnlineFile::open(system, logical_id, true)? {
        Some(file) if file.is_online()? == online => Ok(()),
        Some(file) => file.set_online(online),
        None if online => Ok(()),
        None => Err(CommandError::generic(format!(
            "logical processor #{logical_id} can't be offlined"
        ))),
    }
}

struct OnlineFile {
    file: File,
    path: String,
}

impl OnlineFile {
    /// `None` if the processor has none: it is always online, as the first one of most machines.
    fn open(system: &System, logical_id: i64, write: bool) -> Result<Option<Self>, CommandError> {
        // Both slashes are in the original's error texts.
        let directory = format!("{CPUS}/cpu{logical_id}/");
        let path = format!("{directory}/online");
        File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(system.path(&directory))
            .map_err(|error| {
                let reason = strerror(&error);
                CommandError::generic(format!("Could not open '{directory}': {reason}"))
            })?;
        match OpenOptions::new()
            .read(true)
            .write(write)
            .open(system.path(&path))
        {
            Ok(file) => Ok(Some(Self { file, path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let reason = strerror(&error);
                Err(CommandError::generic(format!(
                    "could not open {path}: {reason}"
                )))
            }
        }
    }

    fn is_online(&self) -> Result<bool, CommandError> {
        let mut state = [0];
        match self.file.read_at(&mut state, 0) {
            Ok(0) => Err(CommandError::generic(format!(
                "pread(\"{}\"): unexpected EOF",
                self.path
            ))),
            // Anything but `0` is online, as in the original.
            Ok(_) => Ok(state != *b"0"),
            Err(error) => Err(call_error("pread", &self.path, error)),
        }
    }

    fn set_online(&self, online: bool) -> Result<(), CommandError> {
        self.file
            .write_all_at(if online { b"1" } else { b"0" }, 0)
            .map_err(|error| call_error("pwrite", &self.path, error))
    }
}

fn call_error(call: &'static str, path: &str, source: io::Error) -> CommandError {
    probe_error(probe::Error {
        call,
        path: path.into(),
        source,
    })
}

/// Since boot, in milliseconds.
#[derive(Debug, Serialize)]
struct CpuStats {
    #[serde(rename = "type")]
    kind: &'static str,
    cpu: i64,
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    iowait: Option<u64>,
    irq: Option<u64>,
    softirq: Option<u64>,
    steal: Option<u64>,
    guest: Option<u64>,
    guestnice: Option<u64>,
}

fn get_cpustats(system: &System) -> Result<Vec<CpuStats>, CommandError> {
    let text = system.text("/proc/stat").map_err(probe_error)?;
    // 100 on all common architectures (time(7)), so that is also what to assume if the call fails.
    let rate = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let rate = rate
        .and_then(|rate| u64::try_from(rate).ok())
        .filter(|rate| *rate > 0);
    let rate = rate.unwrap_or(100);
    let stats = procstat::parse(&text);
    Ok(stats
        .into_iter()
        .map(|ticks| in_milliseconds(ticks, rate))
        .collect())
}

/// `rate` is ticks in a second.
fn in_milliseconds(ticks: CpuTicks, rate: u64) -> CpuStats {
    let ms = |ticks: u64| ticks.saturating_mul(1000) / rate;
    CpuStats {
        kind: "linux",
        cpu: ticks.cpu,
        user: ms(ticks.user),
        nice: ms(ticks.nice),
        system: ms(ticks.system),
        idle: ms(ticks.idle),
        iowait: ticks.iowait.map(ms),
        irq: ticks.irq.map(ms),
        softirq: ticks.softirq.map(ms),
        steal: ticks.steal.map(ms),
        guest: ticks.guest.map(ms),
        guestnice: ticks.guest_nice.map(ms),
    }
}

#[derive(Debug, Serialize)]
struct LoadAverage {
    load1m: f64,
    load5m: f64,
    load15m: f64,
}

fn get_load() -> Result<LoadAverage, CommandError> {
    let [load1m, load5m, load15m] = load::read_average().map_err(|error| {
        CommandError::generic(format!("cannot query load average: {}", strerror(&error)))
    })?;
    Ok(LoadAverage {
        load1m,
        load5m,
        load15m,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reply_line;
    use std::fs;

    /// cpu0 without a switch, cpu1 on, cpu2 off.
    fn system() -> (tempfile::TempDir, System) {
        let root = tempfile::tempdir().unwrap();
        let cpus = root.path().join("sys/devices/system/cpu");
        for name in ["cpu0", "cpu1", "cpu2", "cpufreq", "cpu", "cpu1x"] {
            fs::create_dir_all(cpus.join(name)).unwrap();
        }
        fs::write(cpus.join("cpu1/online"), "1\n").unwrap();
        fs::write(cpus.join("cpu2/online"), "0\n").unwrap();
        fs::write(cpus.join("online"), "0-1\n").unwrap();
        let system = System::at(root.path()).unwrap();
        (root, system)
    }

    fn state(system: &System, id: i64) -> String {
        fs::read_to_string(system.path(format!("{CPUS}/cpu{id}/online"))).unwrap()
    }

    fn set(system: &System, wanted: &[(i64, bool)]) -> Result<u64, String> {
        let one = |&(logical_id, online): &(i64, bool)| WantedProcessor {
            logical_id,
            online,
            can_offline: None,
        };
        let wanted: Vec<_> = wanted.iter().map(one).collect();
        set_vcpus(system, &wanted).map_err(|error| error.desc)
    }

    #[test]
    fn processors_and_their_online_files() {
        let (root, system) = system();
        let mut found = get_vcpus(&system).unwrap();
        found.sort_unstable_by_key(|processor| processor.logical_id);
        assert_eq!(
            reply_line(found),
            "{\"return\": [{\"online\": true, \"can-offline\": false, \"logical-id\": 0}, \
             {\"online\": true, \"can-offline\": true, \"logical-id\": 1}, \
             {\"online\": false, \"can-offline\": true, \"logical-id\": 2}]}\n"
        );
        fs::write(system.path(format!("{CPUS}/cpu1/online")), "").unwrap();
        assert_eq!(
            get_vcpus(&system).unwrap_err().desc,
            "pread(\"/sys/devices/system/cpu/cpu1//online\"): unexpected EOF"
        );
        fs::remove_dir_all(root.path().join("sys")).unwrap();
        assert_eq!(
            get_vcpus(&system).unwrap_err().desc,
            "failed to list entries: /sys/devices/system/cpu: No such file or directory"
        );
    }

    #[test]
    fn only_what_differs_is_switched() {
        let (_root, system) = system();
        assert_eq!(set(&system, &[]), Ok(0));
        assert_eq!(set(&system, &[(0, true), (1, true), (2, false)]), Ok(3));
        assert_eq!(
            (state(&system, 1), state(&system, 2)),
            ("1\n".into(), "0\n".into())
        );
        assert_eq!(set(&system, &[(1, false), (2, true)]), Ok(2));
        assert_eq!(
            (state(&system, 1), state(&system, 2)),
            ("0\n".into(), "1\n".into())
        );
    }

    #[test]
    fn the_first_failure_is_told_a_later_one_counts() {
        let (_root, system) = system();
        assert_eq!(
            set(&system, &[(0, false), (1, false)]),
            Err("logical processor #0 can't be offlined".into())
        );
        assert_eq!(
            set(&system, &[(99, true)]),
            Err(
                "Could not open '/sys/devices/system/cpu/cpu99/': No such file or directory".into()
            )
        );
        assert_eq!(
            set(&system, &[(-1, true)]),
            Err(
                "Could not open '/sys/devices/system/cpu/cpu-1/': No such file or directory".into()
            )
        );
        assert_eq!(set(&system, &[(1, false), (99, true), (2, true)]), Ok(1));
        assert_eq!(
            (state(&system, 1), state(&system, 2)),
            ("0\n".into(), "0\n".into())
        );
        fs::remove_file(system.path(format!("{CPUS}/cpu2/online"))).unwrap();
        fs::create_dir(system.path(format!("{CPUS}/cpu2/online"))).unwrap();
        assert_eq!(
            set(&system, &[(2, true)]),
            Err("could not open /sys/devices/system/cpu/cpu2//online: Is a directory".into())
        );
    }

    #[test]
    fn times_in_milliseconds() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        assert_eq!(
            get_cpustats(&system).unwrap_err().desc,
            "open(\"/proc/stat\"): No such file or directory"
        );
        let text = "cpu  9 9 9 9\ncpu0 7 1 2 3 4 5 6 8 9 10\n";
        let found: Vec<_> = procstat::parse(text)
            .into_iter()
            .map(|ticks| in_milliseconds(ticks, 300))
            .collect();
        assert_eq!(
            reply_line(found),
            "{\"return\": [{\"cpu\": 0, \"guestnice\": 33, \"idle\": 10, \"steal\": 26, \
             \"iowait\": 13, \"system\": 6, \"guest\": 30, \"nice\": 3, \"irq\": 16, \
             \"type\": \"linux\", \"user\": 23, \"softirq\": 20}]}\n"
        );
        assert!(!get_cpustats(&System::host()).unwrap().is_empty());
    }

    #[test]
    fn load_has_three_members() {
        let line = reply_line(get_load().unwrap());
        let order = ["\"load15m\": ", "\"load5m\": ", "\"load1m\": "];
        let places = order.map(|member| line.find(member).unwrap());
        assert!(places.is_sorted(), "{line}");
    }
}
