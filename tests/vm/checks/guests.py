"""The packaged service in other guests than the main one: Debian 13, one whose init is sysvinit's, and one with another processor."""
import base64
import time

from lib import harm, image
from lib.packages import CONF, DEBIANS, DEBIANS_NAME, OUR_NAME, OURS, PORT
from lib.report import check, equal, holds
from .hooks import DATE, LOG, entry

ALL = ("debian13", "sysvinit", "arm64")
# By guest: its image, name and package of process 1.
MEANT = {"debian13": (image.DEBIAN13, "systemd", "systemd-sysv"), "sysvinit": (image.SYSVINIT, "init", "sysvinit-core"),
         "arm64": (image.ARM64, "systemd", "systemd-sysv")}
HOLD_LIMIT = 4
SCRIPT = "/etc/init.d/qemu-guest-agent"
# login(1) on a terminal of its own, as a getty starts it. It is not read: login hangs it up once, and the read would fail.
LOGIN = """
import os, pty
pid, terminal = pty.fork()
if pid == 0:
    os.execv('/bin/login', ['login', '-f', 'tu'])
os.waitpid(pid, 0)
"""


def stamping_hook(g):
    """A hook that notes what it is told, and fails where it cannot write to both filesystems."""
    g.oob.run(f"cat >{harm.HOOKS}/10-stamp <<'END_OF_FILE'\n#!/bin/sh\nset -e\n"
              "echo $1 >/root/stamp; echo $1 >/data/stamp; sync /root/stamp /data/stamp\n"
              f"echo $1 >>/run/stamps; echo stamped $1\nEND_OF_FILE\nchmod 755 {harm.HOOKS}/10-stamp; rm -f /run/stamps {LOG}")


@check(*ALL)
def release_and_init_are_those_that_are_meant(g):
    kind, name, package = MEANT[g.work.name]
    release = dict(line.split("=", 1) for line in g.oob.run("cat /etc/os-release").splitlines())
    equal(release["VERSION_CODENAME"], kind.release(), "release")
    equal(g.oob.run("cat /proc/1/comm").strip(), name, "name of process 1")
    equal(g.oob.run("dpkg -S $(readlink -f /sbin/init) 2>/dev/null || dpkg -S /sbin/init").split(":")[0],
          "systemd" if name == "systemd" else package, "package of process 1")
    equal(g.state(package), "ii ", f"state of {package}")
    equal(g.oob.run("test -d /run/systemd/system && echo there", check=False).strip(), "there" if name == "systemd" else "", "systemd's folder")
    g.ours()
    with g.agent() as agent:
        told = agent.ask("guest-get-osinfo")
    machine = {"arm64": "aarch64"}.get(kind.architecture, "x86_64")
    equal((told["id"], told["version-id"], told["machine"]), ("debian", release["VERSION_ID"].strip('"'), machine), "guest-get-osinfo")


@check(*ALL)
def commands_that_lean_on_the_release_work(g):
    g.ours()
    with g.agent() as agent:
        pid = agent.ask("guest-exec", {"path": "/bin/sh", "arg": ["-c", "cat /proc/1/comm"], "capture-output": True})["pid"]
        end = time.monotonic() + 20
        while not (got := agent.ask("guest-exec-status", {"pid": pid}))["exited"]:
            holds(time.monotonic() < end, "guest-exec ends")
            time.sleep(0.1)
        equal(base64.b64decode(got["out-data"]).decode(), g.oob.run("cat /proc/1/comm"), "what guest-exec printed")
        before = g.oob.run("getent shadow games")
        agent.ask("guest-set-user-password", {"username": "games", "password": base64.b64encode(b"S3cret-of-games").decode(), "crypted": False})
        holds(g.oob.run("getent shadow games") != before, "the password was set")
        agent.ask("guest-ssh-add-authorized-keys", {"username": "root", "keys": ["ssh-ed25519 AAAA guests"]})
        equal(agent.ask("guest-ssh-get-authorized-keys", {"username": "root"})["keys"], ["ssh-ed25519 AAAA guests"], "keys")
        week_ago = int(time.time()) - 7 * 86400
        try:
            equal(agent.ask("guest-set-time", {"time": week_ago * 10**9}), {}, "set-time")
            system, hardware = map(int, g.oob.run("echo $(date +%s) $(cat /sys/class/rtc/rtc0/since_epoch)").split())
            holds(0 <= system - week_ago < 20 and abs(hardware - system) <= 2, f"both clocks are a week back: {system}, {hardware}, {week_ago}")
        finally:
            agent.ask("guest-set-time", {"time": time.time_ns()})
        equal({entry["mountpoint"] for entry in agent.ask("guest-get-fsinfo")}, {"/", "/data"}, "filesystems")
        equal({link["name"] for link in agent.ask("guest-network-get-interfaces")}, set(g.oob.run("ls /sys/class/net").split()), "interfaces")
        other = [{"logical-id": 1, "online": False}]
        equal(agent.ask("guest-set-vcpus", {"vcpus": other}), 1, "a processor goes off")
        equal(g.oob.run("nproc").strip(), "1", "processors")
        equal(agent.ask("guest-set-vcpus", {"vcpus": [{"logical-id": 1, "online": True}]}), 1, "and on")


@check(*ALL)
def hooks_run_as_packaged_and_the_disks_are_held(g):
    g.ours()
    stamping_hook(g)
    try:
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
            equal(g.oob.run("cat /run/stamps"), "freeze\n", "hooks before the freeze")
            late = [g.oob.start(f"echo x >{where}/late") for where in ("/root", "/data")]
            holds(all(job.wait(1)[0] is None for job in late), "writes wait while frozen")
            equal(agent.ask("guest-fsfreeze-status"), "frozen", "status")
            guardian, = g.guardians()
            group = g.oob.run(f"cat /proc/{guardian}/cgroup").strip()
            print(f"    {g.work.name}: the guardian's control group: {group!r}", flush=True)
            holds("qemu-guest-agent" not in group, "the guardian is not in the service's control group")
            equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
            equal([job.wait(20)[0] for job in late], [0, 0], "the held writes")
            run = agent.ask("x-guest-fsfreeze-report")["reports"][0]
        equal(run["level"], "application", "level")
        lines = [DATE.sub("", line) for line in g.oob.run(f"cat {LOG}").splitlines()]
        equal(lines, entry("10-stamp", "freeze", ["stamped freeze"]) + entry("10-stamp", "thaw", ["stamped thaw"]), "the hook log")
        equal(g.oob.run("cat /root/stamp /data/stamp /run/stamps"), "thaw\nthaw\nfreeze\nthaw\n", "what the hook wrote")
    finally:
        g.thaw_anyway()


@check(*ALL)
def killed_or_stopped_while_frozen_ends_thawed(g):
    g.ours()
    stamping_hook(g)
    g.oob.run(f"printf '[general]\\n[qemu-ga-rs]\\nfsfreeze-hold-limit={HOLD_LIMIT}\\n' >{CONF}")
    g.service("restart")
    g.answers()
    # One that is stopped answers until the limit, and its service is stopped no sooner.
    for how in ("killed", "stopped"):
        g.oob.run("rm -f /run/stamps")
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
        late = g.oob.start("echo x >/root/late && echo x >/data/late")
        if how == "killed":
            g.oob.run(f"kill -9 {g.agent_pid()}")
        else:
            stopping = g.oob.start(g.service_command("stop"))
        holds(late.wait(0.5)[0] is None, f"a write waits though the agent is {how}")
        equal(late.wait(HOLD_LIMIT + 30)[0], 0, f"the held write, with the agent {how}")
        if how == "stopped":
            equal(stopping.wait(30)[0], 0, "the stop of the service, after the limit")
        harm.no_guardian(g)
        equal(g.oob.run("cat /run/stamps"), "freeze\nthaw\n", "what the hook was told")
        g.service("start")
        g.answers()
        harm.told_once(g, "")


@check("sysvinit")
def the_init_script_starts_and_stops_it(g):
    g.ours()
    g.service("stop")
    for action, status in (("status", 3), ("start", 0), ("status", 0), ("start", 0), ("restart", 0), ("force-reload", 0)):
        equal(g.oob.start(f"{SCRIPT} {action}").wait(60)[0], status, f"status of {action}")
        if status == 0:
            g.answers(20)
    pid = g.agent_pid()
    holds("--daemonize" in g.oob.run(f"tr '\\0' ' ' </proc/{pid}/cmdline"), "the pid file names the agent")
    equal(g.oob.run("pidof qemu-ga").split(), [str(pid)], "agents at work")
    # Killed: the file of its pid is left, and is no reason not to start.
    g.oob.run(f"kill -9 {pid}")
    equal(g.oob.start(f"{SCRIPT} status").wait(60)[0], 1, "status when dead with a pid file")
    g.service("start")
    g.answers(20)
    for _ in range(2):
        equal(g.oob.start(f"{SCRIPT} stop").wait(60)[0], 0, "status of stop")
    equal(g.oob.start(f"{SCRIPT} status").wait(60)[0], 3, "status when stopped")
    equal(g.oob.run("pidof qemu-ga; ls /run/qemu-ga.pid 2>/dev/null", check=False), "", "what is left of it")
    status, out, err = g.oob.start(f"{SCRIPT} sing").wait(60)
    holds(status == 3 and "start|stop|restart" in out + err, f"usage, not {status}: {out}{err}")


@check("sysvinit")
def either_package_finds_the_init_script_as_it_needs_it(g):
    # Both have it. Debian's comes for the first time, ours over what it has left before.
    g.afresh(OURS)
    for install, package, name in ((g.apt, DEBIANS, DEBIANS_NAME), (lambda file: g.dpkg(f"-i {file}"), OURS, OUR_NAME)):
        install(package)
        g.answers(20)
        holds(g.active() and g.starts_by_itself(), f"{name} runs, and would at a boot")
    # As docs/images.md says: this removes the links.
    g.dpkg(f"--purge {DEBIANS_NAME}")
    g.oob.run("update-rc.d qemu-guest-agent defaults")
    holds(g.active() and g.starts_by_itself(), f"{OUR_NAME} would start at a boot without what {DEBIANS_NAME} has left")
    g.afresh(None)
    equal(g.oob.run(f"ls -A {SCRIPT} /etc/rc?.d/*qemu-guest-agent /etc/qemu 2>/dev/null; pidof qemu-ga", check=False), "", "left after a purge")


@check("sysvinit")
def without_a_port_one_line_says_so(g):
    g.afresh(None)
    g.port(plugged=False)
    try:
        said = g.dpkg(f"-i {OURS}")[1]
        equal(said.count(PORT), 1, f"times that an installation says it, in:\n{said}")
        said = g.oob.run(f"{SCRIPT} start 2>&1")
        equal((len(said.splitlines()), PORT in said), (1, True), f"one line that names the port, in:\n{said}")
        equal(g.oob.start(f"{SCRIPT} status").wait(60)[0], 3, "status without a port")
        equal(g.oob.run("sleep 2; pidof qemu-ga", check=False), "", "agents without a port")
    finally:
        g.port(plugged=True)
    g.service("start")
    g.answers()
    # Taken away under it.
    g.port(plugged=False)
    try:
        time.sleep(1)
        pid = g.agent_pid()
        print(f"    without its port the agent {'waits' if pid else 'ends'}", flush=True)
        holds(not pid or g.wakeups(pid, 3) <= 1, "no wakeups without a port")
    finally:
        g.port(plugged=True)
    g.service("restart")
    g.answers()


@check("debian13")
def a_login_without_utmp_is_among_the_users(g):
    equal(g.oob.run("ls /run/utmp /var/run/utmp 2>/dev/null; true"), "", "files of utmp")
    g.oob.run(f"id tu >/dev/null 2>&1 || useradd -m -s /bin/sh tu; cat >/run/oob/login.py <<'EOF'\n{LOGIN}\nEOF")

    def users():
        with g.agent() as agent:
            return agent.ask("guest-get-users")

    def sessions(count):
        g.oob.run(f"for i in $(seq 200); do [ $(loginctl list-sessions --no-legend | awk '$3 == \"tu\" && $6 == \"user\"' | wc -l) = {count} ] && exit; "
                  "sleep 0.2; done; loginctl list-sessions; exit 1", timeout=90)

    g.ours()
    equal(users(), [], "users before")
    before = float(g.oob.run("date +%s.%N"))
    first = g.oob.start("python3 /run/oob/login.py")
    try:
        sessions(1)
        between = float(g.oob.run("date +%s.%N"))
        second = g.oob.start("python3 /run/oob/login.py")
        sessions(2)
        seen = users()
        equal([user["user"] for user in seen], ["tu"], "users while one is logged in twice")
        holds(before <= seen[0]["login-time"] <= between, f"the time is that of the first login: {before}, {seen}, {between}")
        g.afresh(DEBIANS)
        equal(users(), [], "users by the original, which reads utmp alone")
        g.ours()
        equal(users(), seen, "users after a change of the agent")
    finally:
        g.oob.run("pkill -KILL -u tu; true")
        first.wait(60), second.wait(60)
    sessions(0)
    equal(users(), [], "users after the logout")


@check(*ALL)
def a_reboot_by_the_agent_and_it_answers_again(g):
    g.ours()
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = g.oob.run(boot)
    g.reboot()
    waited = g.answers()
    print(f"    {g.work.name}: answers {waited:.1f} s after the out-of-band server", flush=True)
    holds(g.oob.run(boot) != before, "another boot")
    holds(g.is_ours() and g.active(), "our service is active")
    equal(g.oob.run("cat /proc/1/comm").strip(), MEANT[g.work.name][1], "name of process 1")
    if MEANT[g.work.name][1] == "systemd":
        noise = g.oob.run("journalctl -q -o cat -b -p warning -u qemu-guest-agent", check=False).strip()
        equal(noise, "", "warnings at a boot")


@check(*ALL)
def a_shutdown_by_the_agent_ends_qemu(g):
    g.ours()
    g.save_logs()
    g.guest_shutdown("powerdown")
    equal(g.process.wait(120), 0, "QEMU's exit status")
