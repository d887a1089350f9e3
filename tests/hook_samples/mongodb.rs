//! MongoDB: fsyncLock and fsyncUnlock.

use super::*;

/// `mongosh ADDRESS --eval JS`, and the mongod behind it, as far as the hook's JavaScript asks:
/// currentOp (fsyncLock, a waiting fsync), fsync with lock, fsyncUnlock, with their lock count.
const SHELL: &str = r#"
    for js; do :; done
    echo "$*" >>"$STUB/calls"
    case $* in *password*|*secret*) echo "a secret on the command line" >>"$STUB/leaks" ;; esac
    [ ! -e "$STUB/refuses" ] || { echo "MongoNetworkError: connect ECONNREFUSED 127.0.0.1:27017"; exit 1; }
    count=$(cat "$STUB/count" 2>/dev/null || echo 0)
    case $js in
    *"fsync: 1, lock: true"*)
        [ ! -e "$STUB/denied" ] || { echo "MongoServerError: not authorized on admin to execute command { fsync: 1 }"; exit 1; }
        echo $((count + 1)) >"$STUB/count"
        [ ! -e "$STUB/hangs" ] || exec sleep 1000
        ;;
    *"{ must(admin.runCommand({fsyncUnlock: 1}))"*)
        if [ "$count" -gt 0 ]; then
            [ ! -e "$STUB/stuck" ] || { echo "MongoServerError: fsyncUnlock called when not locked"; exit 1; }
            echo $((count - 1)) >"$STUB/count"
        fi
        ;;
    esac
    [ "$(cat "$STUB/count" 2>/dev/null || echo 0)" -gt 0 ] && echo "locked: true" || echo "locked: false""#;

fn bench() -> Bench {
    let bench = Bench::new("mongodb", |text| {
        text.replace("LIMIT=25", "LIMIT=1")
            .replace("sleep 1", "sleep 0")
    });
    bench.stand_in("pidof", "[ -e \"$STUB/running\" ] && cat \"$STUB/running\"");
    bench.process(4711, "/", "mongod");
    bench.process(4712, "/", "mongod");
    bench.stand_in("mongosh", SHELL);
    bench.fact("running", "4711");
    bench
}

#[test]
fn locked_from_freeze_to_thaw() {
    let mut bench = bench();
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(
        (status, said(&lines).as_str()),
        (
            0,
            "mongodb://127.0.0.1:27017/admin: mongod is locked against writes"
        )
    );
    assert_eq!((bench.told("count").trim(), bench.state()), ("1", 1));
    let (status, lines) = bench.call("thaw", &[("QGA_THAW_REASON", "ok")]);
    assert_eq!(
        (status, said(&lines).as_str()),
        (
            0,
            "mongodb://127.0.0.1:27017/admin: mongod accepts writes again"
        )
    );
    assert_eq!((bench.told("count").trim(), bench.state()), ("0", 0));
    let (status, lines) = bench.call("thaw", &[]);
    assert_eq!((status, said(&lines).as_str()), (0, "nothing was locked"));
}

#[test]
fn not_running_is_not_applicable() {
    let mut bench = bench();
    bench.forget("running");
    assert_eq!(bench.call("freeze", &[]).0, 77);
    assert_eq!(bench.call("thaw", &[]).0, 77);
    assert_eq!((bench.told("calls").as_str(), bench.state()), ("", 0));
}

#[test]
fn a_refused_lock_is_a_failure_and_leaves_nothing() {
    for trouble in ["denied", "refuses"] {
        let mut bench = bench();
        bench.fact(trouble, "");
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 1);
        assert!(
            said(&lines).contains("Mongo"),
            "the server's word: {lines:?}"
        );
        bench.forget(trouble);
        let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "failed")]);
        assert_eq!((status, bench.state()), (0, 0), "{trouble}");
        assert!(["", "0"].contains(&bench.told("count").trim()), "{trouble}");
    }
}

#[test]
fn a_lock_whose_call_hung_is_undone() {
    let mut bench = bench();
    bench.fact("hangs", "");
    assert_eq!(bench.call("freeze", &[]).0, 1);
    assert_eq!(
        bench.told("count").trim(),
        "1",
        "the server has taken it all the same"
    );
    let (status, lines) = bench.call("thaw", &[("QGA_THAW_REASON", "recovered")]);
    assert_eq!((status, bench.told("count").trim()), (0, "0"), "{lines:?}");
}

#[test]
fn somebody_elses_lock_stays() {
    let mut bench = bench();
    bench.fact("count", "1");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1);
    assert!(said(&lines).contains("locked already"), "{lines:?}");
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert_eq!(bench.told("count").trim(), "1");
}

#[test]
fn a_lock_that_cannot_be_undone_is_a_failure_and_tried_at_the_next_call() {
    let mut bench = bench();
    assert_eq!(bench.call("freeze", &[]).0, 0);
    bench.fact("stuck", "");
    let (status, lines) = bench.call("thaw", &[]);
    assert_eq!(status, 1);
    assert!(said(&lines).contains("db.fsyncUnlock()"), "{lines:?}");
    assert_eq!(
        bench.call("freeze", &[]).0,
        1,
        "the next freeze says that it stands"
    );
    bench.forget("stuck");
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert_eq!((bench.told("count").trim(), bench.state()), ("0", 0));
}

#[test]
fn the_login_file_is_named_and_not_shown() {
    let mut bench = Bench::new("mongodb", |text| {
        text.replace("LOGIN=\n", "LOGIN=/etc/qemu/mongodb-login.js\n")
    });
    bench.stand_in("pidof", "echo 4711");
    bench.process(4711, "/", "mongod");
    bench.stand_in("mongo", SHELL);
    if is_there("mongosh") {
        return; // it would be taken before the older shell
    }
    assert_eq!(bench.call("freeze", &[]).0, 0);
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert!(
        bench
            .told("calls")
            .contains("load('/etc/qemu/mongodb-login.js')")
    );
    assert_eq!(bench.told("leaks"), "");
}

#[test]
fn more_than_are_named_is_a_failure_and_locks_none() {
    let mut bench = bench();
    bench.fact("running", "4711 4712");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1, "{lines:?}");
    assert!(
        said(&lines).contains("2 mongod run here, ADDRESS names 1"),
        "{lines:?}"
    );
    assert_eq!(bench.told("calls"), "");
}

#[test]
fn each_that_is_named_is_locked_and_unlocked() {
    let mut bench = bench();
    // A server, and so a count, for each address.
    bench.stand_in("mongosh", &SHELL.replace("/count", "/count.${3##*:}"));
    bench.fact("running", "4711 4712");
    bench.set(
        "ADDRESS=mongodb://127.0.0.1:27017/admin",
        "ADDRESS=\"mongodb://h:1 mongodb://h:2\"",
    );
    assert_eq!(bench.call("freeze", &[]).0, 0);
    for (port, locks) in [("1", "1"), ("2", "1")] {
        assert_eq!(bench.told(&format!("count.{port}")).trim(), locks);
    }
    assert_eq!((bench.call("thaw", &[]).0, bench.state()), (0, 0));
    for port in ["1", "2"] {
        assert_eq!(bench.told(&format!("count.{port}")).trim(), "0");
    }
}
