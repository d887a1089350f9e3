//! A FIFREEZE that is overdue: whoever holds it up is found, and made to let go where that can be done. Floor 3.
//!
//! It waits for every write that has begun, and a user's own FUSE server may keep one of his from ending: then all others
//! are blocked for as long. To abort the connection ends the request, and with it the write. Nothing can be done about
//! a page of userfaultfd(2); its process is named. Called by [`super::linux::LinuxOps`].

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

/// How long all processes may be looked through; that takes milliseconds.
const PROC_SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after an abort FIFREEZE may take to return.
pub const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Most processes that an error names.
const MAX_NAMED_PROCESSES: usize = 3;

/// Where fusectl is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// The processes that hold up the FIFREEZE of each root.
pub fn find(pool: &Pool, roots: &[Arc<Root>]) -> Vec<Vec<Writer>> {
    let all = roots.to_vec();
    let call = move || {
        let (system, until) = (System::host(), Instant::now() + PROC_SEARCH_TIMEOUT);
        let find = |root: &Arc<Root>| {
            let descriptor = root.as_fd().as_raw_fd().to_string();
            let device = device_of(&system, Path::new("/proc/self"), &descriptor);
            device.map_or_else(Vec::new, |device| writers::find(&system, device, until))
        };
        Ok(all.iter().map(find).collect())
    };
    // Something of another process may be locked for long: then nobody is named.
    pool.run_one(Some(PROC_SEARCH_TIMEOUT * 2), drop, call)
        .unwrap_or_default()
}

/// Aborts the FUSE connections that have requests without an answer and are not root's, if FIFREEZE waits for writers:
/// those of which one of the `writers` has mapped files, or without any writers all. Answers whether there were any.
pub fn abort_connections(writers: Option<&[Vec<Writer>]>) -> bool {
    let system = System::host();
    let mut is_any = false;
    if !writers::is_awaited(&system) {
        return is_any;
    }
    for entry in std::fs::read_dir(CONNECTIONS).into_iter().flatten() {
        let Some(dir) = entry.ok().map(|entry| entry.path()) else {
            continue;
        };
        let number = dir.file_name().and_then(|name| name.to_str()?.parse().ok());
        let is_meant = writers.is_none_or(|writers| {
            let mut writers = writers.iter().flatten();
            writers.any(|writer| number.is_some_and(|number| writer.maps.contains(&number)))
        });
        let user = std::fs::metadata(&dir).map_or(0, |metadata| metadata.uid());
        let waiting = system.attribute(&dir.join("waiting"));
        let is_waiting = waiting.trim().parse::<u64>().is_ok_and(|count| count > 0);
        if !is_meant || user == 0 || !is_waiting {
            continue;
        }
        is_any = true;
        let dir = dir.display();
        match std::fs::write(format!("{dir}/abort"), "1") {
            Ok(()) => tracing::warn!(
                "aborted the FUSE connection {dir} of user {user}: a freeze waits for its requests"
            ),
            Err(error) => tracing::warn!("cannot abort {dir}: {error}"),
        }
    }
    is_any
}

/// What an overdue FIFREEZE means to others, and why.
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
