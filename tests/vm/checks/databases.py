"""The database hooks against the real servers under write load: what each promises is looked for on a copy taken while frozen.

The writers note in tmpfs what the server has acknowledged, outside of the frozen disks; the copy is plugged into the guest
as one more disk, and each server is started on it. The guest `devices` has the servers of the machine's own release, the guest
`servers` those of Debian 13; checks/mysql.py does the same with MySQL.
"""
import contextlib
import dataclasses
import re

from lib import harm, image, paths
from lib.report import check, equal, holds
from .acceptance_devices import appears

HOOKS = "/etc/qemu/fsfreeze-hook.d"
LOG = "/var/log/qga-fsfreeze-hook.log"
COPY = "/mnt/copy"
TMP = "/run/oob/db"
# The hooks, and what each writer's notes are named for.
ALL = ("mariadb", "postgresql", "redis")
# Redis, or the one that took its place: its programs, unit and folder are named alike. By guest.
REDIS = {"devices": "redis", "servers": "valkey"}
# Where the release is not the machine's own: what `servers` is to prove something of.
VERSIONS = {"servers": {"mariadb": "11.8", "postgresql": "17", "valkey": "8"}}


@dataclasses.dataclass(frozen=True)
class Sql:
    """A server of MariaDB's family. `{root}` stands for the mountpoint of the disk that its data is on."""

    server: str
    socket: str
    client: str
    checker: str
    data: str = "/var/lib/mysql"
    tables: str = ("CREATE DATABASE shop; CREATE TABLE shop.inno (n INT PRIMARY KEY) ENGINE=InnoDB; "
                   "CREATE TABLE shop.my (n INT PRIMARY KEY) ENGINE=MyISAM")

    def writer(self, *options):
        """A shell command that inserts numbers and prints each that the server has acknowledged."""
        insert = f"{COUNT}; echo \"INSERT INTO inno VALUES ($i); INSERT INTO my VALUES ($i); SELECT $i;\"; done"
        return f"{insert} | {self.client} {' '.join(options)} -N --unbuffered shop"


MARIADB = Sql(f"mariadbd --no-defaults --user=mysql --datadir={{root}}/var/lib/mysql --socket={TMP}/copy.sock --skip-networking "
              f"--log-bin=bin --server-id=1 --pid-file={TMP}/copy.pid", f"{TMP}/copy.sock", "mariadb",
              "myisamchk --check --read-only {root}/var/lib/mysql/shop/my.MYI")
# Each line of a writer's output is an acknowledgement: a number is printed by its server after the insert of that number.
# The pauses leave the servers some of an emulated processor.
COUNT = "i=0; while sleep 0.02; do i=$((i + 1))"


def redis(g):
    return REDIS[g.work.name]


def units(g):
    return f"mariadb {redis(g)}-server postgresql"


def set_up(g):
    """Starts the servers with empty tables; and a second Redis, without append-only file, whose save points are far away."""
    name = redis(g)
    second = f"{name}-server --port 6380 --dir /var/lib/redis-rdb --daemonize yes --pidfile {TMP}/redis-rdb.pid >/dev/null"
    g.oob.run(rf"""
        mkdir -p {TMP} /var/lib/redis-rdb && chmod 1777 {TMP}
        printf '[mariadbd]\nlog_bin = bin\nserver_id = 1\nsync_binlog = 1\n' >/etc/mysql/mariadb.conf.d/99-check.cnf
        systemctl start {units(g)} && {second}
        {name}-cli config set appendonly yes >/dev/null && {name}-cli -p 6380 set n 41 >/dev/null
        mariadb -e '{MARIADB.tables}'
        runuser -u postgres -- psql -qc 'CREATE TABLE t (n int PRIMARY KEY)'
        """, timeout=180)
    versions = {"mariadb": g.oob.run("mariadb -Ne 'SELECT VERSION()'"), "postgresql": cluster(g),
                name: g.oob.run(f"{name}-cli info server | sed -n 's/^{name}_version://p'")}
    versions = {server: version.strip() for server, version in versions.items()}
    for server, meant in VERSIONS.get(g.work.name, {}).items():
        holds(versions[server].startswith(meant), f"{server} {meant}: {versions[server]}")
    return versions


def writers(g):
    """What writes to each server, by the name of its hook."""
    return {
        "mariadb": MARIADB.writer(),
        "postgresql": f"{COUNT}; printf '%s\\n' \"INSERT INTO t VALUES ($i);\" \"SELECT $i;\"; done | runuser -u postgres -- psql -qAt",
        "redis": f"{COUNT}; echo 'INCR n'; done | {redis(g)}-cli",
    }


@contextlib.contextmanager
def enabled(g, name, *changes):
    """A sample as an operator enables it: copied without its ending, with settings changed."""
    text = (paths.ROOT / "hooks/fsfreeze-hook.d" / f"{name}.sample").read_text()
    for old, new in changes:
        holds(f"\n{old}\n" in text, f"{name}.sample has the setting {old}")
        text = text.replace(f"\n{old}\n", f"\n{new}\n")
    g.oob.run(f"cat >{HOOKS}/30-{name} <<'END_OF_HOOK'\n{text}END_OF_HOOK\nchmod 755 {HOOKS}/30-{name}")
    try:
        yield
    finally:
        g.oob.run(f"rm -f {HOOKS}/30-{name}")


def acknowledged(g, names=ALL):
    """The last number each server has acknowledged."""
    return {name: int(g.oob.run(f"tail -n1 {TMP}/{name}.acked", check=False).strip() or 0) for name in names}


def status_of(log, name, phase="freeze"):
    """What became of a hook, as the log has it."""
    found = re.findall(rf"execute {HOOKS}/30-{name} {phase}\n.*?30-{name} finished with status=(\d+)", log, re.S)
    holds(found, f"30-{name} was called with {phase}: {log}")
    return int(found[-1])


def logged(log, pattern):
    """What a hook wrote."""
    found = re.findall(pattern, log)
    holds(found, f"{pattern!r} in the hook log: {log}")
    return found[-1]


@contextlib.contextmanager
def frozen(g, filesystems=2):
    """Frozen as long as the block lasts, whatever happens in it."""
    g.oob.run(f"rm -f {LOG}")
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze", timeout=180), filesystems, "filesystems frozen")
        try:
            yield
        finally:
            thawed = agent.ask("guest-fsfreeze-thaw", timeout=180)
        equal(thawed, filesystems, "filesystems thawed")


def freeze_and_copy(g, name, disk="root", filesystems=2, names=ALL):
    """Copies a disk while frozen; returns the copy, what was acknowledged then, and the hook log of freeze and thaw."""
    copy = g.work / f"{name}-copy.img"
    with frozen(g, filesystems):
        before = acknowledged(g, names)
        image.copy(g.work / f"{disk}.img", copy)
        after = acknowledged(g, names)
    equal(after, before, "acknowledged before and after the copy was taken")
    return copy, before, g.oob.run(f"cat {LOG}")


@contextlib.contextmanager
def plugged(g, file, name="copy", where=COPY):
    """A file as a disk, mounted in the guest; it is gone after the block."""
    g.qmp.ask("blockdev-add", node_name=name, driver="raw", file={"driver": "file", "filename": str(file)})
    g.qmp.ask("device_add", driver="virtio-blk-pci", id=f"dev-{name}", drive=name, serial=name.upper())
    try:
        appears(lambda: name.upper() in g.oob.run("lsblk -dno SERIAL").split(), f"the disk {name}")
        g.oob.run(f"mkdir -p {where} && mount {g.device(name)} {where}")
        yield
    finally:
        g.oob.run(f"while mountpoint -q {where} && ! umount {where}; do sleep 0.2; done", timeout=30, check=False)
        g.qmp.unplug(f"dev-{name}")
        g.qmp.ask("blockdev-del", node_name=name)
        file.unlink()


@contextlib.contextmanager
def server(g, command, ready):
    """A server on the copy; yields a function that gives its log."""
    log = f"{TMP}/server.log"
    job = g.oob.start(f"exec {command} >{log} 2>&1 </dev/null")
    try:
        g.oob.run(f"until {ready} >/dev/null 2>&1; do [ -e /proc/{job.pid} ] || {{ cat {log}; exit 1; }}; sleep 0.2; done", timeout=90)
        yield lambda: g.oob.run(f"cat {log}")
    finally:
        g.oob.run(f"kill {job.pid}", check=False)
        job.wait(60)


def sql_on_copy(g, sql=MARIADB):
    """(rows of InnoDB, rows of MyISAM, server's log) of a MariaDB or MySQL started on the copy."""
    client = f"{sql.client} --socket={sql.socket}"
    with server(g, sql.server.format(root=COPY), f"{client} -e 'SELECT 1'") as log:
        rows = g.oob.run(f"{client} -N -e 'SELECT (SELECT COUNT(*) FROM inno), (SELECT COUNT(*) FROM my)' shop").split()
        return int(rows[0]), int(rows[1]), log()


def cluster(g):
    """The version of PostgreSQL in the guest."""
    return g.oob.run("pg_lsclusters -h").split()[0]


def control_data(g, field):
    """One line of pg_controldata on the copy."""
    version = cluster(g)
    text = g.oob.run(f"LC_ALL=C /usr/lib/postgresql/{version}/bin/pg_controldata {COPY}/var/lib/postgresql/{version}/main")
    return re.search(rf"^{field}: *(.*)$", text, re.M).group(1)


def postgresql_on_copy(g):
    """(rows, server's log) of a PostgreSQL started on the copy."""
    version = cluster(g)
    command = (f"runuser -u postgres -- /usr/lib/postgresql/{version}/bin/postgres -D {COPY}/etc/postgresql/{version}/main -c port=5499 "
               f"-c data_directory={COPY}/var/lib/postgresql/{version}/main -c external_pid_file={TMP}/pg.pid")
    with server(g, command, "pg_isready -p 5499") as log:
        return int(g.oob.run("runuser -u postgres -- psql -p 5499 -qAtc 'SELECT count(*) FROM t'")), log()


def redis_on_copy(g, folder, *options):
    """(the counter, server's log) of a Redis started on the copy."""
    name = redis(g)
    command = f"{name}-server --port 6399 --dir {COPY}/var/lib/{folder} --save '' {' '.join(options)}"
    with server(g, command, f"{name}-cli -p 6399 get n | grep '^[0-9]'") as log:
        return int(g.oob.run(f"{name}-cli -p 6399 get n")), log()


def table_left_open(g, root, sql=MARIADB):
    """Whether MyISAM's own checker finds that the table was not closed."""
    said = g.oob.run(f"{sql.checker.format(root=root)} 2>&1", check=False)
    holds("Checking MyISAM file" in said, f"the table was checked: {said}")
    return "closed the table properly" in said


@contextlib.contextmanager
def writing(g, commands):
    """Writers at work, by name, until the block ends; in it each has had fifty acknowledgements."""
    jobs = [g.oob.start(f"{command} >{TMP}/{name}.acked") for name, command in commands.items()]
    try:
        appears(lambda: min(acknowledged(g, commands).values()) > 50, "fifty writes to each server", 120)
        yield
    finally:
        # With what still waits in their pipes.
        g.oob.run(f"kill -- {' '.join(f'-{job.pid}' for job in jobs)}", check=False)
        for job in jobs:
            job.wait(60)


def take_under_load(g):
    """Freezes and copies with all three hooks at work and writers at all three servers."""
    with enabled(g, "mariadb"), enabled(g, "postgresql"), enabled(g, "redis"), writing(g, writers(g)):
        holds(table_left_open(g, ""), "the live MyISAM table is open (else the copy's proves nothing)")
        copy, known, log = freeze_and_copy(g, "databases")
        appears(lambda: all(now > known[name] for name, now in acknowledged(g).items()), "writes go on after the thaw")
        equal({name: status_of(log, name) for name in known}, dict.fromkeys(known, 0), "statuses of the hooks")
        return copy, known, log


def look_at_sql(g, known, log, sql=MARIADB):
    binlog, position = logged(log, r"binary log position: (\S+)\s+(\d+)")
    equal(int(g.oob.run(f"stat -c %s {COPY}{sql.data}/{binlog}")), int(position), "the end of the copy's binary log, as logged")
    holds(not table_left_open(g, COPY, sql), "the MyISAM table was closed")
    inno, my, said = sql_on_copy(g, sql)
    holds(inno in (known, known + 1), f"InnoDB has what was acknowledged, and at most the one on its way: {inno} rows, {known} acknowledged")
    equal(my, known, "rows of MyISAM against what was acknowledged")
    # Not promised, and so that `no recovery` below proves something.
    holds("crash recovery" in said, f"InnoDB recovers: {said}")


def look_at_postgresql(g, known, log):
    redo = logged(log, r"REDO position ([0-9A-F]+/[0-9A-F]+)")
    equal(control_data(g, "Latest checkpoint's REDO location"), redo, "the copy's checkpoint, as logged")
    rows, said = postgresql_on_copy(g)
    holds(rows in (known, known + 1), f"what was acknowledged, and at most the one on its way: {rows} rows, {known} acknowledged")
    equal(re.findall(r"redo starts at (\S+)", said), [redo], "where the copy's recovery began")


def look_at_redis(g, known, log):
    size = logged(log, r"append-only file written, (\d+) bytes")
    holds(logged(log, r":6380: (saved)"), "the second instance was saved")
    folder = f"{COPY}/var/lib/{redis(g)}/appendonlydir"
    equal(g.oob.run(f"cat {folder}/*.aof {folder}/*.rdb | wc -c").strip(), size, "the copy's append-only file, as logged")
    counter, said = redis_on_copy(g, redis(g), "--appendonly yes")
    equal(counter, known, "the counter against what was acknowledged")
    holds("truncated" not in said and "Bad file format" not in said, f"the file is whole: {said}")
    equal(redis_on_copy(g, "redis-rdb")[0], 41, "what the instance without append-only file had")


@check("devices", "servers")
def databases_under_load_lose_nothing_that_was_acknowledged(g):
    versions = set_up(g)
    try:
        copy, known, log = take_under_load(g)
        print(f"     ({g.work.name}: {versions}, acknowledged: {known})", flush=True)
    finally:
        g.oob.run(f"kill $(cat {TMP}/redis-rdb.pid); systemctl stop {units(g)}", timeout=120)
    with plugged(g, copy):
        look_at_sql(g, known["mariadb"], log)
        look_at_postgresql(g, known["postgresql"], log)
        look_at_redis(g, known["redis"], log)


@check("devices")
def databases_stopped_for_the_freeze_need_no_recovery(g):
    unit = f"postgresql@{cluster(g)}-main"
    g.oob.run(f"systemctl start mariadb {unit}", timeout=120)
    try:
        with enabled(g, "systemd-unit", ('UNITS="mariadb.service"', f'UNITS="mariadb redis-server {unit}"')):
            copy, _, log = freeze_and_copy(g, "stopped")
        equal([status_of(log, "systemd-unit", phase) for phase in ("freeze", "thaw")], [0, 0], "statuses of the hook")
        equal(g.oob.run(f"systemctl is-active mariadb redis-server {unit}", check=False).split(), ["active", "inactive", "active"],
              "what ran before runs again, what did not does not")
    finally:
        g.oob.run(f"systemctl stop mariadb {unit}", timeout=120)
    with plugged(g, copy):
        equal(control_data(g, "Database cluster state"), "shut down", "the copy's state of PostgreSQL")
        _, _, said = sql_on_copy(g)
        holds("crash recovery" not in said, f"InnoDB recovers nothing: {said}")


@check("devices")
def postgresql_backup_mode_lasts_from_freeze_to_thaw(g):
    unit = f"postgresql@{cluster(g)}-main"
    g.oob.run(f"systemctl start {unit}", timeout=120)
    try:
        sessions = "ps -eo args | grep -c '[p]sql -X .* -p 5432'"
        with enabled(g, "postgresql", ("MODE=checkpoint", "MODE=backup")):
            with frozen(g):
                alive = int(g.oob.run(sessions, check=False))
            left = int(g.oob.run(sessions, check=False))
        log = g.oob.run(f"cat {LOG}")
        equal(status_of(log, "postgresql"), 0, f"status of the hook: {log}")
        holds(alive > 0 and left == 0, f"the session lives while frozen ({alive} processes) and not longer ({left})")
        start = logged(log, r"backup mode from (\S+)")
        equal(logged(log, r"START WAL LOCATION: (\S+)"), start, "the backup_label's start")
        logged(log, r"backup mode until (\S+),")
    finally:
        g.oob.run(f"systemctl stop {unit}", timeout=120)


@check("devices")
def database_lock_that_is_lost_while_frozen_lowers_the_level(g):
    # The hook that fails on purpose would lower it by itself.
    harm.only_light_hooks(g)
    g.oob.run("systemctl start mariadb", timeout=120)
    try:
        with enabled(g, "mariadb"):
            for end, level, lost in (("true", "application", False), ("kill $(pidof mariadb)", "filesystem", True)):
                with frozen(g):
                    g.oob.run(end)
                    if lost:
                        hook = "ps -eo args | grep -q '[3]0-mariadb freeze'"
                        appears(lambda: g.oob.run(f"{hook} || echo gone", check=False), "the end of the hook")
                newest = harm.reports(g)[0]
                entry = [h for h in newest["hooks"] if h["path"].endswith("30-mariadb")][-1]
                equal((newest["level"], entry.get("lost", False)), (level, lost), f"level, and whether the lock was lost: {newest['hooks']}")
    finally:
        g.oob.run("systemctl stop mariadb", timeout=120)
