"""The guest is told to restart while it is frozen: the host's thaw is answered all the same, and the guest comes back."""
import time

from lib import channel, guest, harm
from lib.report import check, equal, holds

# When the host thaws.
SECONDS = 5
# From the freeze to the kernel's restart, without KVM; services that a frozen filesystem holds up are given 90 s each.
BOUND = 60
GOING_DOWN = "the system is going down"


def restarts(g, thaws):
    """Freezes, has the guest restart, and thaws a while later or not at all; it has to restart within the bound."""
    down = b"reboot: Restarting system"
    seen = g.console.read_bytes().count(down)
    started = time.monotonic()
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
        g.oob.start("systemctl --no-block reboot")
        if thaws:
            time.sleep(SECONDS)
            answer = agent.command("guest-fsfreeze-thaw", timeout=20)
            print(f"     (the thaw's answer: {answer})", flush=True)
            text = answer.get("error", {}).get("desc", "")
            holds(answer.get("return") == 2 or (harm.TARDY in text and GOING_DOWN in text),
                  f"an answer that tells what became of the freeze, not: {answer}")
    g.oob.close()
    while g.console.read_bytes().count(down) == seen:
        holds(time.monotonic() - started < BOUND, f"the guest restarts within {BOUND} s")
        time.sleep(0.1)
    print(f"     (restarted after {time.monotonic() - started:.0f} s)", flush=True)
    try:
        g.oob = channel.wait_for_oob(g.oob_path, 90)
    except channel.ChannelError:
        # Seen on a busy machine: the emulator never ran the kernel after the reset that this one had asked for.
        print("     (the emulator did not start the kernel again: reset once more)", flush=True)
        g.qmp.ask("system_reset")
        g.wait_booted()
    channel.wait_for_agent(g.agent_path, guest.BOOT_SECONDS)
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-status"), "thawed", "status after the restart")
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen again")
        equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed again")


@check("raw")
def rebooted_while_frozen_it_answers_the_thaw_and_restarts(g):
    restarts(g, thaws=True)


@check("raw")
def rebooted_while_frozen_it_restarts_though_nobody_thaws(g):
    restarts(g, thaws=False)
