"""The .rpm under systemd, its scripts and all: installed, upgraded, erased, and swapped with the distributions' package."""
from lib import channel
from lib.report import check, equal, holds
from lib.rpms import NEWER, OUR_NAME, OURS, THEIR_NAME, THEIRS

SETTINGS, CONF, HOOK = "/etc/sysconfig/qemu-ga", "/etc/qemu-ga/qemu-ga.conf", "/etc/qemu-ga/fsfreeze-hook"
# More starts than systemd allows in ten seconds.
AGAIN = "systemctl reset-failed qemu-guest-agent; systemctl restart qemu-guest-agent"
BLOCKING = "FILTER_RPC_ARGS=--block-rpcs=guest-exec\nFSFREEZE_HOOK_PATHNAME=/etc/qemu-ga/fsfreeze-hook\n"


def disabled(agent):
    return {c["name"] for c in agent.ask("guest-info")["supported_commands"] if not c["enabled"]}


def put(g, path, text):
    g.oob.run(f"cat >{path} <<'END_OF_FILE'\n{text}END_OF_FILE")


@check("rpm")
def rpm_installs_upgrades_and_erases(g):
    g.afresh(None)
    since = g.oob.run("date +%s").strip()
    said = g.rpm(f"-i {OURS}")[1]
    g.answers_soon("the installation")
    equal(said, "", "what the installation says")
    holds(g.is_ours(), "ours runs")
    noise = g.oob.run(f"journalctl -q -o cat -p warning --since=@{since} -u qemu-guest-agent", check=False).strip()
    equal(noise, "", "warnings at a normal start")
    put(g, SETTINGS, BLOCKING)
    put(g, CONF, "[general]\nblock-rpcs=guest-get-users\n")
    before = g.oob.run(f"sha256sum {SETTINGS} {CONF}")
    old = g.agent_pid()
    said = g.rpm(f"-U {NEWER}")[1]
    g.answers_soon("the upgrade")
    equal(said, "", "what the upgrade says")
    holds(g.agent_pid() not in (0, old), "the upgrade starts the new binary")
    equal(g.oob.run(f"rpm -q --qf '%{{release}}' {OUR_NAME}"), "1.1", "release")
    equal(g.oob.run(f"sha256sum {SETTINGS} {CONF}; ls /etc/sysconfig /etc/qemu-ga | grep rpm; true"), before, "configuration")
    with g.agent() as agent:
        equal(disabled(agent), {"guest-exec", "guest-get-users"}, "disabled by command line and file")
    equal(g.restarts(), 0, "restarts by systemd")
    g.rpm(f"-e {OUR_NAME}")
    equal(g.oob.run("systemctl is-active qemu-guest-agent; true").strip(), "inactive", "service")
    left = g.oob.run("ls /usr/bin/qemu-ga /etc/sysconfig/qemu-ga* /etc/qemu-ga/* /etc/logrotate.d/qemu* 2>/dev/null; true").split()
    equal(sorted(left), [f"{CONF}.rpmsave", f"{SETTINGS}.rpmsave"], "what an erasure leaves of the configuration")


@check("rpm")
def rpm_swaps_with_the_distribution_s_and_back_while_a_host_is_connected(g):
    g.afresh(THEIRS)
    put(g, SETTINGS, BLOCKING)
    g.oob.run("systemctl restart qemu-guest-agent")
    g.answers()
    with channel.Agent(g.agent_path) as host:
        host.sync(20)
        equal(disabled(host), {"guest-exec"}, "disabled before")
        for old, new, package in ((THEIR_NAME, OUR_NAME, OURS), (OUR_NAME, THEIR_NAME, THEIRS)):
            g.swap(old, package)
            g.answers_soon(f"the swap to {new}", host)
            equal(disabled(host), {"guest-exec"}, f"disabled with {new}")
            equal(g.is_ours(), new == OUR_NAME, f"ours runs with {new}")
            equal(g.oob.run("rpm -qf --qf '%{name}' /usr/bin/qemu-ga"), new, "owner of the binary")
    equal(g.restarts(), 0, "restarts by systemd")


@check("rpm")
def rpm_comes_after_the_distribution_s_was_erased_and_goes_before_it_comes_back(g):
    g.afresh(THEIRS)
    put(g, SETTINGS, BLOCKING)
    for old, new, package in ((THEIR_NAME, OUR_NAME, OURS), (OUR_NAME, THEIR_NAME, THEIRS)):
        g.rpm(f"-e {old}")
        g.rpm(f"-i {package}")
        if new == THEIR_NAME:
            # The distribution's leaves the start to the next boot.
            g.oob.run("systemctl daemon-reload; systemctl start qemu-guest-agent")
        g.answers_soon(f"{new} came")
        equal(g.is_ours(), new == OUR_NAME, f"ours runs with {new}")
        equal(g.oob.run(f"cat {SETTINGS}.rpmsave"), BLOCKING, "the administrator's settings, put aside")
    equal(g.restarts(), 0, "restarts by systemd")


@check("rpm")
def rpm_s_unit_is_sound_and_its_settings_count(g):
    g.afresh(OURS)
    said = g.oob.run("systemd-analyze verify --man=no qemu-guest-agent.service 2>&1")
    equal([line for line in said.splitlines() if "qemu" in line], [], "systemd-analyze verify")
    put(g, "/root/master", "#!/bin/sh\necho \"$1\" >>/run/stamps\n")
    g.oob.run("chmod 755 /root/master")
    blocked = {"guest-exec", "guest-exec-status"}
    for text, wanted in (("FILTER_RPC_ARGS=--block-rpcs=guest-exec,guest-exec-status", blocked), ("BLOCK_RPCS=guest-exec,guest-exec-status", blocked),
                         ("BLACKLIST_RPC=guest-exec,guest-exec-status", blocked), ("QEMU_GA_ARGS=\"-b guest-exec -b guest-exec-status\"", blocked), ("", set())):
        put(g, SETTINGS, f"{text}\nFSFREEZE_HOOK_PATHNAME=/root/master\n")
        g.oob.run(AGAIN)
        g.answers()
        with g.agent() as agent:
            equal(disabled(agent), wanted, f"disabled with {text}")
    for text, stamps in (("FSFREEZE_HOOK_PATHNAME=/root/master", ["freeze", "thaw"]), ("FSFREEZE_HOOK_PATHNAME=/dev/null", []),
                         ("FSFREEZE_HOOK_PATHNAME=", ["freeze", "thaw"])):
        put(g, "/etc/qemu-ga/fsfreeze-hook.d/10-stamp", "#!/bin/sh\necho \"$1\" >>/run/stamps\n")
        g.oob.run("chmod 755 /etc/qemu-ga/fsfreeze-hook.d/10-stamp; rm -f /run/stamps")
        put(g, SETTINGS, f"{text}\n")
        g.oob.run(AGAIN)
        g.answers()
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 2, f"filesystems frozen with {text}")
            equal(agent.ask("guest-fsfreeze-thaw"), 2, f"filesystems thawed with {text}")
        equal(g.oob.run("cat /run/stamps 2>/dev/null; true").split(), stamps, f"hooks called with {text}")


@check("rpm")
def rpm_is_stopped_by_no_service_that_does_not_start(g):
    g.afresh(None)
    g.oob.run("systemctl mask qemu-guest-agent")
    try:
        for words in (f"-i {OURS}", f"-e {OUR_NAME}"):
            status, said = g.rpm(words, check=False)
            holds(status == 0 and "scriptlet failed" not in said, f"rpm {words} ended with {status}: {said}")
            equal(g.agent_pid(), 0, f"processes of a service that is masked, after rpm {words}")
    finally:
        g.oob.run("systemctl unmask qemu-guest-agent")


@check("rpm")
def rpm_waits_for_a_port_that_is_not_there(g):
    g.afresh(None)
    g.port(plugged=False)
    try:
        said = g.rpm(f"-i {OURS}")[1].splitlines()
        equal(len(said), 1, f"one line that says so, in {said}")
        holds("starts when it gets one" in said[0], said[0])
        equal(g.oob.run("systemctl is-active qemu-guest-agent; true").strip(), "inactive", "service without a port")
    finally:
        g.port(plugged=True)
    g.answers(30)
    equal(g.oob.run("systemctl is-active qemu-guest-agent").strip(), "active", "service with a port")
