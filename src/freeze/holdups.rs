//! What holds up an overdue FIFREEZE, and how to release it (floor 3).
//!
//! FIFREEZE waits for every write that has begun, and blocks all new ones meanwhile. A user's FUSE server can keep one
//! of its user's writes from ending. To abort the FUSE connection ends the request, and with it the write. Against a
//! page of userfaultfd(2) there is no remedy; the error names the process.

use super::root::Root;
use crate::deadline::Pool;
use crate::probe::System;
use crate::probe::mountinfo::device_of;
use crate::probe::writers::{self, Writer};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of all processes; it takes milliseconds.
const PROC_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

pub const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

const MAX_NAMED_PROCESSES: usize = 3;

/// Mount point of fusectl.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
pub fn find(pool: &Pool, roots: &[Arc<Root>]) -> Vec<Vec<Writer>> {
    let all = roots.to_vec();
    let call = move || {
        let (system, until) = (System::host(), Instant::now() + PROC_SEARCH_TIMEOUT);
        let find = |root: &Arc<Root>| {
            let descriptor = root.as_fd().as_raw_fd().to_string();
            let device = device_of(&system, Path::new("/proc/self"), &descriptor);
            device.map_or_else(Vec::new, |device| {
                writers::find_writers(&system, device, until)
            })
        };
        Ok(all.iter().map(find).collect())
    };
    // A lock of another process (its memory map's) can block the search for long; then no process is named.
    pool.run_one(Some(PROC_SEARCH_TIMEOUT * 2), drop, call)
        .unwrap_or_default()
}

/// Aborts FUSE connections that have unanswered requests and do not belong to root, if FIFREEZE waits for writers:
/// those of which one of the `writers` has mapped files, or with `None` all. Returns whether there were any.
pub fn abort_connections(writers: Option<&[Vec<Writer>]>) -> bool {
    let system = System::host();
    let mut found_any = false;
    if !writers::is_freeze_waiting(&system) {
        return found_any;
    }
    for entry in std::fs::read_dir(CONNECTIONS).into_iter().flatten() {
        // A connection that has just ended.
        let Some(dir) = entry.ok().map(|entry| entry.path()) else {
            continue;
        };
        let number = dir.file_name().and_then(|name| name.to_str()?.parse().ok());
        let is_selected = writers.is_none_or(|writers| {
            let mut writers = writers.iter().flatten();
            writers.any(|writer| number.is_some_and(|number| writer.maps.contains(&number)))
        });
        let user = std::fs::metadata(&dir).map_or(0, |metadata| metadata.uid());
        let waiting = system.attribute(&dir.join("waiting"));
        let is_waiting = waiting.trim().parse::<u64>().is_ok_and(|count| count > 0);
        if !is_selected || user == 0 || !is_waiting {
            continue;
        }
        found_any = true;
        let dir = dir.display();
        match std::fs::write(format!("{dir}/abort"), "1") {
            Ok(()) => tracing::warn!(
                "aborted the FUSE connection {dir} of user {user}: a freeze waits for its requests"
            ),
            Err(error) => tracing::warn!("cannot abort {dir}: {error}"),
        }
    }
    found_any
}

pub fn explain(writers: &[Writer]) -> String {
    if writers.is_empty() {
        return "writes may block until it answers".into();
    }
    let names: Vec<String> = writers
        .iter()
        .take(MAX_NAMED_PROCESSES)
        .map(Writer::to_string)
        .collect();
    let names = names.join(", ");
    format!("held up by {names}; writes may block until it ends")
}
