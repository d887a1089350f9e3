//! SAP HANA: a data snapshot that is prepared, and closed by how the freeze ended.

use super::*;

/// `hdbsql -U KEY -a -x -j SQL` and the system behind it. The catalog has one line for each snapshot:
/// number, state, comment. Errors are on stderr, with a status that is not 0.
const HDBSQL: &str = r#"
    for sql; do :; done
    [ "$1 $2 $3 $4 $5" = "-U QGA -a -x -j" ] || exit 1
    [ ! -e "$STUB/keyless" ] || { echo "* -10104: Invalid value for KEY (QGA)" >&2; exit 3; }
    touch "$STUB/catalog"
    case $sql in
    "SELECT BACKUP_ID FROM M_BACKUP_CATALOG WHERE ENTRY_TYPE_NAME = 'data snapshot' AND STATE_NAME = 'prepared'"*)
        comment=${sql#*COMMENT = \'} comment=${comment%\'}
        case $sql in *COMMENT*) ;; *) comment='' ;; esac
        awk -v c="$comment" '$2 == "prepared" && (c == "" || $3 == c) { print $1 }' "$STUB/catalog" ;;
    "BACKUP DATA FOR FULL SYSTEM CREATE SNAPSHOT COMMENT '"*)
        [ ! -e "$STUB/unlicensed" ] || { echo "* 437: only commands for license handling are allowed in current state" >&2; exit 4; }
        ! grep -q " prepared " "$STUB/catalog" || { echo "* 447: backup could not be completed: snapshot already exists" >&2; exit 4; }
        comment=${sql#*COMMENT \'}
        echo "1552984530251 prepared ${comment%\'}" >>"$STUB/catalog"
        [ ! -e "$STUB/hangs" ] || exec sleep 1000 ;;
    "BACKUP DATA FOR FULL SYSTEM CLOSE SNAPSHOT BACKUP_ID "*)
        [ ! -e "$STUB/stuck" ] || { echo "* 258: insufficient privilege" >&2; exit 4; }
        set -- ${sql#*BACKUP_ID }
        case $2 in SUCCESSFUL) to=successful ;; UNSUCCESSFUL) to=failed ;; *) exit 4 ;; esac
        grep -q "^$1 prepared " "$STUB/catalog" || { echo "* 447: no snapshot prepared" >&2; exit 4; }
        sed -i "s/^$1 prepared /$1 $to /" "$STUB/catalog" ;;
    *) echo "* 257: sql syntax error" >&2; exit 4 ;;
    esac"#;

fn bench() -> Bench {
    let bench = Bench::new("hana", |text| text.replace("LIMIT=120", "LIMIT=1"));
    bench.stand_in("pgrep", "[ \"$*\" = '-x hdbnameserver' ] && echo 11");
    bench.process(11, "/", "hdbnameserver");
    let binary = bench.path("bin/hdbnameserver");
    symlink(binary, bench.path("proc/11/exe")).expect("exe");
    bench.stand_in(
        "runuser",
        "[ \"$1 $3\" = '-l -c' ] || exit 1; exec sh -c \"$4\"",
    );
    bench.stand_in("hdbsql", HDBSQL);
    bench
}

/// The states in the backup catalog.
fn catalog(bench: &Bench) -> Vec<String> {
    let text = bench.told("catalog");
    let states = text.lines().filter_map(|line| line.split(' ').nth(1));
    states.map(str::to_owned).collect()
}

#[test]
fn prepared_at_the_freeze_and_closed_by_its_outcome() {
    for (reason, state) in [
        ("ok", "successful"),
        ("failed", "failed"),
        ("timed-out", "failed"),
        ("recovered", "failed"),
    ] {
        let mut bench = bench();
        let (status, lines) = bench.call("freeze", &[("QGA_RUN_ID", "run 1';")]);
        assert_eq!(status, 0, "{lines:?}");
        assert!(said(&lines).contains("snapshot 1552984530251 is prepared, comment qga-"));
        assert_eq!(catalog(&bench), ["prepared"]);
        let (status, lines) = bench.call("thaw", &[("QGA_THAW_REASON", reason)]);
        assert_eq!((status, bench.state()), (0, 0), "{lines:?}");
        assert_eq!(catalog(&bench), [state], "{reason}");
        assert_eq!(bench.call("thaw", &[]).0, 0);
    }
}

#[test]
fn no_key_and_no_license_are_failures_with_nothing_to_undo() {
    for (trouble, why) in [("keyless", "-10104"), ("unlicensed", "437")] {
        let mut bench = bench();
        bench.fact(trouble, "");
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 1);
        assert!(said(&lines).contains(why), "{lines:?}");
        let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "failed")]);
        assert_eq!((status, bench.state()), (0, 0), "{trouble}");
        assert_eq!(catalog(&bench), [""; 0]);
    }
}

#[test]
fn somebody_elses_snapshot_stays() {
    let mut bench = bench();
    bench.fact("catalog", "42 prepared nightly\n");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1);
    assert!(
        said(&lines).contains("snapshot 42 is prepared already"),
        "{lines:?}"
    );
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert_eq!(catalog(&bench), ["prepared"]);
}

#[test]
fn a_snapshot_whose_call_did_not_return_is_unsuccessful() {
    let mut bench = bench();
    bench.fact("hangs", "");
    assert_eq!(bench.call("freeze", &[]).0, 1);
    let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "ok")]);
    assert_eq!((status, bench.state()), (0, 0));
    assert_eq!(catalog(&bench), ["failed"]);
}

#[test]
fn a_snapshot_that_is_gone_at_the_thaw_is_a_failure() {
    let mut bench = bench();
    bench.call("freeze", &[]);
    bench.fact("catalog", "");
    let (status, lines) = bench.call("thaw", &[("QGA_THAW_REASON", "ok")]);
    assert_eq!((status, bench.state()), (1, 0), "{lines:?}");
    assert!(said(&lines).contains("before the thaw"), "{lines:?}");
}

#[test]
fn a_close_that_fails_is_tried_at_the_next_call() {
    let mut bench = bench();
    bench.call("freeze", &[]);
    bench.fact("stuck", "");
    let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "failed")]);
    assert_eq!((status, bench.state()), (1, 1));
    assert_eq!(bench.call("freeze", &[]).0, 1, "the next freeze says so");
    bench.forget("stuck");
    let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "ok")]);
    assert_eq!((status, bench.state()), (0, 0));
    // By the reason of its own thaw.
    assert_eq!(catalog(&bench), ["failed"]);
}
