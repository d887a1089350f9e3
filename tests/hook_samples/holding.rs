//! MariaDB and PostgreSQL: a session that holds, is refused, or is lost.

use nix::unistd::Pid;

use super::*;

/// The `mariadb` client: a session that does what comes over its stdin, or one statement by `-e`.
const MARIADB: &str = r#"
    for sql; do case $sql in --socket=*) server=${sql##*/} ;; esac; done
    echo "$*" >>"$STUB/clients"
    [ ! -e "$STUB/refuses.$server" ] || { echo "ERROR 1045 (28000): Access denied for user 'root'@'localhost'" >&2; exit 1; }
    case $* in *" -e "*)
        case $sql in
        "SHOW MASTER STATUS") printf 'bin.000007\t4711\n' ;;
        "SELECT VERSION()") echo 10.11.6-MariaDB ;;
        esac
        exit 0 ;;
    esac
    while read -r line; do
        case $line in
        *"FLUSH TABLES WITH READ LOCK"*)
            [ ! -e "$STUB/busy" ] || { echo "ERROR 1205 (HY000) at line 1: Lock wait timeout exceeded" >&2; exit 1; }
            touch "$STUB/locked" "$STUB/locked.$server" ;;
        *"UNLOCK TABLES"*) rm -f "$STUB/locked" "$STUB/locked.$server" ;;
        "DO 1;") [ ! -e "$STUB/dies" ] || { echo "ERROR 2006 (HY000) at line 2: Server has gone away" >&2; break; } ;;
        esac
        case $line in *"SELECT 'qga-done'"*) echo qga-done ;; esac
    done
    rm -f "$STUB/locked" "$STUB/locked.$server"
    touch "$STUB/left""#;

/// `psql` in backup mode, and the server behind it. One that dies does so at its next statement, never
/// right after the one that made the hook ready.
const PSQL: &str = r#"
    while IFS= read -r line; do
        [ ! -e "$STUB/dies" ] || { echo "server closed the connection unexpectedly" >&2; break; }
        case $line in
        "SHOW server_version_num;") echo 150018 ;;
        *pg_backup_start*)
            [ ! -e "$STUB/busy" ] || { echo "ERROR:  canceling statement due to statement timeout" >&2; exit 3; }
            touch "$STUB/locked"
            echo "backup mode from 0/2000028" ;;
        *pg_backup_stop*) rm -f "$STUB/locked"; echo "backup mode until 0/2000100, backup_label:" ;;
        "\\echo "*) echo "${line#?echo }" ;;
        esac
    done
    rm -f "$STUB/locked"
    touch "$STUB/left""#;

fn mariadb() -> Bench {
    let bench = Bench::new("mariadb", |text| text);
    bench.stand_in("pidof", "cat \"$STUB/pids\"");
    bench.fact("pids", "4711");
    bench.process(4711, "/", "mariadbd");
    bench.stand_in("mariadb", MARIADB);
    bench
}

/// A cluster of our own: its lock file names this test, whose name is put where the kernel has it.
fn postgresql() -> Bench {
    let bench = Bench::new("postgresql", |text| {
        text.replace("MODE=checkpoint", "MODE=backup")
    });
    bench.stand_in("pidof", "cat \"$STUB/pids\"");
    bench.fact("pids", "22 11");
    fs::create_dir(bench.path("run/postgresql")).expect("dir");
    for (port, pid) in [(5432, 11), (5433, 22)] {
        let lock = format!("run/postgresql/.s.PGSQL.{port}.lock");
        fs::write(bench.path(&lock), format!("{pid}\n/data/{port}\n")).expect("lock");
        bench.process(pid, "/", "postgres");
    }
    bench.stand_in("runuser", "shift 3; exec \"$@\"");
    bench.stand_in("psql", PSQL);
    bench
}

fn locked(bench: &Bench) -> bool {
    bench.path("stub/locked").exists()
}

/// Waits until the session has gone; ends with the runner's own limit if it never does.
fn until_left(bench: &Bench) {
    while !bench.path("stub/left").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The processes of the hook's own script.
pub(super) fn hook_processes(hook: &Path) -> Vec<Pid> {
    let hook = hook.to_str().expect("text").as_bytes();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if command.windows(hook.len()).any(|part| part == hook) {
            pids.extend(pid.map(Pid::from_raw));
        }
    }
    pids
}

/// Waits until no process of the hook is left.
pub(super) fn until_gone(bench: &Bench) {
    let hook = bench.path(&format!("hooks/{}", bench.name));
    while !hook_processes(&hook).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

pub(super) fn has(lines: &[String], wanted: &str) {
    let found = lines.iter().any(|line| line.starts_with(wanted));
    assert!(found, "no line {wanted:?} in {lines:#?}");
}

#[test]
fn the_lock_is_held_from_freeze_to_thaw() {
    let mut bench = mariadb();
    let lines = bench.run("freeze", &[]);
    has(&lines, "all tables locked");
    has(&lines, "binary log position: bin.000007\t4711");
    has(&lines, "mariadb is ready and holds");
    assert!(locked(&bench), "after the master has ended");
    assert_eq!(bench.state(), 0, "nothing is left in /run");
    let lines = bench.run("thaw", &[("QGA_THAW_REASON", "timed-out")]);
    has(&lines, "all tables unlocked (timed-out)");
    has(&lines, "mariadb finished with status=0");
    until_left(&bench);
    assert!(!locked(&bench));
}

#[test]
fn a_lock_that_is_not_had_is_a_failure_with_the_servers_word() {
    let mut bench = mariadb();
    bench.fact("busy", "");
    let lines = bench.run("freeze", &[]);
    has(&lines, "ERROR 1205");
    has(&lines, "mariadb finished with status=1");
    bench.run("thaw", &[]);
    assert!(!locked(&bench));
}

#[test]
fn a_session_that_is_lost_while_frozen_is_noticed() {
    let mut bench = mariadb();
    bench.run("freeze", &[]);
    bench.fact("dies", "");
    until_gone(&bench);
    let lines = bench.run("thaw", &[]);
    has(&lines, "ERROR 2006");
    has(
        &lines,
        "/sockets/4711.sock: the session with the lock is gone",
    );
    has(&lines, "mariadb did not hold until the thaw");
}

#[test]
fn backup_mode_lasts_from_freeze_to_thaw_in_every_cluster() {
    let mut bench = postgresql();
    let lines = bench.run("freeze", &[]);
    for port in [5432, 5433] {
        has(&lines, &format!("port {port}: backup mode from 0/2000028"));
    }
    has(&lines, "postgresql is ready and holds");
    assert!(locked(&bench));
    let lines = bench.run("thaw", &[("QGA_THAW_REASON", "ok")]);
    for port in [5432, 5433] {
        has(&lines, &format!("port {port}: backup mode until 0/2000100"));
    }
    has(&lines, "postgresql finished with status=0");
    assert!(!locked(&bench));
}

#[test]
fn a_backup_mode_that_does_not_begin_is_a_failure_and_leaves_none() {
    let mut bench = postgresql();
    bench.fact("busy", "");
    let lines = bench.run("freeze", &[]);
    has(&lines, "ERROR:  canceling statement");
    has(&lines, "postgresql finished with status=1");
    assert!(!locked(&bench));
}

#[test]
fn a_backup_mode_whose_server_ends_is_a_failure_at_the_thaw() {
    let mut bench = postgresql();
    bench.run("freeze", &[]);
    bench.fact("dies", "");
    let lines = bench.run("thaw", &[("QGA_THAW_REASON", "ok")]);
    has(&lines, "port 5432: the backup mode was lost");
    has(&lines, "postgresql finished with status=1");
}

fn locked_servers(bench: &Bench) -> Vec<u32> {
    let locked = |pid: &u32| bench.path(&format!("stub/locked.{pid}.sock")).exists();
    [4711, 4712, 4713].into_iter().filter(locked).collect()
}

#[test]
fn every_server_is_locked_by_its_own_socket_and_account() {
    let mut bench = mariadb();
    bench.fact("pids", "4713 4711 4712");
    bench.process(4712, "/", "mysqld");
    bench.process(4713, "/", "mariadbd");
    let own = bench.path("own.cnf");
    fs::write(&own, "[client]\n").expect("file");
    let setting = format!("OPTION_FILE=/sockets/4712.sock={}", own.display());
    bench.set("OPTION_FILE=", &setting);
    let lines = bench.run("freeze", &[]);
    has(&lines, "mariadb is ready and holds");
    assert_eq!(locked_servers(&bench), [4711, 4712, 4713], "{lines:#?}");
    for line in bench.told("clients").lines() {
        let own = line.contains(&format!("--defaults-extra-file={}", own.display()));
        assert_eq!(own, line.contains("--socket=/sockets/4712.sock "), "{line}");
    }
    let lines = bench.run("thaw", &[("QGA_THAW_REASON", "ok")]);
    has(&lines, "mariadb finished with status=0");
    assert_eq!(locked_servers(&bench), [0; 0]);
}

#[test]
fn a_server_that_refuses_is_a_failure_and_the_others_are_released() {
    let mut bench = mariadb();
    bench.fact("pids", "4711 4712");
    bench.process(4712, "/", "mariadbd");
    bench.fact("refuses.4712.sock", "");
    let lines = bench.run("freeze", &[]);
    has(&lines, "ERROR 1045");
    has(&lines, "/sockets/4712.sock is not locked, so nothing is");
    has(&lines, "mariadb finished with status=1");
    assert_eq!(locked_servers(&bench), [0; 0]);
    assert_eq!(bench.state(), 0, "nothing is left in /run");
}

#[test]
fn one_of_two_sessions_that_is_lost_ends_the_hold() {
    let mut bench = mariadb();
    bench.fact("pids", "4711 4712");
    bench.process(4712, "/", "mariadbd");
    let lines = bench.run("freeze", &[]);
    has(&lines, "mariadb is ready and holds");
    bench.fact("dies", "");
    until_gone(&bench);
    let lines = bench.run("thaw", &[]);
    has(&lines, "mariadb did not hold until the thaw");
    assert_eq!(locked_servers(&bench), [0; 0]);
}

#[test]
fn a_server_without_a_socket_is_a_failure() {
    let mut bench = mariadb();
    fs::write(bench.path("proc/4711/net/unix"), "").expect("written");
    let lines = bench.run("freeze", &[]);
    has(
        &lines,
        "the server with process id 4711 listens on no socket",
    );
    has(&lines, "mariadb finished with status=1");
}

#[test]
fn a_server_in_a_container_is_a_failure_unless_it_is_another_hooks() {
    for name in [
        "mariadb",
        "postgresql",
        "redis",
        "mongodb",
        "iris",
        "oracle",
        "hana",
        "db2",
    ] {
        let mut bench = Bench::new(name, |text| text);
        bench.stand_in("pidof", "echo 4711");
        let root = bench.path("bin");
        bench.process(4711, root.to_str().expect("text"), "server");
        bench.stand_in("pgrep", "echo 4711");
        bench.contain(4711);
        let (status, lines) = bench.call("freeze", &[]);
        assert_eq!(status, 1, "{name}: {lines:?}");
        assert!(said(&lines).contains("in a container"), "{name}: {lines:?}");
        bench.set("IGNORE_CONTAINERS=no", "IGNORE_CONTAINERS=yes");
        bench.run("thaw", &[]);
        assert_eq!(bench.call("freeze", &[]).0, 77, "{name}");
    }
}

#[test]
fn a_cluster_whose_socket_is_not_found_is_a_failure() {
    let mut bench = postgresql();
    bench.fact("pids", "22 11 33 34");
    for pid in [33, 34] {
        bench.process(pid, "/", "postgres");
    }
    // A server process of the third cluster.
    fs::write(bench.path("proc/34/status"), "PPid:\t33\n").expect("status");
    let lines = bench.run("freeze", &[]);
    has(
        &lines,
        "the PostgreSQL cluster with process id 33 has no socket in SOCKET_DIRS",
    );
    has(&lines, "postgresql finished with status=1");
    assert!(!locked(&bench));
}

#[test]
fn neither_a_chroot_nor_a_service_with_its_own_mounts_is_a_container() {
    let mut bench = mariadb();
    bench.fact("pids", "4711 4712");
    bench.contain(4711);
    let root = bench.path("stub");
    let root = root.to_str().expect("text");
    bench.process(4712, root, "mysqld");
    let lines = bench.run("freeze", &[]);
    has(&lines, "all tables locked: /sockets/4711.sock");
    has(
        &lines,
        &format!("all tables locked: {root}/sockets/4712.sock"),
    );
    has(&lines, "mariadb is ready and holds");
    bench.run("thaw", &[]);
    assert_eq!(locked_servers(&bench), [0; 0]);
}
