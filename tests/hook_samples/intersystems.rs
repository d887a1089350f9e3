//! InterSystems IRIS and Caché: ExternalFreeze, ExternalThaw, ExternalSetHistory.

use super::*;

/// `iris qall` and `iris session`, `ccontrol qall` and `csession`: a method of Backup.General
/// called from outside ends the session with status 5 if it was done and 3 if not.
const QALL: &str = r#"
    printf 'Instance Name      Version ID        Port   Directory\n'
    printf -- '----------------   ----------------  -----  --------------------------------\n'
    cat "$STUB/$1.instances" 2>/dev/null"#;
const SESSION: &str = r#"
    name=$1 method=$3
    [ "$2" = -U%SYS ] || exit 1
    kind=${method##*.External} kind=${kind%%(*}
    echo "$kind $name $(id -un) $method" >>"$STUB/calls"
    [ ! -e "$STUB/$kind.$name.status" ] || exit "$(cat "$STUB/$kind.$name.status")"
    case $kind in
    Freeze) touch "$STUB/frozen.$name" ;;
    Thaw) rm -f "$STUB/frozen.$name" ;;
    esac
    exit 5"#;

fn bench() -> Bench {
    let bench = Bench::new("iris", |text| text);
    bench.stand_in("qall-of", QALL);
    bench.stand_in("session-of", SESSION);
    let bin = bench.path("bin");
    let bin = bin.display();
    bench.stand_in(
        "iris",
        &format!("case $1 in qall) exec '{bin}/qall-of' iris ;; session) shift; exec '{bin}/session-of' \"$@\" ;; esac; exit 1"),
    );
    bench
}

/// Lines of `qall`: the instances of `tool`, each with its directory; `states` like `up >`.
fn instances(bench: &Bench, tool: &str, list: &[(&str, &str)]) {
    let mut text = String::new();
    for (state, name) in list {
        let place = bench.path(name);
        fs::create_dir_all(place.join("mgr")).expect("dir");
        let line = format!(
            "{state}{name:<16}  2024.1.0.262.0    1972   {}\n",
            place.display()
        );
        text.push_str(&line);
    }
    bench.fact(&format!("{tool}.instances"), &text);
}

/// `Freeze A`, … in the order called.
fn calls(bench: &Bench) -> Vec<String> {
    let text = bench.told("calls");
    let words = text.lines().map(|line| line.split(' ').take(2));
    words
        .map(|pair| pair.collect::<Vec<_>>().join(" "))
        .collect()
}

fn frozen(bench: &Bench) -> Vec<String> {
    let names = fs::read_dir(bench.path("stub")).expect("dir");
    let names = names.filter_map(|entry| entry.expect("entry").file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter_map(|name| Some(name.strip_prefix("frozen.")?.to_owned()))
        .collect();
    names.sort();
    names
}

#[test]
fn every_running_instance_in_order_and_back() {
    let mut bench = bench();
    instances(
        &bench,
        "iris",
        &[("up >", "ALPHA"), ("dn  ", "DOWN"), ("up  ", "BETA")],
    );
    let (status, lines) = bench.call("freeze", &[("QGA_HOLD_LIMIT", "60")]);
    assert_eq!(status, 0, "{lines:?}");
    let expected = [
        "Attempting to freeze ALPHA",
        "ALPHA IS FROZEN",
        "Completed freeze of ALPHA",
        "Attempting to freeze BETA",
        "BETA IS FROZEN",
        "Completed freeze of BETA",
    ];
    assert_eq!(lines, expected);
    assert_eq!(frozen(&bench), ["ALPHA", "BETA"]);
    let (status, lines) = bench.call("thaw", &[("QGA_THAW_REASON", "ok")]);
    assert_eq!((status, bench.state()), (0, 0), "{lines:?}");
    assert_eq!(lines[..2], ["Attempting to thaw BETA", "BETA IS THAWED"]);
    assert!(lines[2].starts_with("BETA was frozen for "), "{lines:?}");
    let order = [
        "Freeze ALPHA",
        "Freeze BETA",
        "Thaw BETA",
        "SetHistory BETA",
        "Thaw ALPHA",
        "SetHistory ALPHA",
    ];
    assert_eq!(calls(&bench), order);
    assert_eq!(frozen(&bench), [""; 0]);
}

#[test]
fn limits_are_at_or_above_the_agents() {
    for (hold, limit) in [("0", 1800), ("60", 1800), ("7200", 7320)] {
        let mut bench = bench();
        instances(&bench, "iris", &[("up >", "A")]);
        bench.call("freeze", &[("QGA_HOLD_LIMIT", hold)]);
        let log = bench.path("A/mgr/qga-backup.log");
        let method = format!(
            "##Class(Backup.General).ExternalFreeze(\"{}\",,,,,,{limit},,,{limit})",
            log.display()
        );
        assert!(
            bench.told("calls").contains(&method),
            "{}",
            bench.told("calls")
        );
    }
}

#[test]
fn a_failed_freeze_is_thawed_at_once_and_the_others_go_on() {
    for (code, why) in [("3", "failed"), ("1", "unknown status 1")] {
        let mut bench = bench();
        instances(&bench, "iris", &[("up >", "A"), ("up  ", "B")]);
        bench.fact("Freeze.A.status", code);
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 1);
        assert_eq!(lines[1], format!("A FREEZE FAILED ({why})"));
        assert_eq!(calls(&bench), ["Freeze A", "Thaw A", "Freeze B"]);
        let (status, _) = bench.call("thaw", &[("QGA_THAW_REASON", "failed")]);
        assert_eq!((status, bench.state()), (0, 0));
        // No backup was made: none is written into the history.
        assert_eq!(calls(&bench)[3..], ["Thaw B"]);
    }
}

#[test]
fn a_failed_thaw_is_a_failure_and_tried_at_the_next_call() {
    let mut bench = bench();
    instances(&bench, "iris", &[("up >", "A"), ("up  ", "B")]);
    bench.call("freeze", &[]);
    bench.fact("Thaw.B.status", "3");
    let (status, lines) = bench.call("thaw", &[]);
    assert_eq!(status, 1);
    assert!(said(&lines).contains("B THAW FAILED (failed)"), "{lines:?}");
    assert_eq!(frozen(&bench), ["B"], "A is thawed all the same");
    bench.forget("Thaw.B.status");
    let (status, _) = bench.call("thaw", &[]);
    assert_eq!((status, bench.state()), (0, 0));
    assert_eq!(
        calls(&bench)
            .iter()
            .filter(|call| *call == "Thaw A")
            .count(),
        1
    );
}

#[test]
fn a_freeze_that_did_not_return_is_undone() {
    let mut bench = bench();
    instances(&bench, "iris", &[("up >", "A")]);
    bench.call("freeze", &[]);
    // As if the call had been killed before it knew.
    let state = bench.path("run/qga-iris.instances");
    let text = fs::read_to_string(&state).expect("state");
    let first = text.lines().next().expect("a line").to_owned();
    assert!(first.starts_with("tried "), "{text}");
    fs::write(&state, first + "\n").expect("written");
    assert_eq!(bench.call("thaw", &[("QGA_THAW_REASON", "recovered")]).0, 0);
    assert_eq!(calls(&bench), ["Freeze A", "Thaw A"]);
}

#[test]
fn nothing_known_thaws_whatever_runs() {
    let mut bench = bench();
    instances(&bench, "iris", &[("up >", "A"), ("up  ", "B")]);
    assert_eq!(bench.call("thaw", &[("QGA_THAW_REASON", "recovered")]).0, 0);
    assert_eq!(calls(&bench), ["Thaw B", "Thaw A"]);
}

#[test]
fn none_running_is_not_applicable() {
    let mut bench = bench();
    instances(&bench, "iris", &[("dn  ", "A"), ("sp  ", "B")]);
    assert_eq!(bench.call("freeze", &[]).0, 77);
    assert_eq!(bench.state(), 0);
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert_eq!(bench.told("calls"), "");
}

#[test]
fn cache_has_commands_of_its_own_and_an_instance_of_both_counts_once() {
    let mut bench = bench();
    let bin = bench.path("bin");
    bench.stand_in(
        "ccontrol",
        &format!("exec '{}/qall-of' cache", bin.display()),
    );
    bench.stand_in(
        "csession",
        &format!("exec '{}/session-of' \"$@\"", bin.display()),
    );
    instances(&bench, "iris", &[("up >", "NEW")]);
    instances(&bench, "cache", &[("up >", "OLD"), ("up  ", "NEW")]);
    assert_eq!(bench.call("freeze", &[]).0, 0);
    assert_eq!(calls(&bench), ["Freeze NEW", "Freeze OLD"]);
    assert_eq!(bench.call("thaw", &[]).0, 0);
    assert_eq!(frozen(&bench), [""; 0]);
}

#[test]
fn the_session_is_the_owners() {
    let mut bench = Bench::new("iris", |text| text.replace("OWNER=\n", "OWNER=irisowner\n"));
    bench.stand_in("qall-of", QALL);
    bench.stand_in(
        "iris",
        r#"[ "$1" = qall ] && exec "$STUB/../bin/qall-of" iris; exit 1"#,
    );
    bench.stand_in("runuser", r#"echo "$*" >>"$STUB/as"; exit 5"#);
    instances(&bench, "iris", &[("up >", "A")]);
    assert_eq!(bench.call("freeze", &[]).0, 0);
    let log = bench.path("A/mgr/qga-backup.log");
    let expected = format!(
        "-u irisowner -- iris session A -U%SYS ##Class(Backup.General).ExternalFreeze(\"{}\",,,,,,1800,,,1800)\n",
        log.display()
    );
    assert_eq!(bench.told("as"), expected);
}

#[test]
fn processes_that_no_list_explains_are_a_failure() {
    let mut bench = bench();
    instances(&bench, "iris", &[("dn  ", "A")]);
    bench.stand_in("pidof", "echo 4711");
    bench.process(4711, "/", "irisdb");
    let (status, lines) = bench.call("freeze", &[]);
    assert_eq!(status, 1, "{lines:?}");
    assert!(said(&lines).contains("process 4711"), "{lines:?}");
    assert_eq!(bench.told("calls"), "");
}
