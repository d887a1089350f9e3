//! Databases in containers: found by label and name, held by a session in each, released however it ends.
//! The commands are stand-ins; what the hook sends into a container is run as it is.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::holding::{has, hook_processes, until_gone};
use super::*;

/// `podman` and `docker`, each with the containers below its own directory: label, state, env and bin of each.
const RUNTIME: &str = r#"
    own=$STUB/${0##*/}
    echo "$*" >>"$STUB/commands"
    case $1 in
    ps)
        [ ! -e "$own.down" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
        cd "$own" && grep -l . */label 2>/dev/null | sed 's|/.*||; s|^|id-|'
        exit 0 ;;
    inspect)
        for name; do :; done
        name=${name#id-}
        cd "$own/$name" 2>/dev/null || { echo "Error: no such container $name" >&2; exit 125; }
        echo "id-$name $(cat state) /$name $(cat label)" ;;
    exec)
        shift
        given='' user=''
        while :; do
            case $1 in
            -i) shift ;;
            -u) user=$2; shift 2 ;;
            --env-file) given=$(cat "$2"); shift 2 ;;
            *) break ;;
            esac
        done
        home=$own/${1#id-}
        shift
        [ ! -e "$home/no-shell" ] || { echo "Error: sh: executable file not found in \$PATH" >&2; exit 127; }
        echo "$user" >"$home/user"
        echo $$ >"$home/pid"
        exec env $(cat "$home/env" 2>/dev/null) $given "PATH=$home/bin:$PATH" "$@" ;;
    esac"#;

/// Its SQL on stdin.
const PSQL: &str = r#"
    echo "$PGPASSWORD $*" >"$HOME_OF/client"
    [ ! -e "$HOME_OF/refuses" ] || { echo "psql: error: FATAL: role \"root\" does not exist" >&2; exit 2; }
    grep -q CHECKPOINT && touch "$HOME_OF/checkpoint" && echo "REDO position 0/2000028, timeline 1""#;

/// One statement by `-e`, or a session whose lock ends with it.
const MARIADB: &str = r#"
    echo "$MYSQL_PWD $*" >"$HOME_OF/client"
    for sql; do :; done
    case $* in *" -e "*)
        [ "$sql" = "SHOW MASTER STATUS" ] || exit 1
        printf 'bin.000007\t4711\n'; exit 0 ;;
    esac
    while read -r line; do
        case $line in
        *"FLUSH TABLES WITH READ LOCK"*)
            [ ! -e "$HOME_OF/refuses" ] || { echo "ERROR 1205 (HY000) at line 1: Lock wait timeout exceeded" >&2; exit 1; }
            touch "$HOME_OF/locked" ;;
        *"UNLOCK TABLES"*) [ ! -e "$HOME_OF/dies" ] || { echo "ERROR 2006 (HY000): Server has gone away" >&2; exit 1; }; rm -f "$HOME_OF/locked" ;;
        esac
        case $line in *"SELECT 'qga-"*) line=${line##*"SELECT '"}; echo "${line%%"'"*}" ;; esac
    done
    rm -f "$HOME_OF/locked""#;

/// A server with append-only file, unless `$HOME_OF/save` has its save points.
const REDIS: &str = r#"
    echo "${REDISCLI_AUTH-} $*" >"$HOME_OF/client"
    case $* in
    "INFO persistence")
        printf 'aof_enabled:%s\r\n' "$([ -e "$HOME_OF/save" ] && echo 0 || echo 1)"
        for field in aof_buffer_length aof_pending_bio_fsync rdb_bgsave_in_progress aof_rewrite_in_progress; do
            printf '%s:0\r\n' "$field"
        done
        printf 'aof_last_write_status:%s\r\n' "$(cat "$HOME_OF/disk" 2>/dev/null || echo ok)"
        printf 'rdb_last_bgsave_status:ok\r\naof_current_size:88\r\nrdb_last_save_time:1700000000\r\n' ;;
    "CONFIG GET save") printf 'save\n'; cat "$HOME_OF/save" ;;
    "CLIENT PAUSE "*)
        [ ! -e "$HOME_OF/refuses" ] || { echo "ERR unknown command 'CLIENT'"; exit 0; }
        touch "$HOME_OF/locked"; echo OK ;;
    "CLIENT UNPAUSE") rm -f "$HOME_OF/locked"; echo OK ;;
    BGSAVE) touch "$HOME_OF/saved"; echo "Background saving started" ;;
    *) echo PONG ;;
    esac"#;

/// The lock's count is in `locked`.
const MONGOSH: &str = r#"
    echo "$MONGO_INITDB_ROOT_PASSWORD $*" >"$HOME_OF/client"
    for js; do :; done
    case $js in
    *"fsync: 1, lock: true"*)
        [ ! -e "$HOME_OF/refuses" ] || { echo "MongoServerError: not authorized on admin"; exit 1; }
        touch "$HOME_OF/locked"
        while [ -e "$HOME_OF/slow" ]; do sleep 0.01; done ;;
    *"{ must(admin.runCommand({fsyncUnlock: 1}))"*) rm -f "$HOME_OF/locked" ;;
    esac
    [ -e "$HOME_OF/locked" ] && echo "locked: true" || echo "locked: false""#;

const ENGINES: [(&str, &str, &str, &str); 4] = [
    ("shop", "postgresql", "psql", PSQL),
    ("wiki", "mariadb", "mariadb", MARIADB),
    ("cache", "valkey", "valkey-cli", REDIS),
    ("docs", "mongodb", "mongosh", MONGOSH),
];

/// The hook with these settings, and both runtimes without a container.
fn bench(settings: &'static [(&'static str, &'static str)]) -> Bench {
    let bench = Bench::new("containers", |mut text| {
        for (old, new) in settings.iter().chain(&[("LIMIT=50", "LIMIT=1")]) {
            assert!(text.contains(&format!("\n{old}\n")), "a setting {old}");
            text = text.replace(&format!("\n{old}\n"), &format!("\n{new}\n"));
        }
        text
    });
    for runtime in ["podman", "docker"] {
        fs::create_dir(bench.path(&format!("stub/{runtime}"))).expect("dir");
        bench.stand_in(runtime, RUNTIME);
    }
    bench
}

/// A running container of Podman's with this label and one client in it.
fn container(bench: &Bench, name: &str, label: &str, client: &str, script: &str) {
    let home = bench.path(&format!("stub/podman/{name}"));
    fs::create_dir_all(home.join("bin")).expect("dir");
    fs::write(home.join("label"), label).expect("written");
    fs::write(home.join("state"), "running").expect("written");
    let script = format!("#!/bin/sh\nHOME_OF='{}'\n{script}\n", home.display());
    bench.put(&format!("stub/podman/{name}/bin/{client}"), &script);
}

/// One of each database, found by its label.
fn all_four(bench: &Bench) {
    for (name, engine, client, script) in ENGINES {
        container(bench, name, engine, client, script);
    }
}

fn there(bench: &Bench, name: &str) -> bool {
    bench.path(&format!("stub/podman/{name}")).exists()
}

/// Which of the containers that can be locked are.
fn locked(bench: &Bench) -> Vec<&'static str> {
    let mut names = vec!["wiki", "cache", "docs"];
    names.retain(|name| there(bench, &format!("{name}/locked")));
    names
}

/// Waits until no container is locked; ends with the runner's own limit if that never comes.
fn until_unlocked(bench: &Bench) {
    while !locked(bench).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Kills the shells of the hook, not what runs in the containers.
fn kill_hook(hook: &Path) {
    for pid in hook_processes(hook) {
        // One may have ended with another.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

#[test]
fn each_database_is_held_from_freeze_to_thaw() {
    let mut bench = bench(&[]);
    all_four(&bench);
    let lines = bench.run("freeze", &[]);
    for wanted in [
        "shop: REDO position 0/2000028",
        "wiki: all tables locked, binary log position: bin.000007\t4711",
        "cache: writes held back, append-only file written, 88 bytes",
        "docs: locked against writes",
        "containers is ready and holds",
    ] {
        has(&lines, wanted);
    }
    assert!(there(&bench, "shop/checkpoint"));
    assert_eq!(bench.told("podman/shop/user"), "postgres\n");
    assert_eq!(bench.told("podman/docs/user"), "\n", "the container's own");
    assert_eq!(locked(&bench), ["wiki", "cache", "docs"]);
    assert_eq!(bench.state(), 0, "nothing is left in /run");
    let lines = bench.run("thaw", &[("QGA_THAW_REASON", "ok")]);
    for (name, ..) in ENGINES {
        has(&lines, &format!("{name}: released"));
    }
    has(&lines, "containers finished with status=0");
    assert!(locked(&bench).is_empty());
}

#[test]
fn a_container_is_found_by_name_and_held_once() {
    let mut bench = bench(&[("CONTAINERS=", "CONTAINERS=\"shop=postgresql wiki=mysql\"")]);
    container(&bench, "shop", "", "psql", PSQL);
    container(&bench, "wiki", "mariadb", "mysql", MARIADB);
    // As with podman-docker.
    fs::remove_dir(bench.path("stub/docker")).expect("removed");
    symlink("podman", bench.path("stub/docker")).expect("link");
    has(&bench.run("freeze", &[]), "containers is ready and holds");
    let lines = bench.run("thaw", &[]);
    has(&lines, "containers finished with status=0");
    let sessions = bench.told("commands");
    let sessions = sessions.lines().filter(|line| line.starts_with("exec -i"));
    assert_eq!(sessions.count(), 2);
}

#[test]
fn nothing_to_hold_is_not_applicable() {
    let mut nobody = bench(&[]);
    let lines = nobody.run("freeze", &[]);
    has(&lines, "no container of a database is running");
    has(&lines, "containers finished with status=77");

    let mut absent = bench(&[("RUNTIMES=\"podman docker\"", "RUNTIMES=no-such-runtime")]);
    let lines = absent.run("freeze", &[]);
    has(&lines, "none of no-such-runtime is installed");
    has(&lines, "containers finished with status=77");

    let mut memory = bench(&[]);
    container(&memory, "cache", "redis", "redis-cli", REDIS);
    memory.fact("podman/cache/save", "\n");
    let lines = memory.run("freeze", &[]);
    has(&lines, "cache: keeps nothing on disk");
    has(&lines, "containers finished with status=77");
}

#[test]
fn a_stopped_container_is_named() {
    let mut bench = bench(&[("CONTAINERS=", "CONTAINERS=shop=postgresql")]);
    container(&bench, "shop", "", "psql", PSQL);
    bench.fact("podman/shop/state", "exited");
    let lines = bench.run("freeze", &[]);
    has(&lines, "shop: not held, as it is not running (exited)");
    has(&lines, "containers finished with status=77");
    container(&bench, "wiki", "mariadb", "mariadb", MARIADB);
    let lines = bench.run("freeze", &[]);
    has(&lines, "shop: not held, as it is not running (exited)");
    has(&lines, "containers is ready and holds");
    has(&bench.run("thaw", &[]), "wiki: released");
}

/// Nothing that is found and cannot be held is passed over, and then none of the others stays held.
#[test]
fn what_cannot_be_held_is_a_failure_and_none_is_held() {
    let cases = [
        ("podman/shop/refuses", "", "shop: psql: error: FATAL"),
        ("podman/wiki/refuses", "", "wiki: ERROR 1205"),
        (
            "podman/cache/refuses",
            "",
            "cache: writes are not held back: CLIENT PAUSE: ERR unknown command",
        ),
        (
            "podman/cache/disk",
            "err",
            "cache: aof_last_write_status is err, not ok",
        ),
        (
            "podman/docs/refuses",
            "",
            "docs: fsyncLock: MongoServerError",
        ),
        ("podman/docs/no-shell", "", "docs: Error: sh: executable"),
        (
            "podman/docs/state",
            "paused",
            "docs: cannot be held while it is paused",
        ),
        (
            "podman/docs/label",
            "mongo",
            "docs: unknown database 'mongo'",
        ),
        ("docker.down", "", "docker does not answer"),
    ];
    for (fact, text, reason) in cases {
        let mut bench = bench(&[]);
        all_four(&bench);
        bench.fact(fact, text);
        let lines = bench.run("freeze", &[]);
        has(&lines, reason);
        has(&lines, "containers finished with status=1");
        assert!(locked(&bench).is_empty(), "{fact}");
        bench.run("thaw", &[]);
    }
}

#[test]
fn a_missing_container_or_client_is_a_failure() {
    let mut absent = bench(&[("CONTAINERS=", "CONTAINERS=\"wiki=mariadb shpo=postgresql\"")]);
    all_four(&absent);
    let lines = absent.run("freeze", &[]);
    has(&lines, "shpo: no such container");
    has(&lines, "containers finished with status=1");
    assert!(locked(&absent).is_empty());

    if is_there("psql") {
        return; // the stand-in of a container sees this machine's programs
    }
    let mut bare = bench(&[]);
    container(&bare, "shop", "postgresql", "true", "");
    let lines = bare.run("freeze", &[]);
    has(&lines, "shop: the container has no psql");
    has(&lines, "containers finished with status=1");
}

#[test]
fn somebody_elses_lock_of_mongodb_stays() {
    let mut bench = bench(&[]);
    all_four(&bench);
    bench.fact("podman/docs/locked", "");
    let lines = bench.run("freeze", &[]);
    has(&lines, "docs: locked already, by another client");
    has(&lines, "containers finished with status=1");
    assert_eq!(locked(&bench), ["docs"]);
}

#[test]
fn save_points_are_saved_before_the_freeze() {
    let mut bench = bench(&[]);
    container(&bench, "cache", "redis", "redis-cli", REDIS);
    bench.fact("podman/cache/save", "3600 1\n");
    let lines = bench.run("freeze", &[]);
    has(&lines, "cache: saved, rdb_last_save_time 1700000000");
    has(&lines, "containers is ready and holds");
    assert!(there(&bench, "cache/saved") && !there(&bench, "cache/locked"));
    has(&bench.run("thaw", &[]), "cache: released");
}

#[test]
fn a_container_that_ends_while_frozen_is_noticed_and_the_others_are_let_go() {
    let mut bench = bench(&[]);
    all_four(&bench);
    bench.run("freeze", &[]);
    let pid = bench.told("podman/docs/pid").trim().parse().expect("pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    until_gone(&bench);
    bench.forget("podman/docs/locked"); // it went with its server
    until_unlocked(&bench);
    let lines = bench.run("thaw", &[]);
    has(&lines, "docs: the session that held it is gone");
    has(&lines, "containers did not hold until the thaw");
}

#[test]
fn a_session_that_cannot_let_go_is_a_failure_at_the_thaw() {
    let mut bench = bench(&[]);
    all_four(&bench);
    bench.run("freeze", &[]);
    bench.fact("podman/wiki/dies", "");
    let lines = bench.run("thaw", &[("QGA_THAW_REASON", "ok")]);
    has(&lines, "wiki: ERROR 2006");
    has(&lines, "docs: released");
    has(&lines, "containers finished with status=1");
}

#[test]
fn a_killed_hook_leaves_nothing_held() {
    let mut bench = bench(&[]);
    all_four(&bench);
    bench.run("freeze", &[]);
    assert_eq!(locked(&bench), ["wiki", "cache", "docs"]);
    kill_hook(&bench.path("hooks/containers"));
    until_unlocked(&bench);
    let lines = bench.run("thaw", &[]);
    has(&lines, "containers did not hold until the thaw");
}

#[test]
fn a_hook_that_is_killed_before_it_holds_leaves_nothing_held() {
    let mut bench = bench(&[]);
    all_four(&bench);
    bench.fact("podman/docs/slow", "");
    let (hook, docs) = (
        bench.path("hooks/containers"),
        bench.path("stub/podman/docs"),
    );
    let killer = std::thread::spawn(move || {
        while !docs.join("locked").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        kill_hook(&hook);
        fs::remove_file(docs.join("slow")).expect("removed");
    });
    let lines = bench.run("freeze", &[]);
    killer.join().expect("killed");
    has(&lines, "containers finished with status=137");
    until_unlocked(&bench);
}

/// From the container's own environment, a file it names, or the file of the settings.
#[test]
fn passwords_reach_the_clients_and_no_command_line() {
    let mut bench = bench(&[("ENV_FILE=", "ENV_FILE=\"${0%/*}/../stub/passwords\"")]);
    all_four(&bench);
    bench.fact("passwords", "REDISCLI_AUTH=secret-cache\n");
    bench.fact("podman/shop/env", "POSTGRES_PASSWORD=secret-shop\n");
    bench.fact("in-a-file", "secret-wiki\n");
    let file = bench.path("stub/in-a-file");
    let variable = format!("MYSQL_ROOT_PASSWORD_FILE={}\n", file.display());
    bench.fact("podman/wiki/env", &variable);
    bench.fact(
        "podman/docs/env",
        "MONGO_INITDB_ROOT_USERNAME=root MONGO_INITDB_ROOT_PASSWORD=secret-docs\n",
    );
    has(&bench.run("freeze", &[]), "containers is ready and holds");
    bench.run("thaw", &[]);
    for (name, ..) in ENGINES {
        let calls = bench.told(&format!("podman/{name}/client"));
        let (first, arguments) = calls.split_once(' ').expect("password and arguments");
        assert_eq!(first, format!("secret-{name}"));
        assert!(!arguments.contains("secret-"), "{arguments}");
    }
    assert!(!bench.told("commands").contains("secret-"));
}
