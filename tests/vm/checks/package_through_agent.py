"""Package operations that the host runs through guest-exec: they end before the agent does."""
import time

from lib import rpms
from lib.packages import DEBIANS, DEBIANS_NAME, OUR_NAME, OURS, PATIENCE
from lib.report import check, equal, holds

OTHER = "/root/other.deb"


def through_the_agent(g, program, *arguments):
    """Runs a program by guest-exec on one connection; returns its status and output."""
    with g.agent() as agent:
        pid = agent.ask("guest-exec", {"path": program, "arg": list(arguments), "env": ["DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                                       "capture-output": True})["pid"]
        end = time.monotonic() + PATIENCE
        while True:
            status = agent.ask("guest-exec-status", {"pid": pid})
            if status["exited"]:
                return status
            holds(time.monotonic() < end, f"{program} ends")
            time.sleep(0.5)


def another_package(g):
    """A package that is configured after ours."""
    g.oob.run("mkdir -p /root/other/DEBIAN && printf 'Package: zz-other\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@t.invalid>\\n"
              "Depends: qemu-ga-rs | qemu-guest-agent\\nDescription: other\\n' >/root/other/DEBIAN/control && "
              f"printf '#!/bin/sh\\nsleep 3\\n' >/root/other/DEBIAN/postinst && chmod 755 /root/other/DEBIAN/postinst && dpkg-deb -b /root/other {OTHER}",
              PATIENCE)


def wait_for_another(g, old):
    """Returns when another process is the agent."""
    end = time.monotonic() + PATIENCE
    while g.agent_pid() in (0, old):
        holds(time.monotonic() < end, "the agent is restarted after the operation")
        time.sleep(0.5)
    g.answers()


@check("packages", "debian13")
def a_package_operation_through_the_agent_ends_before_the_agent(g):
    g.afresh(OURS)
    another_package(g)
    try:
        old = g.agent_pid()
        result = through_the_agent(g, "/usr/bin/dpkg", "-i", OURS, OTHER)
        equal(result.get("exitcode"), 0, f"status of dpkg: {result}")
        equal((g.state(OUR_NAME), g.state("zz-other")), ("ii ", "ii "), "states of the packages")
        wait_for_another(g, old)
        # To the distribution's agent and back: neither way leaves the guest without one.
        for package, name in ((DEBIANS, DEBIANS_NAME), (OURS, OUR_NAME)):
            old = g.agent_pid()
            # Debian's package stops its service when it is removed, so only a unit of its own outlives that.
            words = ["-y", "-q", "--reinstall", "--allow-downgrades", "--no-install-recommends", "install", package]
            if name == OUR_NAME:
                result = through_the_agent(g, "/usr/bin/systemd-run", "--collect", "--quiet", "--unit=migration",
                                           "--setenv=DEBIAN_FRONTEND=noninteractive", "apt-get", *words)
            else:
                result = through_the_agent(g, "/usr/bin/apt-get", *words)
            equal(result.get("exitcode"), 0, f"status: {result}")
            end = time.monotonic() + PATIENCE
            while g.state(name) != "ii ":
                holds(time.monotonic() < end, f"{name} is installed")
                time.sleep(1)
            wait_for_another(g, old)
            equal(g.is_ours(), name == OUR_NAME, f"ours runs with {name}")
    finally:
        # apt holds dpkg's lock a little longer than the package's state shows.
        g.oob.run("while systemctl is-active -q migration; do sleep 0.2; done; dpkg --purge zz-other; rm -rf /root/other*", PATIENCE)


@check("rpm")
def an_upgrade_by_rpm_through_the_agent_ends_before_the_agent(g):
    g.afresh(None)
    g.rpm(f"-i {rpms.OURS}")
    # As packaged for RHEL the agent refuses guest-exec.
    g.oob.run("echo FILTER_RPC_ARGS= >/etc/sysconfig/qemu-ga; systemctl restart qemu-guest-agent")
    g.answers()
    old = g.agent_pid()
    result = through_the_agent(g, "/bin/sh", "-c", f"exec {rpms.RPM} --nodeps -U {rpms.NEWER}")
    equal(result.get("exitcode"), 0, f"status of rpm: {result}")
    equal(g.oob.run(f"rpm -q --qf '%{{release}}' {rpms.OUR_NAME}"), "1.1", "release")
    wait_for_another(g, old)
    holds(g.is_ours(), "ours runs")
