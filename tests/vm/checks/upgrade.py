"""The original and the agent under test take over from each other, also while frozen.

These come last: afterwards the guest's service runs without hooks.
"""
from lib.guest import ORIGINAL_IN_GUEST
from lib.report import check, equal, holds


@check("raw")
def an_upgrade_while_frozen_can_thaw(g):
    # The original freezes, is replaced under way, and the agent under test finds its marker.
    g.run_agent(ORIGINAL_IN_GUEST)
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen by the original")
    g.run_agent("/usr/sbin/qemu-ga")
    held = g.oob.start("echo x >/root/after-upgrade")
    holds(held.wait(0.5)[0] is None, "the guest is still frozen")
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-status"), "frozen", "status after the upgrade")
        holds("error" in agent.command("guest-get-osinfo"), "unsafe commands are refused after the upgrade")
        equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
        equal(held.wait(20)[0], 0, "the held write")
        agent.ask("guest-get-osinfo")


@check("raw")
def a_downgrade_while_frozen_can_thaw(g):
    g.run_agent("/usr/sbin/qemu-ga")
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen by the agent under test")
    try:
        g.run_agent(ORIGINAL_IN_GUEST)
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-status"), "frozen", "the original's status")
            equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed by the original")
    finally:
        g.thaw_anyway()
        g.run_agent("/usr/sbin/qemu-ga")
