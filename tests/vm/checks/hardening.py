"""The units as packages install them: the default one stops no command, backup-only stops all but the backup's."""
import base64
import contextlib
import pathlib
import time

from lib import harm
from lib.report import check, equal, holds

ROOT = pathlib.Path(__file__).resolve().parents[3]
DROP_INS = "/run/systemd/system/qemu-guest-agent.service.d"
CONF = "/etc/qemu/qemu-ga.conf"
ALLOWED = {"guest-sync", "guest-sync-delimited", "guest-ping", "guest-info", "guest-fsfreeze-status", "guest-fsfreeze-freeze",
           "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw", "x-guest-authenticate", "x-guest-fsfreeze-report"}
LIMIT = 4


def put(g, text, to, mode="644"):
    g.oob.run(f"mkdir -p $(dirname {to}); echo {base64.b64encode(text.encode()).decode()} | base64 -d >{to}; chmod {mode} {to}")


def restart(g):
    g.oob.run("systemctl daemon-reload; systemctl reset-failed qemu-guest-agent; systemctl restart qemu-guest-agent")
    g.wait_agent(20)


@contextlib.contextmanager
def packaged(g, *drop_ins):
    """The guest's unit, which is the packaged one, with these drop-ins of debian/."""
    for name in drop_ins:
        put(g, (ROOT / "debian" / name).read_text(), f"{DROP_INS}/{name}")
    try:
        restart(g)
        yield
    finally:
        g.oob.run(f"rm -rf {DROP_INS} {CONF}; rm -f {harm.HOOKS}/6[0-9]-*")
        restart(g)


def status_of(g, pid):
    """Fields of /proc/PID/status."""
    lines = g.oob.run(f"cat /proc/{pid}/status").splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def execute(g, script):
    """What a shell script prints that runs by guest-exec."""
    pid = g.ask("guest-exec", {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True})["pid"]
    end = time.monotonic() + 60
    while not (got := g.ask("guest-exec-status", {"pid": pid}))["exited"]:
        holds(time.monotonic() < end, f"{script} ends within 60 s")
        time.sleep(0.1)
    said = [base64.b64decode(got.get(part, "")).decode() for part in ("out-data", "err-data")]
    equal(got["exitcode"], 0, f"status of {script}, which said {said}")
    return said[0]


@check("libvirt")
def hardening_default_unit_stops_no_command(g):
    with packaged(g):
        for script in (
                "setarch -R true", "setarch i686 uname -m", "chrt -f 1 true", "nice -n -5 true", "dmesg | head -1", "ulimit -c unlimited",
                "cp /bin/true /root/suid; chmod 4755 /root/suid && [ -u /root/suid ]; rm /root/suid",
                "mkdir -p /mnt/t && mount -t tmpfs t /mnt/t && umount /mnt/t", "unshare -muinpf --mount-proc true",
                "mknod /root/null c 1 3 && echo >/root/null; rm /root/null", "chattr +i /etc/hostname && chattr -i /etc/hostname",
                "sysctl -qw vm.swappiness=60", "hostname freeze-me", "modprobe loop", "runuser -u nobody true",
                "touch /home/x /tmp/x && rm /home/x /tmp/x", "ip link set lo up", "systemctl is-system-running; true"):
            execute(g, script)
        # What the one filter means: a call that nobody has used for decades is not there; 38 is ENOSYS, 136 ustat.
        ustat = 'import ctypes as c; print(c.CDLL(None, use_errno=True).syscall(136, 0, None), c.get_errno())'
        if g.oob.run("uname -m").strip() == "x86_64":
            equal(execute(g, f"python3 -c '{ustat}'"), "-1 38\n", "ustat")
        g.ask("guest-set-user-password", {"username": "nobody", "password": "UzNDUkVU", "crypted": False})
        g.ask("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["ssh-ed25519 AAAA hardening"]})
        g.ask("guest-ssh-remove-authorized-keys", {"username": "root", "keys": ["ssh-ed25519 AAAA hardening"]})
        g.ask("guest-fstrim")
        g.ask("guest-set-time", {"time": time.time_ns()})
        handle = g.ask("guest-file-open", {"path": "/root/made", "mode": "w"})
        g.ask("guest-file-close", {"handle": handle})
        processors = g.ask("guest-get-vcpus")
        other = [{"logical-id": p["logical-id"], "online": False} for p in processors if p["can-offline"]]
        if other:
            equal(g.ask("guest-set-vcpus", {"vcpus": other}), len(other), "processors off")
            equal(g.ask("guest-set-vcpus", {"vcpus": [{**p, "online": True} for p in other]}), len(other), "processors on")
        equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
        equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
        # A program that eats the memory ends alone.
        agent = g.agent_pid()
        g.oob.run("systemctl set-property --runtime qemu-guest-agent MemoryMax=80M MemorySwapMax=0")
        pid = g.ask("guest-exec", {"path": "/usr/bin/python3", "arg": ["-c", "x = bytearray(300 << 20)"]})["pid"]
        end = time.monotonic() + 60
        while not (got := g.ask("guest-exec-status", {"pid": pid}))["exited"] and time.monotonic() < end:
            time.sleep(0.2)
        equal(got.get("signal"), 9, "the signal that ended the hog")
        equal(g.agent_pid(), agent, "the agent's process")
        g.oob.run("systemctl revert qemu-guest-agent 2>/dev/null; true")


@check("libvirt")
def hardening_backup_only_freezes_with_hooks_and_guardian(g):
    with packaged(g, "backup-only.conf"):
        info = g.ask("guest-info")["supported_commands"]
        equal({c["name"] for c in info if c["enabled"]}, ALLOWED, "enabled commands")
        for name in ("guest-exec", "guest-file-open", "guest-shutdown", "guest-get-fsinfo", "guest-set-user-password"):
            holds("has been disabled" in g.refused(name), f"{name} is refused")
        agent = status_of(g, g.agent_pid())
        equal((agent["NoNewPrivs"], agent["Seccomp"]), ("1", "2"), "no new privileges, and a filter")
        # CAP_DAC_READ_SEARCH 2, KILL 5, IPC_LOCK 14, SYS_ADMIN 21, SYS_RESOURCE 24; the service's own has for hooks besides DAC_OVERRIDE 1,
        # SETGID 6, SETUID 7.
        agents = sum(1 << number for number in (2, 5, 14, 21, 24))
        services = agents | 1 << 1 | 1 << 6 | 1 << 7
        equal((int(agent["CapPrm"], 16), int(agent["CapEff"], 16)), (agents, agents), "the agent's capabilities")
        launcher = status_of(g, g.oob.run(f"pgrep -P {g.agent_pid()} -x qga-launcher").strip())
        equal(int(launcher["CapBnd"], 16), services, "the service's capabilities")
        # /sys is read-only but for the one setting that a freeze changes; beneath / only /run and /var are writable.
        writable = "for name in /sys/kernel/rcu_expedited /sys/kernel/profiling /etc /usr /root /srv /run /var; do test -w $name && echo $name; done; true"
        equal(g.oob.run(f"nsenter -t {g.agent_pid()} -m sh -c '{writable}'").split(), ["/sys/kernel/rcu_expedited", "/run", "/var"],
              "what is writable")
        # A mount that is newer than the service.
        g.oob.run("modprobe loop; truncate -s 64M /var/tmp/late.img && mkfs.ext4 -q /var/tmp/late.img && mkdir -p /mnt/private/late "
                  "&& chown nobody /mnt/private && chmod 700 /mnt/private && mount -o loop /var/tmp/late.img /mnt/private/late")
        g.oob.run("touch /run/mariadb-in-use; systemctl start mariadb", timeout=120)
        put(g, "#!/bin/sh\n{ id -un; cat /proc/sys/kernel/hostname; echo x >/proc/sys/vm/swappiness; mount -t tmpfs x /mnt; "
               "[ $1 = thaw ] || mariadb -h 127.0.0.1 -e 'SELECT 1'; } >/run/hook-said-$1 2>&1\n", f"{harm.HOOKS}/61-limits", "755")
        try:
            g.oob.run(f"rm -f {harm.STAMPS}")
            equal(g.ask("guest-fsfreeze-freeze", timeout=120), 3, "filesystems frozen, the late one among them")
            equal(g.oob.run("pidof mariadbd || echo none").strip(), "none", "the database, stopped by its hook")
            agent = status_of(g, g.agent_pid())
            guardian, = g.guardians()
            found = status_of(g, guardian)
            holds(agent["VmLck"] != "0 kB" and found["VmLck"] != "0 kB", f"both are locked into memory: {agent['VmLck']}, {found['VmLck']}")
            equal(g.oob.run(f"cat /proc/{guardian}/oom_score_adj").strip(), "-1000", "the guardian's OOM score")
            group = g.oob.run(f"cat /proc/{guardian}/cgroup")
            holds("qemu-ga-guardian" in group, f"the guardian has left the service's group: {group}")
            late = g.oob.start("echo x >/root/late && echo x >/data/late && echo x >/mnt/private/late/late")
            holds(late.wait(1)[0] is None, "a write waits while frozen")
            equal(g.ask("guest-fsfreeze-thaw", timeout=120), 3, "filesystems thawed")
            equal(late.wait(20)[0], 0, "the held write")
            harm.hooks_are_paired(g)
            equal(g.oob.run("systemctl is-active mariadb").strip(), "active", "the database after the thaw")
            run = g.ask("x-guest-fsfreeze-report")["reports"][0]
            equal({h["path"].rpartition("/")[2]: h["status"] for h in run["hooks"] if h["phase"] == "freeze"}.get("40-mariadb"),
                  {"exited": 0}, "the database hook")
            for phase in ("freeze", "thaw"):
                said = g.oob.run(f"cat /run/hook-said-{phase}").splitlines()
                equal(said[:2], ["root", "freeze-me"], f"whom the hook runs as, and where ({said})")
                holds("swappiness" in said[2] and "Read-only file system" in said[2], f"/proc/sys is not writable: {said}")
                holds(any("mount" in line and ("denied" in line or "permitted" in line) for line in said[3:]), f"no mounts: {said}")
            log = g.oob.run("journalctl -b -u qemu-guest-agent -o cat --no-pager")
            holds("profile backup:" not in log, f"every limit applies, and no system call was refused: {log}")
            exposure = g.oob.run("systemd-analyze security --no-pager qemu-guest-agent | tail -1")
            holds(float(exposure.partition(": ")[2].split()[0]) < 3, f"the exposure is below 3.0: {exposure}")
        finally:
            g.thaw_anyway()
            g.oob.run(f"rm -f /run/mariadb-in-use {harm.HOOKS}/61-limits; systemctl stop mariadb; umount /mnt/private/late; "
                      "rm -rf /var/tmp/late.img /mnt/private", timeout=120)


@check("libvirt")
def hardening_backup_only_thaws_when_the_agent_is_killed(g):
    with packaged(g, "backup-only.conf"):
        put(g, f"[general]\n[qemu-ga-rs]\nfsfreeze-hold-limit={LIMIT}\n", CONF)
        restart(g)
        for hurt in ("systemctl kill --kill-who=main -s KILL", "systemctl stop"):
            g.oob.run(f"rm -f {harm.STAMPS}")
            equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
            g.oob.run(f"{hurt} qemu-guest-agent")
            late = g.oob.start("echo x >/root/late && echo x >/data/late")
            equal(late.wait(LIMIT + 30)[0], 0, f"a write that waited, after {hurt}")
            harm.hooks_are_paired(g)
            harm.no_guardian(g)
            g.oob.run("systemctl reset-failed qemu-guest-agent; systemctl start qemu-guest-agent")
            g.wait_agent(20)
            holds(harm.TARDY in g.refused("guest-fsfreeze-thaw"), "the late thaw is told")
            equal(g.ask("guest-fsfreeze-thaw"), 0, "the thaw after it")
