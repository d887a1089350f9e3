"""The hold limit: whatever becomes of the agent or the host, nothing stays frozen for longer."""
import time

from lib import channel, harm
from lib.report import check, equal, holds

LIMIT = 3
FOLDERS = ("/root", "/data")
UNIT = "qemu-guest-agent"
LIMIT_PASSED = "no guest-fsfreeze-thaw came within the hold limit"


def held(g, hurt, mend=None, unit="", reason=LIMIT_PASSED, least=LIMIT - 0.2, host_stays=True, knows_hooks=True):
    """Freezes, does the harm, and looks at what is left when the limit has passed; the host's connection stays open until
    then unless `host_stays` is off. Without `knows_hooks` nobody is left who could report the freeze hooks."""
    harm.only_light_hooks(g)
    harm.settle(g, unit, fsfreeze_hold_limit=LIMIT)
    g.oob.run(f"rm -f {harm.STAMPS}")
    writers = harm.Writers(g, *(f"{folder}/lines" for folder in FOLDERS))
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
        if not host_stays:
            agent.close()
        late = g.oob.start(" && ".join(f"echo late >{folder}/late" for folder in FOLDERS))
        hurt(g)
        equal(late.wait(LIMIT + 30)[0], 0, "a write that waited for the limit")
    result = writers.end()
    # The filesystem that is frozen last is thawed first: its pause is what the limit is about.
    pause = min(found["worst"] for found in result.values())
    if mend:
        mend(g)
    channel.wait_for_agent(g.agent_path, 60)
    harm.hooks_are_paired(g)
    harm.told_once(g, reason)
    harm.writable(g, *FOLDERS)
    harm.no_guardian(g)
    equal(g.oob.run("ls /run/qga.state.isfrozen 2>/dev/null", check=False), "", "the marker")
    harm.hooks_are_paired(g)
    newest = harm.reports(g)[0]
    equal((newest.get("end"), newest["level"], len(newest["filesystems"])), ("expiry", "crash", 2), "the run's report")
    equal(sorted(h["phase"] for h in newest["hooks"]), ["freeze"] * 3 * knows_hooks + ["thaw"] * 3, "hooks in the report")
    print(f"     (stood still for {pause:.2f} s, limit {LIMIT} s)", flush=True)
    # The limit counts from the first FIFREEZE, the pause from the last.
    shortest = least - newest["stages"]["freeze"]
    holds(shortest <= pause <= LIMIT + 1, f"everything frozen for {LIMIT} s, at most 1 s more, not {pause} s")
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen again")
        equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed again")
    harm.hooks_are_paired(g, 2)


def kill(g):
    g.oob.run(f"kill -9 {g.agent_pid()}")


def start(g):
    g.oob.run(f"systemctl reset-failed {UNIT} 2>/dev/null; systemctl start {UNIT}")


@check("harm")
def hold_limit_with_a_healthy_agent(g):
    held(g, lambda g: None)


@check("harm")
def hold_limit_after_sigkill_without_restart(g):
    held(g, kill, start, unit="Restart=no")


@check("harm")
def hold_limit_after_sigkill_with_restart(g):
    held(g, kill)


@check("harm")
def hold_limit_after_sigkill_of_the_guardian_and_then_of_the_agent(g):
    def hurt(g):
        first = g.guardians()
        equal(len(first), 1, "guardians")
        g.oob.run(f"kill -9 {first[0]}")
        end = time.monotonic() + 2
        while not (others := [pid for pid in g.guardians() if pid not in first]):
            holds(time.monotonic() < end, "another guardian within 2 s")
        kill(g)
        equal(g.guardians(), others, "guardians once the agent is dead")
    held(g, hurt, start, unit="Restart=no")


@check("harm")
def hold_limit_after_sigkill_of_agent_and_guardian_at_once(g):
    def hurt(g):
        old = g.agent_pid()
        # None of them can act between their ends.
        g.oob.run(f"kill -STOP {old}; kill -9 {g.guardians()[0]}; kill -9 {old}")
    held(g, hurt, knows_hooks=False)


@check("harm")
def hold_limit_after_an_out_of_memory_kill_of_the_whole_service(g):
    def exhaust(g):
        old = g.agent_pid()
        hog = "x = bytearray(200 << 20)"
        g.oob.run(f"echo $$ >/sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs; exec python3 -c '{hog}'", check=False)
        # The kernel ends every process of the group at once, the agent among them.
        holds(g.agent_pid() != old, "the agent was killed with its group")
        holds("Memory cgroup out of memory" in g.oob.run("dmesg | tail -n 40"), "the kernel's word for it")
    held(g, exhaust, unit="MemoryMax=60M\\nMemorySwapMax=0\\nOOMPolicy=kill")


@check("harm")
def hold_limit_after_the_kernel_picked_the_agent(g):
    def pick(g):
        old = g.agent_pid()
        g.oob.run(f"echo 1000 >/proc/{old}/oom_score_adj; echo f >/proc/sysrq-trigger; "
                  f"for i in $(seq 50); do [ -e /proc/{old}/exe ] || exit 0; sleep 0.1; done; exit 1")
    held(g, pick)


@check("harm")
def hold_limit_after_systemctl_stop(g):
    held(g, lambda g: g.oob.run(f"systemctl stop {UNIT}"), start)


@check("harm")
def hold_limit_after_systemctl_restart(g):
    held(g, lambda g: g.oob.run(f"systemctl restart {UNIT}"))


@check("harm")
def hold_limit_with_a_stopped_process(g):
    pids = []

    def stop(g):
        pids.append(g.agent_pid())
        g.oob.run(f"kill -STOP {pids[0]}")
    held(g, stop, lambda g: g.oob.run(f"kill -CONT {pids[0]}"))


@check("harm")
def hold_limit_with_the_host_gone_from_the_channel(g):
    # The port stays, nobody is at its other end: a backup program that has died.
    def look(g):
        ports = "/sys/kernel/debug/virtio-ports"
        found = g.oob.run(f"grep -l org.qemu.guest_agent.0 {ports}/* | xargs grep host_connected").split()
        equal(found, ["host_connected:", "0"], "the guest's word for who is at the other end of the agent's port")
    held(g, look, host_stays=False)


@check("harm")
def hold_limit_with_the_port_unplugged(g):
    # The device goes, systemd stops the service that is bound to it, and the host's socket is closed and removed. The agent
    # hears it first and thaws at once; its hooks must come to their end although the service is being stopped around them.
    def unplug(g):
        g.qmp.unplug("agent0")
        end = time.monotonic() + 20
        while True:
            try:
                g.qmp.ask("chardev-remove", id="qga0")
                break
            except channel.ChannelError:
                holds(time.monotonic() < end, "the port goes within 20 s")
                time.sleep(0.1)

    def plug(g):
        # A port that comes back while the service is still being stopped would not start it.
        g.oob.run(f"while systemctl is-active -q {UNIT} || systemctl list-jobs | grep -q {UNIT}; do sleep 0.1; done", timeout=60)
        address = {"type": "unix", "data": {"path": str(g.agent_path)}}
        g.agent_path.unlink(missing_ok=True)
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        g.qmp.ask("chardev-add", id="qga0", backend=backend)
        g.qmp.ask("device_add", driver="virtserialport", chardev="qga0", name="org.qemu.guest_agent.0", id="agent0")
    held(g, unplug, plug, reason="the host's channel is gone", least=0)


@check("harm")
def hold_limit_across_pause_and_resume(g):
    # The guest's own time counts: it stands still while the guest does.
    def pause(g):
        time.sleep(1)
        g.qmp.ask("stop")
        time.sleep(LIMIT + 1)
        g.qmp.ask("cont")
    held(g, pause)


@check("libvirt")
def hold_limit_across_virsh_suspend_and_resume(g):
    g.oob.run(f"printf '[qemu-ga-rs]\\nfsfreeze-hold-limit={LIMIT}\\n' >/etc/qemu/qemu-ga.conf; systemctl reset-failed {UNIT}; "
              f"systemctl restart {UNIT}")
    g.wait_agent()
    try:
        equal(g.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
        late = g.oob.start(" && ".join(f"echo late >{folder}/late" for folder in FOLDERS))
        g.virsh("suspend")
        time.sleep(LIMIT + 1)
        g.virsh("resume")
        equal(late.wait(LIMIT + 30)[0], 0, "a write that waited for the limit")
        text = g.refused("guest-fsfreeze-thaw")
        holds(harm.TARDY in text and LIMIT_PASSED in text, f"the late thaw's error, not: {text}")
        equal(g.ask("guest-fsfreeze-thaw"), 0, "the thaw after it")
    finally:
        g.oob.run(f"rm -f /etc/qemu/qemu-ga.conf; systemctl reset-failed {UNIT}; systemctl restart {UNIT}")
        g.wait_agent()
