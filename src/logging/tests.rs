use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, mem};

use super::held::{BOUNDS, Bounds};
use super::line::{self, Level, MAX_TEXT};
use super::subscriber::LogSubscriber;
use super::writer::{LogTarget, LogWriter, Outputs};
use super::*;

#[derive(Clone, Default)]
struct Bench {
    console: Sink,
    file: Sink,
    audit: Sink,
    /// In milliseconds; each look at the clock takes one.
    clock: Arc<AtomicU64>,
    refuse: Arc<AtomicU64>,
    pauses: Arc<AtomicU64>,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.1.load(Relaxed) {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn take(&self) -> String {
        String::from_utf8(mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }

    fn fails(&self, fails: bool) {
        self.1.store(fails, Relaxed);
    }
}

impl Bench {
    fn writer(&self, target: LogTarget, bounds: Bounds, holds_lines: bool) -> Arc<LogWriter> {
        let (clock, pauses, refuse) = (
            Arc::clone(&self.clock),
            Arc::clone(&self.pauses),
            Arc::clone(&self.refuse),
        );
        let mut audit = self.audit.clone();
        let outputs = Outputs {
            target,
            is_journal: false,
            journal: None,
            console: Box::new(self.console.clone()),
            audit: Some(Box::new(move |when, text| {
                if refuse.load(Relaxed) > 0 {
                    refuse.fetch_sub(1, Relaxed);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let when = when.duration_since(UNIX_EPOCH).unwrap().as_millis();
                writeln!(audit, "{when} {text}")
            })),
            clock: Box::new(move || {
                UNIX_EPOCH + Duration::from_millis(clock.fetch_add(1, Relaxed))
            }),
            pause: Box::new(move |_| {
                pauses.fetch_add(1, Relaxed);
            }),
        };
        Arc::new(LogWriter::with_outputs(outputs, bounds, holds_lines))
    }

    fn console(&self) -> Arc<LogWriter> {
        self.writer(LogTarget::Console, BOUNDS, false)
    }
}

#[test]
fn line_layout() {
    let bench = Bench::default();
    let writer = bench.console();
    bench.clock.store(1_700_000_000_042, Relaxed);
    writer.log(Level::Critical, "a", "");
    writer.log(Level::Warning, "b", "");
    writer.log(Level::Info, "c\n", "");
    writer.log(Level::Debug, "d", "");
    assert_eq!(
        bench.console.take(),
        "1700000000.042000: critical: a\n1700000000.043000: warning: b\n\
         1700000000.044000: info: c\n1700000000.045000: debug: d\n"
    );
}

#[test]
fn control_characters_are_escaped() {
    assert_eq!(line::escape_control("a\tbé\n"), "a\tbé");
    assert_eq!(
        line::escape_control("a\n1.0: critical: b\r\u{1b}[0m"),
        "a\\n1.0: critical: b\\r\\u{1b}[0m"
    );
    let long = "é".repeat(MAX_TEXT);
    let escaped = line::escape_control(&long);
    assert_eq!(
        escaped,
        format!("{} [{MAX_TEXT} bytes cut]", "é".repeat(MAX_TEXT / 2))
    );
    let just = "x".repeat(MAX_TEXT);
    assert_eq!(line::escape_control(&just), just);
}

#[test]
fn held_lines_keep_order_and_time() {
    let bench = Bench::default();
    let writer = bench.console();
    writer.log(Level::Warning, "before", "");
    writer.hold_lines();
    writer.hold_lines();
    assert!(writer.holds_lines());
    writer.audit("guest-ping called", "");
    writer.log(Level::Debug, "one", "");
    writer.audit("guest-info called", "");
    writer.log(Level::Critical, "two\nlines", "");
    assert_eq!(bench.console.take(), "0.000000: warning: before\n");
    assert_eq!(bench.audit.take(), "");

    bench.clock.store(9000, Relaxed);
    writer.release_lines();
    writer.release_lines();
    assert!(!writer.holds_lines());
    writer.log(Level::Warning, "after", "");
    writer.audit("after", "");
    let console = bench.console.take();
    let (kept, after) = console.split_at(console.find("9.").unwrap());
    assert_eq!(
        kept,
        "0.002000: debug: one\n0.004000: critical: two\\nlines\n"
    );
    assert!(after.ends_with(": warning: after\n"), "{after}");
    let audit = bench.audit.take();
    let (kept, after) = audit.split_at(audit.find("9").unwrap());
    assert_eq!(
        kept,
        "1 info: guest-ping called\n3 info: guest-info called\n"
    );
    assert!(after.ends_with(" info: after\n"), "{after}");
}

#[test]
fn lines_are_held_again() {
    let bench = Bench::default();
    let writer = bench.console();
    for text in ["a", "b"] {
        writer.hold_lines();
        writer.log(Level::Info, text, "");
        assert_eq!(bench.console.take(), "");
        writer.release_lines();
        assert_eq!(
            bench
                .console
                .take()
                .matches(&format!("info: {text}\n"))
                .count(),
            1
        );
    }
}

#[test]
fn dropped_lines_are_counted() {
    let bench = Bench::default();
    let writer = bench.writer(
        LogTarget::Console,
        Bounds {
            lines: 8,
            bytes: 1000,
        },
        false,
    );
    writer.hold_lines();
    for i in 0..10 {
        writer.log(Level::Debug, &format!("d{i}"), "");
    }
    writer.log(Level::Warning, "w", "");
    writer.audit("a0", "");
    writer.audit("a1", "");
    writer.release_lines();
    let console = bench.console.take();
    let mut texts = console
        .lines()
        .filter_map(|line| Some(line.split_once(": ")?.1));
    for expected in ["d0", "d1", "d2", "d3", "d4", "d5"] {
        assert_eq!(texts.next(), Some(format!("debug: {expected}").as_str()));
    }
    assert_eq!(texts.next(), Some("warning: w"));
    let expected = "warning: memory for log lines was full while filesystems were frozen: 4 log lines and 1 \
                audit lines were dropped";
    assert_eq!(texts.collect::<Vec<_>>(), [expected]);
    let audit = bench.audit.take();
    assert!(
        audit.contains("info: a0\n") && !audit.contains("a1"),
        "{audit}"
    );
    assert!(
        audit.ends_with("info: 1 lines from the time of the freeze are missing\n"),
        "{audit}"
    );
}

#[test]
fn memory_is_bounded() {
    let bench = Bench::default();
    let writer = bench.writer(
        LogTarget::Console,
        Bounds {
            lines: 1000,
            bytes: 100,
        },
        true,
    );
    let text = "x".repeat(30);
    for _ in 0..10 {
        writer.log(Level::Info, &text, "");
    }
    for _ in 0..10 {
        writer.log(Level::Critical, &text, "");
    }
    writer.release_lines();
    let console = bench.console.take();
    assert_eq!(console.matches("info").count(), 2);
    assert_eq!(console.matches("critical").count(), 1);
    assert!(console.contains("17 log lines"), "{console}");
}

#[test]
fn log_file_that_fails() {
    let bench = Bench::default();
    let file = Box::new(bench.file.clone());
    let target = LogTarget::File {
        path: "/x".into(),
        file,
        failing: false,
    };
    let writer = bench.writer(target, BOUNDS, false);
    writer.log(Level::Info, "a", "");
    bench.file.fails(true);
    writer.log(Level::Info, "b", "");
    writer.log(Level::Info, "c", "");
    bench.file.fails(false);
    writer.log(Level::Info, "d", "");
    assert_eq!(bench.file.take(), "0.000000: info: a\n0.003000: info: d\n");
    let console = bench.console.take();
    let notice = "0.001000: critical: cannot write to the log file '/x': No space left on device";
    assert!(console.starts_with(notice), "{console}");
    assert!(
        console.ends_with("\n0.001000: info: b\n0.002000: info: c\n"),
        "{console}"
    );
    assert_eq!(console.lines().count(), 3);
}

#[test]
fn deferred_log_file_opens_when_lines_are_released() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "old\n").unwrap();
    let bench = Bench::default();
    let writer = bench.writer(LogTarget::Deferred(path.clone()), BOUNDS, true);
    writer.log(Level::Warning, "frozen", "");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old\n");
    writer.release_lines();
    writer.log(Level::Warning, "thawed", "");
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "old\n0.000000: warning: frozen\n0.001000: warning: thawed\n"
    );
    assert_eq!(bench.console.take(), "");
}

#[test]
fn deferred_log_file_that_cannot_be_opened() {
    let bench = Bench::default();
    let writer = bench.writer(LogTarget::Deferred("/nonexistent/log".into()), BOUNDS, true);
    writer.log(Level::Warning, "frozen", "");
    writer.release_lines();
    let console = bench.console.take();
    assert!(
        console.starts_with(
            "0.001000: critical: unable to open specified log file: No such file or directory \
             ('/nonexistent/log'); "
        ),
        "{console}"
    );
    assert!(
        console.ends_with("until the agent is restarted\n0.000000: warning: frozen\n"),
        "{console}"
    );
}

#[test]
fn log_file_at_the_start() {
    let open = |path: &str, frozen| {
        let logfile = Some(path.into());
        LogWriter::open(LogOptions {
            logfile,
            frozen,
            ..LogOptions::default()
        })
    };
    let Err(error) = open("/nonexistent/log", false) else {
        panic!("opened")
    };
    let text = error.to_string();
    assert!(text.starts_with("unable to open specified log file: No such file or directory"));
    assert!(open("/nonexistent/log", true).unwrap().holds_lines());
}

#[test]
fn full_system_log_is_tried_again_after_the_thaw_only() {
    let bench = Bench::default();
    let writer = bench.console();
    bench.refuse.store(1, Relaxed);
    writer.audit("lost", "");
    assert_eq!(bench.pauses.load(Relaxed), 0);
    assert!(bench.console.take().contains("cannot send an audit line"));

    writer.hold_lines();
    writer.audit("kept", "");
    bench.refuse.store(3, Relaxed);
    writer.release_lines();
    assert_eq!(bench.pauses.load(Relaxed), 3);
    assert_eq!(bench.audit.take(), "1 info: kept\n");

    writer.hold_lines();
    writer.audit("kept", "");
    bench.refuse.store(u64::MAX, Relaxed);
    writer.release_lines();
    assert_eq!(bench.pauses.load(Relaxed), 103);
}

#[test]
fn lost_audit_lines_are_counted() {
    let bench = Bench::default();
    let writer = bench.console();
    bench.refuse.store(3, Relaxed);
    for i in 0..5 {
        writer.audit(&i.to_string(), "");
    }
    assert_eq!(bench.audit.take(), "3 info: 3\n4 info: 4\n");
    let console = bench.console.take();
    assert_eq!(console.lines().count(), 2, "{console}");
    assert!(console.contains("lost: info: 0\n"), "{console}");
    assert!(
        console.ends_with("accepts audit lines again; 3 were lost\n"),
        "{console}"
    );
}

#[test]
fn events_are_rendered() {
    let logged = |verbose| {
        let bench = Bench::default();
        let subscriber = LogSubscriber::new(bench.console(), verbose);
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("e {}", 1);
            tracing::warn!(count = 2, path = %"/x y", "w");
            tracing::info!(a = "b", c = "d e", "i");
            tracing::debug!(ok = true);
            tracing::trace!(
                error = &io::Error::other("why") as &dyn std::error::Error,
                "t"
            );
        });
        bench.console.take()
    };
    let quiet = "0.000000: critical: e 1\n0.001000: warning: w count=2 path=/x y\n";
    let rest = "0.002000: info: i a=b c=\"d e\"\n0.003000: debug: ok=true\n\
                0.004000: debug: t error=why\n";
    assert_eq!(logged(true), format!("{quiet}{rest}"));
    assert_eq!(logged(false), quiet);
}

#[test]
fn fields_in_capitals_go_to_the_journal_and_the_line_stays_the_same() {
    let entries = Arc::new(Mutex::new(Vec::new()));
    let refuse = Arc::new(AtomicBool::new(false));
    let lines = |holds_lines| {
        let bench = Bench::default();
        let (seen, refuse) = (Arc::clone(&entries), Arc::clone(&refuse));
        let writer = bench.writer(LogTarget::Console, BOUNDS, holds_lines);
        writer.set_journal(Box::new(move |priority, _, text, fields| {
            if refuse.load(Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            seen.lock()
                .unwrap()
                .push(format!("{priority} {text} {fields}"));
            Ok(())
        }));
        let subscriber = LogSubscriber::new(Arc::clone(&writer), false);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(RUN_ID = "a b", HOOK = "x\ny", count = 2, "w");
            tracing::info!(target: crate::AUDIT, LEVEL = %"crash", HOOK = "", "a");
            tracing::info!(target: crate::AUDIT, "b");
            tracing::warn!("plain");
        });
        writer.release_lines();
        bench.console.take() + &bench.audit.take()
    };
    let sent = [
        "4 0.000000: warning: w count=2 RUN_ID=a b\nHOOK=x\nHOOK=y\n",
        "6 info: a LEVEL=crash\n",
        "6 info: b ",
    ];
    for holds_lines in [false, true] {
        assert_eq!(lines(holds_lines), "0.003000: warning: plain\n");
        assert_eq!(mem::take(&mut *entries.lock().unwrap()), sent);
    }
    refuse.store(true, Relaxed);
    let whole = "0.000000: warning: w count=2\n0.003000: warning: plain\n1 info: a\n2 info: b\n";
    assert_eq!(lines(true), whole);
}

#[test]
fn real_clock_is_used() {
    let before = SystemTime::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let writer = LogWriter::open(LogOptions {
        frozen: true,
        audit: Some(Box::new(move |when, text| {
            seen.lock().unwrap().push((when, text.to_owned()));
            Ok(())
        })),
        ..LogOptions::default()
    })
    .unwrap();
    writer.audit("x", "");
    let after = SystemTime::now();
    writer.release_lines();
    let times = times.lock().unwrap();
    let [(when, text)] = &times[..] else {
        panic!("{times:?}")
    };
    assert!((before..=after).contains(when) && text == "info: x");
}
