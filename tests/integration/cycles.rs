//! Freeze and thaw over and over, while filesystems are written to and others are mounted and unmounted:
//! nothing stays frozen, no line is lost, the hooks are paired. `QGA_CYCLES` says how often.

use crate::support::disk::{bind, detach, tmpfs};
use crate::support::{Disk, Place, in_namespace, is_ours, returned};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// How many without `QGA_CYCLES`.
const CYCLES: usize = 50;

/// Repeats `act` with a counter on a thread, until told to end; returns how often.
fn repeat(ends: &Arc<AtomicBool>, act: impl Fn(usize) + Send + 'static) -> JoinHandle<usize> {
    let ends = ends.clone();
    spawn(move || {
        let mut number = 0;
        while !ends.load(Ordering::Relaxed) {
            act(number);
            number += 1;
        }
        number
    })
}

/// Appends a numbered line and has it written back.
fn append(path: PathBuf) -> impl Fn(usize) + Send + 'static {
    move |number| {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let mut file = file.expect("file");
        writeln!(file, "{number}").expect("line");
        file.sync_all().expect("fsync");
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn cycles_under_load_lose_nothing() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let cycles = std::env::var("QGA_CYCLES").ok();
        let cycles = cycles.map_or(CYCLES, |text| text.parse().expect("QGA_CYCLES: a number"));
        let place = Place::new();
        let disks = ["a", "b"].map(|name| Disk::ext4_of(&place.path(name), 128));
        let agent = place.agent(&[&place.noting_hook()]);
        let ends = Arc::new(AtomicBool::new(false));
        let writers = disks
            .each_ref()
            .map(|disk| repeat(&ends, append(disk.path("lines"))));
        let (bound, memory) = (place.path("bound"), place.path("memory"));
        fs::create_dir(&memory).expect("directory");
        let disk = PathBuf::from(disks[0].mountpoint());
        let churn = repeat(&ends, move |_| {
            bind(&disk, &bound);
            tmpfs(&memory);
            sleep(Duration::from_millis(3));
            detach(&bound);
            detach(&memory);
        });
        let mut client = agent.connect();
        for cycle in 0..cycles {
            let frozen = client.call("guest-fsfreeze-freeze");
            assert_eq!(frozen, returned(2), "cycle {cycle}");
            let thawed = client.call("guest-fsfreeze-thaw");
            assert_eq!(thawed, returned(2), "cycle {cycle}");
        }
        ends.store(true, Ordering::Relaxed);
        assert!(churn.join().expect("churn") > 0);
        let written = writers.map(|writer| writer.join().expect("writer"));
        for (disk, written) in disks.iter().zip(written) {
            assert!(written > 0 && !disk.is_frozen());
            let text = fs::read_to_string(disk.path("lines")).expect("lines");
            let all = (0..written).map(|number| format!("{number}\n"));
            assert_eq!(text, all.collect::<String>());
        }
        let calls = "freeze\nthaw ok\n".repeat(cycles);
        assert_eq!(place.read("calls"), calls);
        assert!(agent.stop().success());
        for mut disk in disks {
            disk.unmount();
            let checked = Command::new("e2fsck").args(["-fn", disk.device()]).output();
            let checked = checked.expect("e2fsck");
            assert!(checked.status.success(), "{checked:?}");
        }
        println!("{cycles} cycles; {written:?} lines");
    });
}
