"""What test lists of the field check beside all that: a hundred restarts, the command line of the installed binary, its log."""
import json
import re

from lib.report import check, equal, holds

# A client of the agent's own inside the guest: connects, pings, asks for guest-info.
ASK = """
import json, socket, time
def answers(path):
    s = socket.socket(socket.AF_UNIX); s.settimeout(10)
    for _ in range(200):
        try:
            s.connect(path); break
        except OSError:
            time.sleep(0.02)
    s.sendall(b'{"execute":"guest-ping"}\\n{"execute":"guest-info"}\\n')
    got = b''
    while got.count(b'\\n') < 2:
        got += s.recv(65536)
    return [json.loads(line) for line in got.splitlines()]
"""


@check("devices")
def a_hundred_restarts_of_the_service(g):
    # Checks before this one may have given the agent reason to warn.
    since = g.oob.run("date +%s").strip()
    with g.agent() as agent:
        version = agent.ask("guest-info")["version"]
        for turn in range(100):
            g.oob.run("systemctl restart qemu-guest-agent")
            equal((agent.ask("guest-ping"), agent.ask("guest-info")["version"]), ({}, version), f"ping and info after restart {turn + 1}")
    noise = g.oob.run("journalctl --sync; journalctl -q -b -o cat _COMM=qemu-ga -p warning --since=@" + since, check=False).strip()
    equal(noise, "", "warnings of a hundred starts")


@check("devices")
def command_line_of_the_installed_binary(g):
    version = g.oob.run("/usr/sbin/qemu-ga -V")
    with g.agent() as agent:
        told = agent.ask("guest-info")["version"]
    holds(re.fullmatch(r"\d+\.\d+\.\d+", told), f"a version of the shape x.y.z, not {told}")
    holds(f"QEMU Guest Agent {told}" in version, f"the same version at -V: {version}")
    help_text = g.oob.run("/usr/sbin/qemu-ga --help")
    for word in ("--fsfreeze-hook", "fsfreeze-hook", "--method", "--block-rpcs", "--allow-rpcs", "--dump-conf", "--retry-path"):
        holds(word in help_text, f"--help names {word}")
    dumped = g.oob.run("/usr/sbin/qemu-ga -D -m unix-listen -p /run/x -F/etc/qemu/fsfreeze-hook -b guest-exec")
    for line in ("[general]", "method=unix-listen", "path=/run/x", "fsfreeze-hook=/etc/qemu/fsfreeze-hook", "block-rpcs=guest-exec"):
        holds(line in dumped.splitlines(), f"--dump-conf shows {line}: {dumped}")
    equal(g.oob.run("systemctl show -p Id --value qemu-guest-agent").strip(), "qemu-guest-agent.service", "unit name")


@check("devices")
def verbose_log_names_each_command_and_block_lists_hold(g):
    g.oob.run(f"cat >/run/oob/ask.py <<'EOF'\n{ASK}\nprint(json.dumps(answers('/run/qga-log/sock')))\nEOF")
    g.oob.run("mkdir -p /run/qga-log; systemd-run -q --unit=qga-log /usr/sbin/qemu-ga -v -l /run/qga-log/log -m unix-listen "
              "-p /run/qga-log/sock -t /run/qga-log -b guest-exec,guest-shutdown")
    try:
        pong, info = json.loads(g.oob.run("python3 /run/oob/ask.py", timeout=60))
    finally:
        g.oob.run("systemctl stop qga-log", check=False)
    equal(pong, {"return": {}}, "guest-ping")
    disabled = {c["name"] for c in info["return"]["supported_commands"] if not c["enabled"]}
    equal(disabled, {"guest-exec", "guest-shutdown"}, "commands that the block list disables")
    log = g.oob.run("cat /run/qga-log/log")
    for name in ("guest-ping", "guest-info"):
        holds(name in log, f"{name} in the verbose log: {log}")


@check("libvirt")
def live_snapshot_during_a_copy_leaves_equal_hashes(g):
    overlays = {"vda": g.work / "vda.overlay", "vdb": g.work / "vdb.overlay"}
    g.oob.run("head -c 30000000 /dev/urandom >/data/original; sync")
    copy = g.oob.start("for i in 1 2 3 4 5 6; do cp /data/original /root/copy$i; sync -f /root/copy$i; done")
    words = [word for name, file in overlays.items() for word in ("--diskspec", f"{name},file={file}")]
    g.virsh("snapshot-create-as", "one", "--disk-only", "--quiesce", "--no-metadata", *words, timeout=180)
    try:
        equal(g.ask("guest-fsfreeze-status"), "thawed", "status after the snapshot, which libvirt froze and thawed for")
        equal(copy.wait(120)[0], 0, "the copy")
        hashes = {line.split()[0] for line in g.oob.run("sha256sum /data/original /root/copy?", timeout=120).splitlines()}
        equal(len(hashes), 1, "different hashes")
        g.oob.run("rm /data/original /root/copy?; sync")
    finally:
        for name, file in overlays.items():
            g.virsh("blockcommit", name, "--active", "--pivot", "--wait", timeout=180)
            file.unlink(missing_ok=True)
