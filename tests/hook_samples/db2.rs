//! Db2: writes suspended in every active database, and resumed.

use super::*;

/// `db2 COMMAND` with its statuses (2 a warning, 4 an error), and an instance with the databases of
/// the file `active` behind it. The connection is that of the calling shell.
const DB2: &str = r#"
    session="$STUB/connected.$PPID"
    fail() { echo "$1"; exit 4; }
    [ "$DB2INSTANCE" = here ] || fail "SQL10007N Message could not be retrieved."
    case $* in
    "list active databases")
        [ -s "$STUB/active" ] || { echo "SQL1611W  No data was returned by Database System Monitor."; exit 2; }
        for name in $(cat "$STUB/active"); do echo "Database name                              = $name"; done ;;
    "get db cfg for "*)
        state=NO
        [ ! -e "$STUB/suspended.$5" ] || state=YES
        printf ' %-55s = %s\n' "Database is in write suspend state" "$state" "Restrict access" NO "All committed" YES ;;
    "activate db "*) echo "SQL1494W  Activate database is successful, however, there is already a connection"; exit 2 ;;
    "connect to "*)
        [ ! -e "$STUB/hangs.$3" ] || exec sleep 1000
        echo "$3" >"$session" ;;
    "connect reset" | terminate) rm -f "$session" ;;
    "set write suspend for database")
        name=$(cat "$session" 2>/dev/null) || fail "SQL1024N  A database connection does not exist."
        [ ! -e "$STUB/denied.$name" ] || fail "SQL1092N  The requested command or operation failed because the user ID does not have the authority"
        [ ! -e "$STUB/suspended.$name" ] || fail "SQL1550N  The SET WRITE SUSPEND command failed because of the condition indicated by reason code"
        echo "suspend $name" >>"$STUB/calls"; touch "$STUB/suspended.$name" ;;
    "set write resume for database")
        name=$(cat "$session" 2>/dev/null) || fail "SQL1024N  A database connection does not exist."
        [ -e "$STUB/suspended.$name" ] || fail "SQL1551N  The SET WRITE RESUME command failed because the database is not currently in WRITE SUSPEND state."
        [ ! -e "$STUB/stuck" ] || fail "SQL1552N"
        echo "resume $name" >>"$STUB/calls"; rm "$STUB/suspended.$name" ;;
    "restart db "*" write resume")
        [ ! -e "$STUB/stuck" ] || fail "SQL1552N"
        echo "restart $3" >>"$STUB/calls"; rm "$STUB/suspended.$3" ;;
    *) fail "SQL0104N  An unexpected token was found" ;;
    esac"#;

fn bench() -> Bench {
    let bench = Bench::new("db2", |text| text.replace("LIMIT=60", "LIMIT=2"));
    bench.stand_in("pgrep", "cat \"$STUB/pids\"");
    bench.fact("pids", "11\n");
    bench.fact("active", "SAMPLE STORE\n");
    for pid in [11, 22] {
        bench.process(pid, "/", "db2sysc");
    }
    let home = bench.path("home");
    fs::create_dir_all(home.join("sqllib")).expect("dir");
    fs::write(home.join("sqllib/db2profile"), "export DB2INSTANCE=here\n").expect("profile");
    bench.stand_in(
        "getent",
        &format!("echo 'db2inst1:x:1:1::{}:/bin/sh'", home.display()),
    );
    bench.stand_in("db2", DB2);
    bench
}

#[test]
fn every_active_database_is_suspended_until_the_thaw() {
    let mut bench = bench();
    let (frozen, _) = bench.freeze_and_thaw();
    assert_eq!(frozen.len(), 2, "{frozen:?}");
    let order = [
        "suspend SAMPLE",
        "suspend STORE",
        "resume STORE",
        "resume SAMPLE",
    ];
    assert_eq!(bench.calls(), order);
}

#[test]
fn no_active_database_is_not_applicable() {
    let mut bench = bench();
    bench.fact("active", "");
    assert_eq!(bench.call("freeze", &[]).0, 77);
    assert_eq!((bench.call("thaw", &[]).0, bench.state()), (0, 0));
}

#[test]
fn a_database_that_is_not_suspended_is_a_failure_and_the_others_are_resumed() {
    let mut bench = bench();
    bench.fact("denied.STORE", "");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1);
    assert!(said(&lines).contains("SQL1092N"), "{lines:?}");
    let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "failed")]);
    assert_eq!((status, bench.state()), (0, 0));
    assert_eq!(bench.calls(), ["suspend SAMPLE", "resume SAMPLE"]);
}

#[test]
fn somebody_elses_suspension_stays() {
    let mut bench = bench();
    bench.fact("suspended.SAMPLE", "");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1);
    assert!(
        said(&lines).contains("write suspended already"),
        "{lines:?}"
    );
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert!(bench.path("stub/suspended.SAMPLE").exists());
    assert_eq!(bench.calls(), ["suspend STORE", "resume STORE"]);
}

#[test]
fn a_connection_that_hangs_is_resumed_by_a_restart() {
    let mut bench = bench();
    bench.fact("active", "SAMPLE\n");
    bench.call("freeze", &[]);
    bench.fact("hangs.SAMPLE", "");
    let (status, lines) = bench.call("thaw", &[("QGA_THAW_REASON", "recovered")]);
    assert_eq!((status, bench.state()), (0, 0), "{lines:?}");
    assert_eq!(bench.calls(), ["suspend SAMPLE", "restart SAMPLE"]);
}

#[test]
fn a_resume_that_fails_is_tried_at_the_next_call() {
    let mut bench = bench();
    bench.call("freeze", &[]);
    bench.fact("stuck", "");
    assert_eq!((bench.call("thaw", &[]).0, bench.state()), (1, 1));
    assert_eq!(bench.call("freeze", &[]).0, 1, "the next freeze says so");
    bench.forget("stuck");
    assert_eq!((bench.call("thaw", &[]).0, bench.state()), (0, 0));
    assert!(!bench.path("stub/suspended.SAMPLE").exists());
}

#[test]
fn several_partitions_and_an_instance_without_its_profile_are_failures() {
    let mut bench = bench();
    bench.fact("pids", "11\n22\n");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1);
    assert!(said(&lines).contains("several partitions"), "{lines:?}");
    bench.call("thaw", &[]);
    bench.fact("pids", "11\n");
    fs::remove_file(bench.path("home/sqllib/db2profile")).expect("removed");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1);
    assert!(
        said(&lines).contains("cannot list the active databases"),
        "{lines:?}"
    );
}
