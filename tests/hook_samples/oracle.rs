//! Oracle Database: backup mode, suspend, and their undo.

use super::*;

/// `sqlplus -S -L "/ as sysdba"` with SQL on stdin, and the instance `$ORACLE_SID` behind it. Errors
/// end it with status 1, as WHENEVER SQLERROR EXIT FAILURE has it.
const SQLPLUS: &str = r#"
    i=$ORACLE_SID
    fail() { printf '%s\n' "$2" "*" "ERROR at line 1:" "$1"; exit 1; }
    [ "$1 $2 $3" = "-S -L / as sysdba" ] && [ -d "$ORACLE_HOME/bin" ] || exit 1
    [ ! -e "$STUB/down.$i" ] || { echo "ERROR:"; echo "ORA-01034: ORACLE not available"; exit 1; }
    strict='' sql=''
    while IFS= read -r line; do
        case $line in
        "WHENEVER SQLERROR EXIT FAILURE") strict=yes; continue ;;
        "SET "* | "WHENEVER "*) continue ;;
        "EXIT SUCCESS") exit 0 ;;
        esac
        sql="$sql$line "
        case $line in *";") ;; *) continue ;; esac
        [ "$strict" ] || exit 2
        case $sql in
        *"FROM v\$database d"*)
            [ ! -e "$STUB/nomount.$i" ] || fail "ORA-01507: database not mounted"
            log=ARCHIVELOG status=ACTIVE files=0
            [ ! -e "$STUB/noarchive.$i" ] || log=NOARCHIVELOG
            [ ! -e "$STUB/suspended.$i" ] || status=SUSPENDED
            [ ! -e "$STUB/backup.$i" ] || files=4
            echo "qga:$log,$(cat "$STUB/open.$i" 2>/dev/null || echo READ WRITE),$status,$files" ;;
        "ALTER DATABASE BEGIN BACKUP; ")
            echo "begin $i" >>"$STUB/calls"
            [ ! -e "$STUB/noarchive.$i" ] || fail "ORA-01123: cannot start online backup; media recovery not enabled"
            [ ! -e "$STUB/backup.$i" ] || fail "ORA-01146: cannot start online backup - file 1 is already in backup"
            touch "$STUB/backup.$i"
            [ ! -e "$STUB/hangs" ] || exec sleep 1000 ;;
        "ALTER DATABASE END BACKUP; ")
            echo "end $i" >>"$STUB/calls"
            [ -e "$STUB/backup.$i" ] || fail "ORA-01142: cannot end online backup - none of the files are in backup"
            [ ! -e "$STUB/stuck.$i" ] || fail "ORA-01031: insufficient privileges"
            rm "$STUB/backup.$i" ;;
        "ALTER SYSTEM SUSPEND; ") echo "suspend $i" >>"$STUB/calls"; touch "$STUB/suspended.$i" ;;
        "ALTER SYSTEM RESUME; ") echo "resume $i" >>"$STUB/calls"; rm "$STUB/suspended.$i" ;;
        "ALTER SYSTEM ARCHIVE LOG CURRENT; ")
            [ ! -e "$STUB/full.$i" ] || fail "ORA-16038: log 2 sequence# 4711 cannot be archived"
            echo "archive $i" >>"$STUB/calls" ;;
        *"FROM v\$archived_log; ") echo "archived up to sequence 4711" ;;
        *) fail "ORA-00900: invalid SQL statement" ;;
        esac
        sql=''
    done"#;

fn bench(instances: &[(u32, &str)]) -> Bench {
    let bench = Bench::new("oracle", |text| text.replace("LIMIT=60", "LIMIT=1"));
    let pids: Vec<String> = instances.iter().map(|(pid, _)| pid.to_string()).collect();
    bench.stand_in(
        "pgrep",
        &format!("echo '{}' | tr ' ' '\\n'", pids.join(" ")),
    );
    bench.stand_in("sqlplus", SQLPLUS);
    for (pid, name) in instances {
        bench.process(*pid, "/", &format!("ora_pmon_{name}"));
        // The Oracle home is that of the bench.
        let binary = bench.path("bin/oracle");
        symlink(binary, bench.path(&format!("proc/{pid}/exe"))).expect("exe");
    }
    bench
}

#[test]
fn every_instance_is_in_backup_mode_until_the_thaw() {
    let mut bench = bench(&[(11, "A"), (22, "B")]);
    let (frozen, thawed) = bench.freeze_and_thaw();
    assert_eq!(frozen, ["A: in backup mode", "B: in backup mode"]);
    assert_eq!(thawed[0], "B: out of backup mode");
    assert_eq!(thawed[1], "B: archived up to sequence 4711");
    let order = [
        "begin A",
        "begin B",
        "end B",
        "archive B",
        "end A",
        "archive A",
    ];
    assert_eq!(bench.calls(), order);
}

#[test]
fn suspended_within_the_backup_mode() {
    let mut bench = bench(&[(11, "A")]);
    bench.set("SUSPEND=no", "SUSPEND=yes");
    assert_eq!(bench.call("freeze", &[]).0, 0);
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert_eq!(
        bench.calls(),
        ["begin A", "suspend A", "resume A", "end A", "archive A"]
    );
}

#[test]
fn an_instance_that_cannot_be_held_is_a_failure_and_left_alone() {
    for (fact, text, why) in [
        ("noarchive.A", "", "not in ARCHIVELOG mode"),
        ("backup.A", "", "in backup mode or suspended already"),
        ("suspended.A", "", "in backup mode or suspended already"),
        ("open.A", "READ ONLY WITH APPLY", "READ ONLY WITH APPLY"),
        ("nomount.A", "", "ORA-01507"),
        ("down.A", "", "ORA-01034"),
    ] {
        let mut bench = bench(&[(11, "A"), (22, "B")]);
        bench.fact(fact, text);
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 1, "{fact}");
        assert!(said(&lines).contains(why), "{fact}: {lines:?}");
        let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "failed")]);
        assert_eq!((status, bench.state()), (0, 0), "{fact}");
        assert_eq!(bench.calls(), ["begin B", "end B", "archive B"], "{fact}");
        assert!(bench.path("stub").join(fact).exists(), "{fact} stays");
    }
}

#[test]
fn a_begin_that_did_not_return_is_undone() {
    let mut bench = bench(&[(11, "A")]);
    bench.fact("hangs", "");
    assert_eq!(bench.call("freeze", &[]).0, 1);
    assert!(bench.path("stub/backup.A").exists());
    let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "recovered")]);
    assert_eq!((status, bench.state()), (0, 0));
    assert!(!bench.path("stub/backup.A").exists());
}

#[test]
fn an_end_that_fails_is_tried_at_the_next_call() {
    let mut bench = bench(&[(11, "A"), (22, "B")]);
    bench.call("freeze", &[]);
    bench.fact("stuck.A", "");
    let (status, lines) = bench.call("thaw", &[]);
    assert_eq!(status, 1);
    assert!(said(&lines).contains("ORA-01031"), "{lines:?}");
    assert!(
        !bench.path("stub/backup.B").exists(),
        "B is out all the same"
    );
    assert_eq!(bench.call("freeze", &[]).0, 1, "the next freeze says so");
    bench.forget("stuck.A");
    assert_eq!((bench.call("thaw", &[]).0, bench.state()), (0, 0));
    assert!(!bench.path("stub/backup.A").exists());
}

#[test]
fn a_log_that_is_not_archived_is_a_failure_of_the_thaw() {
    let mut bench = bench(&[(11, "A")]);
    bench.call("freeze", &[]);
    bench.fact("full.A", "");
    let (status, lines) = bench.call("thaw", &[]);
    assert_eq!((status, bench.state()), (1, 0), "{lines:?}");
    assert!(!bench.path("stub/backup.A").exists());
}
