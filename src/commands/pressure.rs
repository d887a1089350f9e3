//! Floor 4: memory at a glance, and how long tasks wait for memory, disks and processors: x-guest-get-memory, of our own.
//!
//! Read-only, and nothing is cached. The upstream schema has the statistics of disks and processors alone.

use serde::Serialize;

use super::{Class, Command, answer, probe_error};
use crate::probe::pressure::{self, Pressure};
use crate::probe::{System, meminfo};
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;

pub(super) const COMMANDS: &[Command] = &[Command::now(
    1001,
    "x-guest-get-memory",
    Class::Query,
    |_, arguments| {
        let NoArguments {} = decode(arguments)?;
        answer(get_memory(&System::host())?)
    },
)];

/// In bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct MemoryUse {
    total: u64,
    /// The kernel's estimate of what can be had without swapping; before Linux 3.14 there is none.
    available: Option<u64>,
    swap_total: u64,
    swap_free: u64,
    /// `None` where the kernel has no figures for any resource.
    pressure: Option<Pressures>,
}

#[derive(Debug, Serialize)]
struct Pressures {
    memory: Option<Pressure>,
    io: Option<Pressure>,
    cpu: Option<Pressure>,
}

fn get_memory(system: &System) -> Result<MemoryUse, CommandError> {
    const PATH: &str = "/proc/meminfo";
    let text = system.text(PATH).map_err(probe_error)?;
    let of = |name: &str| {
        meminfo::field(&text, name)
            .ok_or_else(|| CommandError::generic(format!("cannot read {PATH}: no valid {name}")))
    };
    let [memory, io, cpu] =
        ["memory", "io", "cpu"].map(|resource| pressure::read(system, resource));
    let any = memory.or(io).or(cpu);
    Ok(MemoryUse {
        total: of("MemTotal")?,
        available: meminfo::field(&text, "MemAvailable"),
        swap_total: of("SwapTotal")?,
        swap_free: of("SwapFree")?,
        pressure: any.map(|_| Pressures { memory, io, cpu }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reply_line;
    use serde_json::json;
    use std::fs;

    const MEMINFO: &str = "MemTotal:        2031616 kB\nMemFree:           12 kB\nMemAvailable:    1048576 kB\n\
                           SwapCached:            9 kB\nSwapTotal:        524288 kB\nSwapFree:         524284 kB\n";

    #[test]
    fn members_are_absent_where_the_kernel_has_no_figures() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        let write = |path: &str, text: &str| fs::write(root.path().join(path), text).unwrap();
        let reply = || -> serde_json::Value {
            let line = reply_line(get_memory(&system).unwrap());
            serde_json::from_str::<serde_json::Value>(&line).unwrap()["return"].take()
        };
        fs::create_dir_all(root.path().join("proc/pressure")).unwrap();
        assert_eq!(
            get_memory(&system).unwrap_err().to_string(),
            "open(\"/proc/meminfo\"): No such file or directory"
        );
        write("proc/meminfo", "SwapTotal: 1 kB\nMemTotal: 1\n");
        assert_eq!(
            get_memory(&system).unwrap_err().to_string(),
            "cannot read /proc/meminfo: no valid MemTotal"
        );
        let mut expected =
            json!({"total": 2080374784u64, "swap-total": 536870912, "swap-free": 536866816});
        write(
            "proc/meminfo",
            &MEMINFO.replace("MemAvailable", "MemBefore"),
        );
        assert_eq!(reply(), expected);
        write("proc/meminfo", MEMINFO);
        let line = |total| format!("avg10=0.50 avg60=1.00 avg300=2.00 total={total}\n");
        write(
            "proc/pressure/io",
            &format!("some {}full {}", line(7), line(5)),
        );
        write("proc/pressure/cpu", &format!("some {}", line(3)));
        write("proc/pressure/memory", "");
        let stall = |total| json!({"avg10": 0.5, "avg60": 1, "avg300": 2, "total": total});
        expected["available"] = json!(1_073_741_824);
        expected["pressure"] =
            json!({"io": {"some": stall(7), "full": stall(5)}, "cpu": {"some": stall(3)}});
        assert_eq!(reply(), expected);
    }
}
