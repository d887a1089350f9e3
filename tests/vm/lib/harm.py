"""What the checks of the cannot_hurt family share: settings, writers that measure, hook stamps, and the state afterwards."""
import contextlib
import json
import time

from . import channel, paths
from .report import equal, holds

HOOKS = "/etc/qemu/fsfreeze-hook.d"
STAMPS = "/run/hooks.stamps"
DROP_IN = "/run/systemd/system/qemu-guest-agent.service.d"
TARDY = "the freeze was ended at "


def send(g, name):
    """Puts a program of tests/vm/probes into the guest's tmpfs."""
    text = (paths.VM / "probes" / name).read_text()
    g.oob.run(f"cat >/run/oob/{name} <<'END_OF_FILE'\n{text}END_OF_FILE")


def settle(g, unit="", **keys):
    """Restarts the agent with these keys of our own group (`_` for `-`) and these lines for its unit's [Service]."""
    lines = "\n".join(f"{key.replace('_', '-')}={value}" for key, value in keys.items())
    g.oob.run(f"printf '%s\\n' '[general]' '[qemu-ga-rs]' '{lines}' >/etc/qemu/qemu-ga.conf; mkdir -p {DROP_IN}; "
              f"printf '%b\\n' '[Service]' '{unit}' >{DROP_IN}/harm.conf; systemctl daemon-reload; "
              "systemctl reset-failed qemu-guest-agent 2>/dev/null; systemctl restart qemu-guest-agent")
    channel.wait_for_agent(g.agent_path, 60)


def only_light_hooks(g):
    """Leaves the stamping and the writing hook."""
    g.oob.run(f"cd {HOOKS} && rm -f [4-9]*")


@contextlib.contextmanager
def hook(g, name, script):
    """A hook for as long as the block lasts."""
    g.oob.run(f"cat >{HOOKS}/{name} <<'END_OF_FILE'\n#!/bin/sh\n{script}\nEND_OF_FILE\nchmod 755 {HOOKS}/{name}")
    try:
        yield
    finally:
        g.oob.run(f"rm -f {HOOKS}/{name}", timeout=30)


class Writers:
    """stall.py at work on some files."""

    def __init__(self, g, *files):
        send(g, "stall.py")
        self.g, self.files = g, files
        # Files of an earlier check would make the wait below end before these have begun.
        g.oob.run(f"rm -f /run/oob/stall.stop {' '.join(files)}")
        self.job = g.oob.start(f"python3 -B /run/oob/stall.py {' '.join(files)}")
        g.oob.run("until " + " && ".join(f"[ $(cat {f} | wc -l) -gt 5 ]" for f in files) + "; do sleep 0.05; done", timeout=30)

    def end(self):
        """Their results by file; none may have lost a line."""
        self.g.oob.run("touch /run/oob/stall.stop")
        status, out, err = self.job.wait(60)
        equal(status, 0, f"the writers' status ({err})")
        result = json.loads(out)
        equal({file: found["lost"] for file, found in result.items()}, {file: 0 for file in self.files}, "lost lines")
        return result


def stamps(g):
    """How often each stamping hook was told what: {(phase, hook): count}."""
    counts = {}
    for line in g.oob.run(f"cat {STAMPS} 2>/dev/null", check=False).splitlines():
        phase, _, name = line.split()
        counts[phase, name] = counts.get((phase, name), 0) + 1
    return counts


def hooks_are_paired(g, runs=1):
    """Each stamping hook was told to freeze and to thaw `runs` times; waits for the thaws a while."""
    wanted = {(phase, name): runs for phase in ("freeze", "thaw") for name in ("10-stamp", "30-stamp")}
    end = time.monotonic() + 20
    while stamps(g) != wanted and time.monotonic() < end:
        time.sleep(0.2)
    equal(stamps(g), wanted, "what the hooks were told how often")


def writable(g, *folders, timeout=20):
    """Files can be written and flushed in these folders."""
    for folder in folders:
        status, _, err = g.oob.start(f"echo x >{folder}/writable && sync {folder}/writable").wait(timeout)
        equal(status, 0, f"a write to {folder} ({err})")


def uptime(g):
    """The time of the kernel's log, in seconds since boot."""
    return float(g.oob.run("cut -d' ' -f1 /proc/uptime"))


def no_kernel_warnings(g, since):
    """The kernel has logged no hung task, warning or I/O error since that `uptime`."""
    pattern = "blocked for more than|hung task|possible recursive|BUG:|WARNING:|I/O error"
    found = g.oob.run(f"dmesg | grep -E '{pattern}' | awk -F'[][ ]+' '$2 > {since}' | head -n 5", check=False)
    equal(found, "", "hung tasks, warnings and I/O errors in the kernel's log")


def no_guardian(g):
    """No guardian process is left."""
    end = time.monotonic() + 10
    while (left := g.guardians()) and time.monotonic() < end:
        time.sleep(0.2)
    equal(left, [], "guardians that are left")


def told_once(g, reason):
    """The thaw that comes too late is told so, with the reason, exactly once."""
    with g.agent() as agent:
        # The guardian tells the agent when its hooks have ended and the report is written.
        end = time.monotonic() + 5
        while agent.ask("guest-fsfreeze-status") != "thawed" and time.monotonic() < end:
            time.sleep(0.1)
        equal(agent.ask("guest-fsfreeze-status"), "thawed", "status")
        answer = agent.command("guest-fsfreeze-thaw")
        text = answer.get("error", {}).get("desc", "")
        holds(text.startswith(TARDY) and reason in text, f"the late thaw's error ({TARDY}… {reason} …), not: {answer}")
        for _ in range(2):
            equal(agent.command("guest-fsfreeze-thaw"), {"return": 0}, "the thaw after it")
        return text


def reports(g):
    """The agent's reports, the newest first."""
    with g.agent() as agent:
        return agent.ask("x-guest-fsfreeze-report")["reports"]
