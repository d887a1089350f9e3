"""From Debian's qemu-guest-agent to qemu-ga-rs and back, as an unattended machine does it with apt and dpkg."""
import time

from lib import channel, paths
from lib.packages import CONF, DEBIANS, DEBIANS_NAME, HOOK, OUR_NAME, OURS, PATIENCE
from lib.report import check, equal, holds

EVERY = ("packages", "debian13", "sysvinit", "arm64")
SYSTEMD = ("packages", "debian13", "arm64")


def disabled(agent):
    return {c["name"] for c in agent.ask("guest-info")["supported_commands"] if not c["enabled"]}


@check(*EVERY)
def debians_agent_gives_way_and_comes_back_while_a_host_is_connected(g):
    g.afresh(DEBIANS)
    g.oob.run(f"mkdir -p /etc/qemu; printf '[general]\\nblock-rpcs=guest-exec\\n' >{CONF}")
    g.service("restart")
    g.answers()
    # The same connection of the host all the time.
    with channel.Agent(g.agent_path) as host:
        host.sync(20)
        equal(disabled(host), {"guest-exec"}, "disabled before")
        for name in (OUR_NAME, DEBIANS_NAME, OUR_NAME) if g.work.name == "packages" else (OUR_NAME, DEBIANS_NAME):
            package, other = (OURS, DEBIANS_NAME) if name == OUR_NAME else (DEBIANS, OUR_NAME)
            said = g.apt(package)[1]
            g.answers_soon(f"the installation of {name}", host)
            equal(disabled(host), {"guest-exec"}, f"disabled with {name}")
            equal(g.is_ours(), name == OUR_NAME, f"ours runs with {name}")
            equal(g.owner(), name, "owner of the binary")
            holds(g.starts_by_itself(), f"{name} would start at a boot")
            equal((g.state(name), g.state(other)[:1] in ("r", "")), ("ii ", True), f"states after installing {name}")
            holds("[general]" in g.oob.run(f"cat {CONF}") and "Configuration file" not in said, f"no question was asked:\n{said}")
    # What the other has left behind is its own only.
    g.dpkg(f"--purge {other}")
    equal(g.oob.run(f"test -x {HOOK} && test -f /etc/init.d/qemu-guest-agent && cat {CONF}"), "[general]\nblock-rpcs=guest-exec\n", "configuration")
    g.service("restart")
    g.answers()
    holds(g.active() and g.starts_by_itself(), "the service is active, and would start at a boot")


@check("packages")
def either_agent_gets_along_with_the_hook_master_that_is_there(g):
    g.afresh(DEBIANS)
    g.apt(OURS)
    holds("qemu-ga" in g.oob.run(f"grep -c ' hook ' {HOOK} && cat {HOOK}"), "the master is ours")
    g.oob.run("printf '#!/bin/sh\\necho \"$1\" >>/run/stamps\\n' >/etc/qemu/fsfreeze-hook.d/10-stamp; chmod 755 /etc/qemu/fsfreeze-hook.d/10-stamp")
    try:
        for package in (OURS, DEBIANS):
            if package == DEBIANS:
                g.apt(package)
            g.run_with_hooks()
            g.oob.run("rm -f /run/stamps")
            with g.agent() as agent:
                equal(agent.ask("guest-fsfreeze-freeze"), 2, f"filesystems frozen with {package}")
                equal(agent.ask("guest-fsfreeze-thaw"), 2, f"filesystems thawed with {package}")
            equal(g.oob.run("cat /run/stamps").split(), ["freeze", "thaw"], f"calls of the hook with {package}")
    finally:
        g.thaw_anyway()


@check(*SYSTEMD)
def a_fresh_installation_starts_quietly_and_an_upgrade_keeps_it(g):
    g.afresh(None)
    g.oob.run("udevadm trigger --action=change --subsystem-match=virtio-ports; udevadm settle")
    since = g.oob.run("date +%s").strip()
    g.dpkg(f"-i {OURS}")
    g.answers_soon("the installation")
    holds(g.oob.run(f"grep -c '^#block-rpcs=' {CONF}").strip() == "1", "a configuration file was made")
    noise = g.oob.run(f"journalctl -q -o cat -p warning --since=@{since} -u qemu-guest-agent", check=False).strip()
    equal(noise, "", "warnings at a normal start")
    old = g.agent_pid()
    g.dpkg(f"-i {OURS}")
    g.answers_soon("the upgrade")
    holds(g.agent_pid() not in (0, old), "the upgrade starts the new binary")
    equal(g.oob.run("systemctl show -p NRestarts --value qemu-guest-agent").strip(), "0", "restarts by systemd")
    g.dpkg(f"--purge {OUR_NAME}")
    equal(g.oob.run("ls -A /etc/qemu /etc/init.d/qemu-guest-agent /etc/logrotate.d/qemu-guest-agent 2>/dev/null; true"), "", "left after a purge")
    equal(g.oob.run("systemctl is-active qemu-guest-agent; true").strip(), "inactive", "service after a purge")


@check(*SYSTEMD)
def without_a_port_it_waits_and_a_port_that_is_plugged_in_starts_it(g):
    g.afresh(None)
    g.port(plugged=False)
    try:
        said = g.dpkg(f"-i {OURS}")[1]
        lines = [line for line in said.splitlines() if line.startswith("qemu-ga-rs: ")]
        equal(len(lines), 1, f"one line that says so, in:\n{said}")
        holds("starts when it gets one" in lines[0], lines[0])
        equal(g.oob.run("systemctl is-active qemu-guest-agent; true").strip(), "inactive", "service without a port")
    finally:
        g.port(plugged=True)
    g.answers(30)
    equal(g.oob.run("systemctl is-active qemu-guest-agent").strip(), "active", "service with a port")
    g.port(plugged=False)
    end = time.monotonic() + 30
    while g.oob.run("systemctl is-active qemu-guest-agent; true").strip() != "inactive":
        holds(time.monotonic() < end, "the service ends with its port")
        time.sleep(0.3)
    g.port(plugged=True)
    g.answers(30)


@check(*EVERY)
def the_package_s_own_tests_pass_in_the_guest(g):
    g.ours()
    for test in ("answers", "selftest"):
        text = (paths.ROOT / "debian/tests" / test).read_text()
        g.oob.run(f"cat >/run/oob/{test} <<'END_OF_FILE'\n{text}END_OF_FILE")
        status, out, err = g.oob.start(f"sh /run/oob/{test} 2>&1").wait(PATIENCE)
        holds(status == 0, f"{test} ended with {status}:\n{out}{err}")
    g.answers()
