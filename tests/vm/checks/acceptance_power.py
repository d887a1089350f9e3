"""guest-shutdown in all its modes, seen by QEMU. The last checks: the guest is gone afterwards."""
import time

from lib.report import check, equal, holds

SECONDS = 120


def shut_down(g, **arguments):
    """Sends guest-shutdown; no answer may come but silence."""
    g.qmp.forget()
    with g.agent() as agent:
        agent.send(b'{"execute":"guest-shutdown","arguments":{%s}}\n' % b"".join(
            b'"%s":"%s"' % (key.encode(), value.encode()) for key, value in arguments.items()))
        yield
        equal(agent.pending, b"", "answers to guest-shutdown")


@check("devices")
def shutdown_of_an_unknown_mode_is_refused(g):
    with g.agent() as agent:
        desc = agent.command("guest-shutdown", {"mode": "sleep"})["error"]["desc"]
        equal(desc, "mode is invalid (valid values are: halt|powerdown|reboot", "the original's text, its parenthesis left open")
        equal(agent.ask("guest-ping"), {}, "guest-ping")


@check("devices")
def shutdown_by_reboot_resets_the_machine(g):
    boot = g.boot_id()
    for _ in shut_down(g, mode="reboot"):
        equal(g.qmp.event("RESET", SECONDS)["data"]["guest"], True, "the guest's own doing")
    g.await_start()
    holds(g.boot_id() != boot, "another boot")


@check("devices")
def shutdown_by_halt_stops_the_kernel_and_leaves_the_machine_on(g):
    mark = g.console.stat().st_size
    for _ in shut_down(g, mode="halt"):
        end = time.monotonic() + SECONDS
        while b"System halted" not in g.console.read_bytes()[mark:]:
            holds(time.monotonic() < end, f"the kernel halts within {SECONDS} s")
            time.sleep(0.2)
    equal(g.qmp.ask("query-status")["status"], "running", "QEMU's state")
    equal([event["event"] for event in g.qmp.events if event["event"] in ("SHUTDOWN", "RESET")], [], "QEMU's events")
    g.qmp.ask("system_reset")
    g.await_start()


@check("devices")
def shutdown_without_a_mode_powers_down_and_ends_qemu(g):
    for _ in shut_down(g):
        event = g.qmp.event("SHUTDOWN", SECONDS)
        equal(event["data"], {"guest": True, "reason": "guest-shutdown"}, "QEMU's event")
        equal(g.process.wait(SECONDS), 0, "QEMU's exit status")


def gone(g):
    """Waits until libvirt no longer knows the transient domain."""
    end = time.monotonic() + SECONDS
    while g.daemon.virsh("domstate", g.name, check=False).returncode == 0:
        holds(time.monotonic() < end, f"the guest is gone within {SECONDS} s")
        time.sleep(0.3)


@check("libvirt")
def virsh_dompmsuspend_and_dompmwakeup(g):
    g.virsh("dompmsuspend", "mem")
    end = time.monotonic() + 60
    while g.virsh("domstate").strip() != "pmsuspended":
        holds(time.monotonic() < end, "the guest sleeps")
        time.sleep(0.2)
    g.virsh("dompmwakeup")
    g.wait_agent(60)
    equal(g.virsh("domstate").strip(), "running", "state after the wake-up")


@check("libvirt")
def virsh_save_and_restore_is_a_migration_to_a_file(g):
    pid = g.agent_pid()
    file = g.work / "saved"
    g.oob.close()
    g.virsh("save", str(file), timeout=300)
    gone(g)
    # While the state lies in a file time goes on for the host alone.
    g.daemon.virsh("restore", str(file), timeout=300)
    file.unlink(missing_ok=True)
    g.wait_booted()
    g.wait_agent(60)
    equal(g.agent_pid(), pid, "the agent's process id")
    with g.daemon.domain(g.name) as domain:
        # As Nova does after a resume.
        domain.setTime({"seconds": int(time.time()), "nseconds": 0})
        equal(domain.fsFreeze(), 2, "fsFreeze() after the migration")
        equal(domain.fsThaw(), 2, "fsThaw()")


@check("libvirt", "newest-libvirt")
def virsh_shutdown_mode_agent(g):
    g.save_logs()
    g.virsh("shutdown", "--mode", "agent")
    gone(g)
