//! Units of systemd, stopped and started.

use super::*;

/// `systemctl is-active|stop|start UNIT` with their documented words.
const SYSTEMCTL: &str = r#"
    case $1 in
    is-active) [ -e "$STUB/active.$2" ] && { echo active; exit; }
        [ -e "$STUB/failed.$2" ] && echo failed || echo inactive; exit 3 ;;
    stop) [ ! -e "$STUB/killed" ] || { rm "$STUB/active.$2"; touch "$STUB/failed.$2"; exit 0; }
        [ ! -e "$STUB/wakes" ] || touch "$STUB/active.a.service"
        echo "$*" >>"$STUB/calls"; [ ! -e "$STUB/stuck" ] && rm -f "$STUB/active.$2" ;;
    start) echo "$*" >>"$STUB/calls"; touch "$STUB/active.$2" ;;
    esac"#;

fn bench() -> Bench {
    let units = "UNITS=\"a.socket a.service b.service\"";
    let bench = Bench::new("systemd-unit", |text| {
        text.replace("UNITS=\"mariadb.service\"", units)
    });
    bench.stand_in("systemctl", SYSTEMCTL);
    bench
}

#[test]
fn what_was_active_is_stopped_and_started_again() {
    let mut bench = bench();
    bench.fact("active.a.service", "");
    bench.fact("active.a.socket", "");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 0);
    let expected = [
        "Stopping a.socket for a consistent snapshot",
        "a.socket status: inactive",
        "Stopping a.service for a consistent snapshot",
        "a.service status: inactive",
        "b.service status: inactive",
    ];
    assert_eq!(lines, expected);
    let (status, lines) = bench.call("thaw", &[]);
    assert_eq!((status, bench.state()), (0, 0));
    assert_eq!(
        lines.last().map(String::as_str),
        Some("a.socket status: active")
    );
    let order = "stop a.socket\nstop a.service\nstart a.service\nstart a.socket\n";
    assert_eq!(bench.told("calls"), order);
}

#[test]
fn a_unit_that_cannot_be_stopped_is_a_failure_and_started_all_the_same() {
    let mut bench = bench();
    bench.fact("active.b.service", "");
    bench.fact("stuck", "");
    assert_eq!(bench.call("freeze", &[]).0, 1);
    assert_eq!(bench.call("thaw", &[("QGA_THAW_REASON", "failed")]).0, 0);
    assert_eq!(bench.told("calls"), "stop b.service\nstart b.service\n");
}

#[test]
fn none_active_is_not_applicable() {
    let mut bench = bench();
    assert_eq!(bench.call("freeze", &[]).0, 77);
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert_eq!((bench.told("calls").as_str(), bench.state()), ("", 0));
}

#[test]
fn a_unit_that_is_killed_at_its_stop_is_a_failure() {
    let mut bench = bench();
    bench.fact("active.b.service", "");
    bench.fact("killed", "");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1, "{lines:?}");
    assert!(
        said(&lines).contains("b.service is not shut down"),
        "{lines:?}"
    );
    bench.forget("killed");
    assert_eq!((bench.call("thaw", &[]).0, bench.state()), (0, 0));
}

#[test]
fn a_unit_that_is_back_before_the_freeze_is_a_failure() {
    let mut bench = bench();
    bench.fact("active.a.service", "");
    bench.fact("active.b.service", "");
    bench.fact("wakes", "");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1, "{lines:?}");
    assert!(
        said(&lines).contains("a.service is not shut down"),
        "{lines:?}"
    );
}

#[test]
fn a_systemd_that_does_not_answer_is_a_failure() {
    let mut bench = bench();
    bench.stand_in("systemctl", "echo 'Failed to connect to bus' >&2; exit 1");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1, "{lines:?}");
    assert!(said(&lines).contains("cannot ask systemd"), "{lines:?}");
}
