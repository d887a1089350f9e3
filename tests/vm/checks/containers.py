"""Databases in Podman's containers, held by containers.sample under write load: what it promises is looked for on a copy of the root
disk that was taken while frozen. The container image is made of Debian's packages with the guest's own (lib/image.py).
"""
import contextlib
import re

from lib import harm, image
from lib.report import check, equal, holds
from .acceptance_devices import appears
from .databases import COPY, COUNT, LOG, TMP, enabled, frozen, logged, plugged, status_of

# PostgreSQL is found by its label, Valkey by its name.
SHOP = (f"--network none --user postgres --tmpfs /run/postgresql:mode=1777 -v {{}}:/var/lib/postgresql {image.CONTAINER_IMAGE} "
        "sh -c 'exec /usr/lib/postgresql/*/bin/postgres -D /etc/postgresql/*/main'")
CACHE = f"--network none -v {{}}:/data {image.CONTAINER_IMAGE} valkey-server --dir /data --save '' --appendonly yes"
# The image has a cluster; Podman itself takes half a minute to copy it into a volume.
SETUP = f"""
mkdir -p {TMP} /srv/cache
cp -a $(podman image mount {image.CONTAINER_IMAGE})/var/lib/postgresql /srv/shop
podman run -d --name shop --label qga.hold=postgresql {SHOP.format('/srv/shop')}
podman run -d --name cache {CACHE.format('/srv/cache')}
until podman exec shop pg_isready -q; do sleep 0.5; done
podman exec -u postgres shop psql -qc 'CREATE TABLE t (n int PRIMARY KEY)'
"""
WRITERS = {
    "shop": f"{COUNT}; printf '%s\\n' \"INSERT INTO t VALUES ($i);\" \"SELECT $i;\"; done | podman exec -i -u postgres shop psql -qAt",
    "cache": f"{COUNT}; echo 'INCR n'; done | podman exec -i cache valkey-cli",
}


def acknowledged(g):
    """The last number that each server has acknowledged."""
    return {name: int(g.oob.run(f"tail -n1 {TMP}/{name}.acked", check=False).strip() or 0) for name in WRITERS}


@contextlib.contextmanager
def at_work(g):
    """Both containers under write load, with the hook enabled."""
    harm.only_light_hooks(g)
    try:
        g.oob.run(SETUP, timeout=120)
        jobs = [g.oob.start(f"{writer} >{TMP}/{name}.acked") for name, writer in WRITERS.items()]
        try:
            appears(lambda: min(acknowledged(g).values()) > 50, "fifty writes to each server", 120)
            with enabled(g, "containers", ("CONTAINERS=", "CONTAINERS=cache=valkey")):
                yield
        finally:
            g.oob.run(f"kill -- {' '.join(f'-{job.pid}' for job in jobs)}", check=False)
            for job in jobs:
                job.wait(60)
    finally:
        g.oob.run(f"podman rm -f -t 5 -a; podman image unmount {image.CONTAINER_IMAGE}; rm -r /srv/shop /srv/cache", timeout=120)


def goes_on(g, known):
    """Waits until each server acknowledges writes beyond these."""
    appears(lambda: all(now > known[name] for name, now in acknowledged(g).items()), "writes go on after the thaw")


@contextlib.contextmanager
def container_on_copy(g, options, folder, query):
    """A container of the same image on what the copy has of a volume; yields the first answer to `query`, and the server's log."""
    g.oob.run(f"podman run -d --name copy --log-driver k8s-file {options.format(f'{COPY}/srv/{folder}')}", timeout=60)
    try:
        answer = g.oob.run(f"until podman exec {query} | grep '^[0-9]'; do [ $(podman ps -q | wc -l) = 1 ] || {{ podman logs copy; exit 1; }}; done", timeout=90)
        yield int(answer), g.oob.run("podman logs copy 2>&1")
    finally:
        g.oob.run("podman rm -f -t 0 copy", timeout=60)


def look_at_postgresql(g, known, log):
    redo = logged(log, r"shop: REDO position ([0-9A-F]+/[0-9A-F]+)")
    with container_on_copy(g, SHOP, "shop", "-u postgres copy psql -qAtc 'SELECT count(*) FROM t'") as (rows, said):
        holds(rows in (known, known + 1), f"what was acknowledged, and at most the one on its way: {rows} rows, {known} acknowledged")
        equal(re.findall(r"redo starts at (\S+)", said), [redo], "where the copy's recovery began")


def look_at_valkey(g, known, log):
    size = logged(log, r"cache: writes held back, append-only file written, (\d+) bytes")
    # The server counts the base that it began with only after a restart.
    equal(g.oob.run(f"cat {COPY}/srv/cache/appendonlydir/*.incr.aof | wc -c").strip(), size, "the copy's append-only file, as logged")
    with container_on_copy(g, CACHE, "cache", "copy valkey-cli get n") as (counter, said):
        equal(counter, known, "the counter against what was acknowledged")
        holds("truncated" not in said and "Bad file format" not in said, f"the file is whole: {said}")


def take(g, copy):
    """Copies the root disk while frozen; returns what was acknowledged then, and the hook log."""
    with frozen(g):
        image.copy(g.work / "root.img", copy)
        # What was on its way out of a container has come by now; nothing new can.
        known = acknowledged(g)
    goes_on(g, known)
    log, level = g.oob.run(f"cat {LOG}"), harm.reports(g)[0]["level"]
    equal((status_of(log, "containers"), level), (0, "application"), f"the hook's status and the level: {log}")
    return known, log


def kill_the_hook(g):
    """Valkey would hold writes back for longer than the agent's hold limit, if its session did not release it."""
    with frozen(g):
        known = acknowledged(g)
        # With the exec clients, by the program that they brought into the containers.
        g.oob.run("kill -9 $(ps -eo pid,args | awk '/[3]0-containers freeze/ || /[p]odman exec .*qga-begun/ {print $1}')")
    goes_on(g, known)
    newest = harm.reports(g)[0]
    entry = [hook for hook in newest["hooks"] if hook["path"].endswith("30-containers")][-1]
    equal((newest["level"], entry.get("lost", False)), ("filesystem", True), f"level, and whether the hold was lost: {newest['hooks']}")


@check("servers")
def containers_under_load_lose_nothing_and_are_let_go_when_their_hook_is_killed(g):
    copy = g.work / "containers.img"
    with at_work(g):
        known, log = take(g, copy)
        print(f"     (acknowledged: {known})", flush=True)
        kill_the_hook(g)
    with plugged(g, copy):
        look_at_postgresql(g, known["shop"], log)
        look_at_valkey(g, known["cache"], log)
