//! Redis and Valkey: writes that cannot be held back, instances that cannot be reached.

use super::*;

/// `redis-cli -h HOST -p PORT COMMAND`, and an instance with an append-only file behind it.
const CLI: &str = r#"
    port=$4
    shift 4
    [ ! -e "$STUB/refuses.$port" ] || { echo "Could not connect to Redis at 127.0.0.1:$port: Connection refused"; exit 1; }
    case $1,$2 in
    CLIENT,PAUSE)
        [ ! -e "$STUB/pause" ] || { cat "$STUB/pause"; exit 0; }
        touch "$STUB/paused.$port"; echo OK ;;
    CLIENT,UNPAUSE)
        [ ! -e "$STUB/pause" ] || { cat "$STUB/pause"; exit 0; }
        rm -f "$STUB/paused.$port"; echo OK ;;
    INFO,persistence)
        printf 'aof_enabled:1\r\naof_buffer_length:0\r\naof_pending_bio_fsync:0\r\n'
        printf 'aof_last_write_status:ok\r\naof_current_size:88\r\n' ;;
    PING,) echo PONG ;;
    esac"#;

fn bench() -> Bench {
    let bench = Bench::new("redis", |text| text);
    bench.stand_in("pidof", "echo 4711 4712");
    for (pid, port) in [(4711, 6379), (4712, 6380)] {
        bench.process(pid, "/", &format!("redis-server 127.0.0.1:{port}"));
    }
    bench.stand_in("redis-cli", CLI);
    bench
}

fn paused(bench: &Bench) -> bool {
    ["6379", "6380"]
        .iter()
        .any(|port| bench.path(&format!("stub/paused.{port}")).exists())
}

#[test]
fn every_instance_is_held_until_the_thaw() {
    let mut bench = bench();
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!((status, lines.len()), (0, 2), "{lines:?}");
    assert!(paused(&bench));
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert!(!paused(&bench));
}

#[test]
fn writes_that_are_not_held_back_are_a_failure_unless_that_is_accepted() {
    for refusal in [
        "ERR unknown command 'CLIENT', with args beginning with: 'PAUSE' '660000' 'WRITE'",
        "NOPERM User default has no permissions to run the 'client|pause' command",
        "ERR wrong number of arguments for 'client|pause' command",
    ] {
        let mut bench = bench();
        bench.fact("pause", refusal);
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 1, "{lines:?}");
        let said = said(&lines);
        assert!(
            said.contains(refusal) && said.contains("HOLD_WRITES=no"),
            "{said}"
        );
        bench.set("HOLD_WRITES=yes", "HOLD_WRITES=no");
        bench.run("thaw", &[]);
        assert_eq!(bench.call("freeze", &[]).0, 0, "{refusal}");
    }
}

#[test]
fn a_renamed_command_that_held_nothing_is_no_failure_at_the_thaw() {
    let mut bench = bench();
    bench.fact("pause", "ERR unknown command 'CLIENT'");
    bench.call("freeze", &[]);
    assert_eq!(bench.call("thaw", &[("QGA_THAW_REASON", "failed")]).0, 0);
}

#[test]
fn an_instance_that_cannot_be_reached_is_a_failure() {
    let mut bench = bench();
    bench.fact("refuses.6380", "");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1, "{lines:?}");
    assert!(said(&lines).contains("Connection refused"), "{lines:?}");
    assert!(
        bench.path("stub/paused.6379").exists(),
        "the other one is held all the same"
    );
}

#[test]
fn an_instance_whose_title_has_no_address_is_a_failure_until_it_is_named() {
    let mut bench = bench();
    fs::write(bench.path("proc/4712/cmdline"), "redis-server\0").expect("title");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1, "{lines:?}");
    assert!(said(&lines).contains("set INSTANCES"), "{lines:?}");
    bench.set("INSTANCES=", "INSTANCES=\"127.0.0.1:6379 127.0.0.1:6380\"");
    bench.run("thaw", &[]);
    assert_eq!(bench.call("freeze", &[]).0, 0);
}
