//! Writes to one of the filesystems all the time. The longest write shows for how long the freeze blocked writers.

use anyhow::Context;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const WRITE_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Shared {
    writes: AtomicU64,
    longest_nanos: AtomicU64,
    stop: AtomicBool,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Writer {
    pub(super) fn start(path: &Path) -> anyhow::Result<Self> {
        let mut file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let thread = std::thread::spawn(move || {
            let block = [b'w'; 4096];
            while !seen.stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                file.write_all(&block)?;
                let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                seen.longest_nanos.fetch_max(took, Ordering::Relaxed);
                seen.writes.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(WRITE_INTERVAL);
            }
            Ok(())
        });
        Ok(Self { shared, thread })
    }

    pub(super) fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }

    pub(super) fn resumes(&self, within: Duration) -> bool {
        let (before, start) = (self.writes(), Instant::now());
        while start.elapsed() < within {
            if self.writes() > before {
                return true;
            }
            std::thread::sleep(WRITE_INTERVAL);
        }
        false
    }

    /// Returns the duration of the longest write.
    pub(super) fn stop(self) -> anyhow::Result<Duration> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(result) => result.context("the writer cannot write")?,
            Err(_) => anyhow::bail!("the writer panicked"),
        }
        Ok(Duration::from_nanos(
            self.shared.longest_nanos.load(Ordering::Relaxed),
        ))
    }
}
