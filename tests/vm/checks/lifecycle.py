"""Restarts of everything that can restart: the agent, libvirtd, the guest."""
import time

from lib import channel, paths
from lib.report import check, equal, holds


@check("libvirt")
def service_runs_as_packaged_and_starts_quietly(g):
    g.oob.run("systemctl reset-failed qemu-guest-agent; systemctl restart qemu-guest-agent")
    g.wait_agent()
    pid = g.agent_pid()
    unit = (paths.ROOT / "debian/qemu-guest-agent.service").read_text()
    shown = g.oob.run("systemctl cat qemu-guest-agent").split("\n", 1)[1]
    equal(shown.strip(), unit.strip(), "the unit and what was dropped in")
    equal(g.oob.run(f"cat /proc/{pid}/comm").strip(), "qemu-ga", "process name")
    equal(g.oob.run(f"readlink /proc/{pid}/exe").strip(), "/usr/sbin/qemu-ga", "binary")
    noise = g.oob.run(f"journalctl -q -o cat -p warning _PID={pid}; journalctl -q -o cat _PID={pid} | grep -iE 'error|failed|warning'",
                      check=False).strip()
    equal(noise, "", "warnings and errors at a normal start")


@check("libvirt")
def service_restarts_and_answers_each_time(g):
    for turn in range(10):
        g.oob.run("systemctl reset-failed qemu-guest-agent; systemctl restart qemu-guest-agent")
        g.wait_agent(20)
        holds(g.ask("guest-info")["version"], f"guest-info after restart {turn + 1}")


@check("libvirt")
def service_stops_promptly(g):
    g.oob.run("systemctl reset-failed qemu-guest-agent")
    seconds = float(g.oob.run("a=$(date +%s%N); systemctl stop qemu-guest-agent; b=$(date +%s%N); echo $(( (b-a)/1000000 ))")) / 1000
    g.oob.run("systemctl start qemu-guest-agent")
    g.wait_agent(20)
    holds(seconds < 5, f"SIGTERM ends the agent at once, not after {seconds} s")


@check("libvirt")
def killed_while_frozen_stays_frozen_and_thaws(g):
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    old = g.agent_pid()
    # The write is sent before the kill: it must go on only after the new agent's thaw.
    held = g.oob.start("echo x >/root/after-kill")
    g.oob.run(f"kill -9 {old}")
    end = time.monotonic() + 30
    while g.agent_pid() in (0, old):
        holds(time.monotonic() < end, "systemd starts the agent again within 30 s")
        time.sleep(0.2)
    g.wait_agent(30)
    equal(g.ask("guest-fsfreeze-status"), "frozen", "status of the new agent")
    text = g.refused("guest-get-osinfo")
    holds("has been disabled" in text, f"the new agent refuses unsafe commands, not: {text}")
    holds(held.wait(0.5)[0] is None, "the guest is still frozen")
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed by the new agent")
    equal(held.wait(20)[0], 0, "the held write")
    equal(g.ask("guest-fsfreeze-status"), "thawed", "status")
    g.ask("guest-get-osinfo")


@check("libvirt")
def libvirtd_restarted_while_frozen(g):
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    g.daemon.stop()
    holds(g.oob.run("cat /proc/uptime", timeout=10), "the guest runs on without libvirtd")
    g.daemon.start()
    g.wait_agent(60)
    equal(g.ask("guest-fsfreeze-status"), "frozen", "status after libvirtd's restart")
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")


@check("libvirt")
def libvirtd_gone_for_a_while(g):
    pid = g.agent_pid()
    g.daemon.stop()
    try:
        woken = g.wakeups(pid, 5)
    finally:
        g.daemon.start()
    g.wait_agent(60)
    equal(g.agent_pid(), pid, "the agent's process id (it was not restarted)")
    holds(woken <= 1, f"no wakeups while nobody is connected, not {woken} in 5 s")


@check("libvirt")
def silent_host_costs_no_wakeups(g):
    g.ask("guest-ping")
    woken = g.wakeups(g.agent_pid(), 5)
    holds(woken <= 1, f"no wakeups while the host is silent, not {woken} in 5 s")


@check("libvirt", "newest-libvirt")
def virsh_reboot_and_the_agent_is_back(g):
    before = g.oob.run("cat /proc/sys/kernel/random/boot_id")
    g.virsh("reboot", "--mode", "agent")
    g.oob.close()
    end = time.monotonic() + 180
    while True:
        try:
            g.wait_booted()
        except channel.ChannelError:
            # Seen once on a busy machine: the emulator never ran the kernel after the reset that this one had asked for.
            if not g.console.read_text(errors="replace").rstrip().endswith("reboot: Restarting system"):
                raise
            print("     (the emulator did not start the kernel again: reset once more)", flush=True)
            g.virsh("reset")
            g.wait_booted()
        if g.oob.run("cat /proc/sys/kernel/random/boot_id") != before:
            break
        holds(time.monotonic() < end, "the guest reboots within 180 s")
        g.oob.close()
        time.sleep(0.5)
    g.wait_agent()
    equal(g.ask("guest-fsfreeze-status"), "thawed", "status after the reboot")
    equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
    equal(g.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
