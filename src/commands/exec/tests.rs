use super::*;
use std::time::Duration;
use tokio::time::{sleep, timeout};

async fn shell(
    children: &mut Children,
    script: &str,
    input: Option<&[u8]>,
    mode: CaptureMode,
) -> ExecStatusReply {
    let pid = start(children, script, input, mode);
    finish(children, pid).await
}

fn start(children: &mut Children, script: &str, input: Option<&[u8]>, mode: CaptureMode) -> i64 {
    let words = ["sh", "-c", script];
    let started = launch::launch(&words, None, input.is_some(), mode).unwrap();
    let pid = started.pid.into();
    children.add(started, input.map(<[u8]>::to_vec)).unwrap();
    pid
}

async fn finish(children: &Children, pid: i64) -> ExecStatusReply {
    let ended = async {
        loop {
            match children.report(pid).await.expect("a record") {
                Some((ended, out, err)) => return describe_end(ended, out, err),
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    };
    timeout(Duration::from_secs(60), ended)
        .await
        .expect("it ends")
}

fn with_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

fn text(data: &Option<String>) -> Option<String> {
    data.as_ref()
        .map(|data| String::from_utf8(base64::decode(data).unwrap()).unwrap())
}

#[test]
fn every_mode_keeps_its_streams() {
    with_runtime(async {
        let mut children = Children::default();
        for (mode, out, err) in [
            (CaptureMode::None, None, None),
            (CaptureMode::Stdout, Some("out\n"), None),
            (CaptureMode::Stderr, None, Some("err\n")),
            (CaptureMode::Separated, Some("out\n"), Some("err\n")),
            (CaptureMode::Merged, Some("out\nerr\n"), None),
        ] {
            // Twice: the original is damaged by the first.
            for _ in 0..2 {
                let script = "echo out; echo err >&2; exit 3";
                let status = shell(&mut children, script, None, mode).await;
                assert_eq!(
                    (
                        text(&status.out_data).as_deref(),
                        text(&status.err_data).as_deref()
                    ),
                    (out, err),
                    "{mode:?}"
                );
                assert_eq!(status.out_truncated, out.map(|_| false));
                assert_eq!(status.err_truncated, err.map(|_| false));
                assert_eq!((status.exitcode, status.signal), (Some(3), None));
            }
        }
        let killed = shell(&mut children, "kill -9 $$", None, CaptureMode::None).await;
        assert_eq!((killed.exitcode, killed.signal), (None, Some(9)));
    });
}

#[test]
fn input_is_fed_and_output_beyond_the_limit_drained() {
    with_runtime(async {
        let mut children = Children::default();
        let input = vec![b'x'; 300_000];
        let back = shell(&mut children, "cat", Some(&input), CaptureMode::Stdout).await;
        assert_eq!(text(&back.out_data).map(|text| text.len()), Some(300_000));
        let empty = shell(&mut children, "wc -c", Some(b""), CaptureMode::Stdout).await;
        assert_eq!(text(&empty.out_data).as_deref(), Some("0\n"));
        let unread = shell(&mut children, "exit 5", Some(&input), CaptureMode::None).await;
        assert_eq!(unread.exitcode, Some(5));
        let script = "head -c 17000000 /dev/zero; echo done >&2";
        let much = shell(&mut children, script, None, CaptureMode::Separated).await;
        assert_eq!(much.out_truncated, Some(true));
        let data = base64::decode(&much.out_data.unwrap()).unwrap();
        assert_eq!(data.len(), capture::MAX_OUTPUT_BYTES);
        assert_eq!(text(&much.err_data).as_deref(), Some("done\n"));
    });
}

#[test]
fn a_descendant_with_the_pipe_delays_the_report_but_nothing_else() {
    with_runtime(async {
        let mut children = Children::default();
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = format!(
            "(read line < {0}; echo $line) & echo parent",
            fifo.display()
        );
        let pid = start(&mut children, &script, None, CaptureMode::Stdout);
        while children.ended(pid.try_into().unwrap()).is_none() {
            sleep(Duration::from_millis(2)).await;
        }
        assert!(children.report(pid).await.unwrap().is_none());
        let other = shell(&mut children, "echo other", None, CaptureMode::Stdout).await;
        assert_eq!(text(&other.out_data).as_deref(), Some("other\n"));
        std::fs::write(&fifo, "grandchild\n").unwrap();
        let status = finish(&children, pid).await;
        assert_eq!(
            text(&status.out_data).as_deref(),
            Some("parent\ngrandchild\n")
        );
        assert!(children.report(pid).await.is_none(), "reported once");
    });
}

#[test]
fn a_child_that_nobody_asks_for_leaves_no_zombie() {
    with_runtime(async {
        let mut children = Children::default();
        let pid = start(&mut children, "exit 0", None, CaptureMode::None);
        let gone = async {
            while std::path::Path::new(&format!("/proc/{pid}")).exists() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(60), gone)
            .await
            .expect("reaped");
        assert_eq!(finish(&children, pid).await.exitcode, Some(0));
    });
}

#[test]
fn only_our_children_exist() {
    with_runtime(async {
        let children = Children::default();
        for pid in [1, 0, -1, i64::MAX, i64::MIN, std::process::id().into()] {
            assert!(children.report(pid).await.is_none());
        }
    });
}

#[test]
fn what_cannot_be_executed() {
    for (path, reason) in [
        ("/nonexistent/x", "No such file or directory"),
        ("nonexistent-program", "No such file or directory"),
        ("", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/", "Permission denied"),
    ] {
        let error = launch::launch(&[path], None, false, CaptureMode::None).unwrap_err();
        let expected = format!("Failed to execute child process \u{201C}{path}\u{201D} ({reason})");
        assert_eq!(error.desc, expected);
    }
}
