"""Any party of a freeze is killed or stopped at random moments: nothing stays frozen, no application stays asleep, no line is lost."""
import os
import random
import time

from lib import channel, harm
from lib.report import check, equal, holds
from .cannot_hurt_stack import data_is_clean, root_is_clean

KILLS = int(os.environ.get("QGA_VM_KILLS", "20"))
LIMIT = 3
FOLDERS = ("/root", "/data")
# By name: a command that prints the party's process ids inside the guest.
AGENT = "systemctl show -p MainPID --value qemu-guest-agent"
GUARDIAN = "grep -lsz '^guardian$' /proc/[0-9]*/cmdline | cut -d/ -f3"
PARTIES = {"agent": AGENT, "guardian": GUARDIAN, "both": f"{GUARDIAN}; {AGENT}",
           "master": "grep -lsz '^hook$' /proc/[0-9]*/cmdline | cut -d/ -f3"}
# Notes on tmpfs in which run it was called with what, when it begins and when it has done its work.
HOOK = """read run </run/run
echo "$run $1 begins" >>/run/hooks.runs
sleep 0.05
echo "$run $1 done" >>/run/hooks.runs"""


def unpaired(g):
    """Runs of which a freeze hook began whose last word is not a thaw that was done, and thaws that were done twice."""
    runs = {}
    for line in g.oob.run("cat /run/hooks.runs").splitlines():
        run, what = line.split(" ", 1)
        runs.setdefault(int(run), []).append(what)
    left = {run: words for run, words in runs.items() if "freeze begins" in words and words[-1] != "thaw done"}
    twice = {run: words for run, words in runs.items() if words.count("thaw done") > 1}
    return left, twice


def reconnect(g):
    """A synchronised connection to whichever agent is there now."""
    end = time.monotonic() + 60
    while True:
        try:
            agent = channel.Agent(g.agent_path)
            try:
                agent.send(b"\xff")
                agent.sync(1)
                return agent
            except (channel.ChannelError, OSError, ValueError):
                agent.close()
        except OSError:
            pass
        holds(time.monotonic() < end, "an agent answers within 60 s of the last one's death")
        time.sleep(0.05)


def one_run(g, chance):
    """A freeze and a thaw with a blow somewhere; afterwards whatever is left is thawed as a host would. Answers who was hit."""
    delay = chance.uniform(0, 0.7)
    party = chance.choice(list(PARTIES))
    # Agent and guardian both stopped, nobody is left who could thaw.
    signal = chance.choice(["KILL", "KILL", "STOP"]) if party != "both" else "KILL"
    blow = f"{party}, SIG{signal} after {delay:.3f} s"
    goes_on = "sleep 1; kill -CONT $pids" if signal == "STOP" else "true"
    # A master is there for a moment alone.
    tries = "50" if party == "master" else "1"
    killer = g.oob.start(f"sleep {delay:.3f}; for i in $(seq {tries}); do pids=$({PARTIES[party]}); [ -z \"$pids\" ] || break; done; "
                         f"[ -z \"$pids\" ] || {{ kill -{signal} $pids; {goes_on}; }}")
    try:
        with reconnect(g) as agent:
            agent.command("guest-fsfreeze-freeze", timeout=2)
            time.sleep(chance.uniform(0, 0.3))
            agent.command("guest-fsfreeze-thaw", timeout=2)
    except (channel.ChannelError, OSError, ValueError):
        pass
    killer.wait(20)
    with reconnect(g) as agent:
        answer = agent.command("guest-fsfreeze-thaw")
        if "error" in answer:
            answer = agent.command("guest-fsfreeze-thaw")
        holds("return" in answer, f"the thaw after {blow}: {answer}")
        equal(agent.ask("guest-fsfreeze-status"), "thawed", f"status after {blow}")
    harm.writable(g, *FOLDERS)
    return party


@check("harm")
def random_kills_leave_nothing_frozen(g):
    seed = int(os.environ.get("QGA_VM_SEED", "0")) or time.time_ns() % 100000
    chance = random.Random(seed)
    harm.only_light_hooks(g)
    harm.settle(g, fsfreeze_hold_limit=LIMIT)
    g.oob.run("rm -f /run/hooks.runs; echo 0 >/run/run")
    g.oob.run(f"cp -a {harm.HOOKS} /run/hooks.kept; rm -f {harm.HOOKS}/*")
    try:
        with harm.hook(g, "10-run", HOOK):
            writers = harm.Writers(g, *(f"{folder}/lines" for folder in FOLDERS))
            victims = {}
            for run in range(1, KILLS + 1):
                g.oob.run(f"echo {run} >/run/run")
                victims[run] = one_run(g, chance)
            left, twice = settled(g)
            # A hook that ends in the moment in which its master is killed is told once more.
            twice = {run: words for run, words in twice.items() if victims[run] != "master"}
            longest = max(found["worst"] for found in writers.end().values())
    finally:
        g.oob.run(f"cp -a /run/hooks.kept/* {harm.HOOKS}/; rm -rf /run/hooks.kept", timeout=30)
    print(f"     ({KILLS} kills, seed {seed}, longest stall {longest:.2f} s)", flush=True)
    equal(left, {}, f"runs whose hook was left asleep (seed {seed})")
    equal(twice, {}, f"runs whose hook was told twice to thaw (seed {seed})")
    holds(longest < LIMIT + 3, f"no stall beyond the hold limit, not {longest} s (seed {seed})")
    harm.no_guardian(g)
    root_is_clean(g)
    data_is_clean(g)


def settled(g):
    """The unpaired runs, once hooks that are still at work have had time to end."""
    end = time.monotonic() + 15
    while (found := unpaired(g))[0] and time.monotonic() < end:
        time.sleep(0.3)
    return found


@check("harm")
def a_freeze_hook_that_outlives_the_agent_is_thawed_after_it(g):
    # It takes its time to end when it is told to, as a database does; told to thaw before that, its application stays asleep.
    sleepy = """case $1 in
freeze) trap '' TERM; touch /run/oob/busy; sleep 2; touch /run/oob/asleep ;;
thaw) rm -f /run/oob/asleep /run/oob/busy ;;
esac"""
    harm.only_light_hooks(g)
    harm.settle(g, fsfreeze_hold_limit=LIMIT)
    g.oob.run(f"rm -f {harm.STAMPS} /run/oob/busy /run/oob/asleep")
    with harm.hook(g, "25-sleepy", sleepy):
        with g.agent() as agent:
            agent.send(b'{"execute":"guest-fsfreeze-freeze"}\n')
            g.oob.run("until [ -e /run/oob/busy ]; do sleep 0.05; done", timeout=30)
        g.oob.run(f"kill -9 {g.agent_pid()}")
        g.oob.run("until [ ! -e /run/oob/busy ]; do sleep 0.1; done; sleep 3", timeout=60)
        equal(g.oob.run("ls /run/oob/asleep 2>/dev/null", check=False), "", "an application left asleep")
    harm.no_guardian(g)
    equal(harm.stamps(g).get(("thaw", "10-stamp")), 1, "thaws of the hook that had frozen")
    channel.wait_for_agent(g.agent_path, 60)
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-thaw"), 0, "filesystems that had stayed frozen")
