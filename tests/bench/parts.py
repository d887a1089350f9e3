"""The single measurements of tests/bench/run."""
import contextlib
import json
import os
import statistics
import subprocess
import time

import commands
import hooks
from lib import channel, guest, paths

SIDES = ("ours", "original")
IN_GUEST = {"ours": "/usr/sbin/qemu-ga", "original": guest.ORIGINAL_IN_GUEST}
# Without these the kernel writes most of what is dirty back by itself before the freeze comes.
NO_WRITEBACK = ("sysctl -qw vm.dirty_ratio=90 vm.dirty_background_ratio=80 vm.dirty_expire_centisecs=60000 "
                "vm.dirty_writeback_centisecs=60000")
SLOW_BYTES_PER_SECOND = 100_000_000
IDLE_SECONDS = 5


class Row:
    """One measure: the single runs of both sides, and what the project aims at."""

    def __init__(self, name, unit, ratio=None, most=None):
        self.name, self.unit, self.ratio, self.most = name, unit, ratio, most
        self.runs = {side: [] for side in SIDES}

    def add(self, side, value):
        self.runs[side].append(value)

    def median(self, side):
        return statistics.median(self.runs[side])

    def quotient(self):
        original = self.median("original")
        return self.median("ours") / original if original > 0 else None

    def show(self, value):
        return f"{value:.0f} {self.unit}" if value >= 100 or value == int(value) else f"{value:.3g} {self.unit}"

    def show_ratio(self):
        quotient = self.quotient()
        return "-" if quotient is None else f"{quotient:.3f}"

    def target_text(self):
        wanted = []
        if self.ratio is not None:
            wanted.append(f"ratio ≤ {self.ratio:.3g}")
        if self.most is not None:
            wanted.append(f"≤ {self.show(self.most)}")
        return ", ".join(wanted)

    def verdict(self):
        if self.ratio is None and self.most is None:
            return ""
        quotient = self.quotient()
        bad = (self.ratio is not None and quotient is not None and quotient > self.ratio
               or self.most is not None and self.median("ours") > self.most)
        return "MISSED" if bad else "met"

    def as_dict(self):
        return {"name": self.name, "unit": self.unit, "runs": self.runs, "median": {s: self.median(s) for s in SIDES},
                "ratio": self.quotient(), "target_ratio": self.ratio, "target_most": self.most, "verdict": self.verdict()}


def say(text):
    print(text, flush=True)


def measure(rows, made, work, rounds, only, facts):
    """Appends the rows of the parts whose name holds `only`, in a fixed order; adds to `facts` what the guest was."""
    work.mkdir(parents=True, exist_ok=True)
    if only in "size":
        rows += sizes(work)
    if only in "ping":
        rows += ping_here(work, rounds)
    for part, function in (("interfaces", commands.interfaces), ("files", commands.files), ("programs", commands.programs),
                           ("mixed", commands.mixed), ("hooks", hooks.hooks)):
        if only in part:
            rows += function(Row, alternate, say, work, rounds)
    in_guest = guest_parts()
    if need_guest(only):
        with bench_guest(made, work) as machine:
            facts |= guest_facts(machine)
            for part, function in in_guest:
                if only in part:
                    rows += function(machine, rounds)
            # The last: its mounts and loop devices would be frozen along.
            if only in "storage":
                rows += commands.storage(Row, alternate, say, machine, rounds, IN_GUEST)


def guest_parts():
    """Names and functions of what is measured in the guest, but for the last of it, storage."""
    return (("idle", idle), ("ping", ping_virtio), ("stall-slow-disk", stall_slow_disk), ("stall-loop", stall_loop),
            ("many-stall", stall_of_many), ("many-clean", many_clean))


def need_guest(only):
    """Whether one of the parts whose name holds `only` is measured in the guest."""
    return only in "storage" or any(only in part for part, _ in guest_parts())


def alternate(rounds):
    """ours, original, ours, original, …"""
    for turn in range(rounds):
        for side in SIDES:
            yield turn + 1, side


# --- on this machine: files, and guest-ping over a unix socket

def sizes(work):
    """The binary, stripped, and what the dynamic linker loads besides libc."""
    binary = Row("binary, stripped", "KiB", most=2.2e6 / 1024)  # README.md's budget
    libraries = Row("libraries besides libc", "KiB", ratio=1)
    for side, path in binaries().items():
        stripped = work / f"{side}.stripped"
        subprocess.run(["strip", "-o", str(stripped), str(path)], check=True)
        binary.add(side, stripped.stat().st_size / 1024)
        loaded = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
        files = [line.split("=>")[1].split()[0] for line in loaded.splitlines() if "=>" in line]
        libc = ("libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so")
        libraries.add(side, sum(os.path.getsize(f) for f in files if not os.path.basename(f).startswith(libc)) / 1024)
    return [binary, libraries]


def binaries():
    return {"ours": paths.binary_under_test(), "original": paths.original_binary()}


def ping_here(work, rounds, pings=3000):
    """guest-ping round trips over a unix socket, native speed."""
    median, slow = Row("ping, unix socket, p50", "µs", ratio=1), Row("ping, unix socket, p99", "µs")
    for turn, side in alternate(rounds):
        state = work / "state"
        state.mkdir(exist_ok=True)
        socket = work / "ping.sock"
        process = subprocess.Popen([str(binaries()[side]), "-m", "unix-listen", "-p", str(socket), "-t", str(state),
                                    "-a", "guest-ping,guest-sync-delimited,guest-info"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with channel.Agent(socket) as agent:
                agent.sync()
                times = pings_of(agent, pings)
        finally:
            process.kill()
            process.wait()
            socket.unlink(missing_ok=True)
        median.add(side, times[len(times) // 2])
        slow.add(side, times[len(times) * 99 // 100])
        say(f"ping here, run {turn}, {side}: p50 {times[len(times) // 2]:.1f} µs, p99 {times[len(times) * 99 // 100]:.1f} µs")
    return [median, slow]


def pings_of(agent, count):
    """Sorted round-trip times in µs; the first tenth warms up and is not counted."""
    request, answer = b'{"execute":"guest-ping"}\n', b'{"return": {}}'
    times = []
    for number in range(count + count // 10):
        started = time.perf_counter_ns()
        agent.send(request)
        got = agent.line(10)
        took = time.perf_counter_ns() - started
        if got != answer:
            raise channel.ChannelError(f"guest-ping answered {got!r}")
        if number >= count // 10:
            times.append(took / 1000)
    return sorted(times)


# --- in the guest

@contextlib.contextmanager
def bench_guest(made, work):
    """One guest with both agents and a throttled third disk; stopped and its disks removed in any case."""
    installed = guest.SERVICE + [(path, IN_GUEST[side], 0o755) for side, path in binaries().items()]
    disks = guest.Disks(made, work, installed)
    slow = work / "slow.img"
    with open(slow, "wb") as file:
        file.truncate(3 << 30)
    # Blocks that exist already: what is throttled is to be QEMU, not this machine's allocation.
    subprocess.run(["fallocate", "-l", "1G", str(slow)], check=False)
    machine = guest.RawGuest(disks, work, memory=3072, extra=[
        "-drive", f"file={slow},format=raw,if=virtio,cache=none,throttling.bps-write={SLOW_BYTES_PER_SECOND}"])
    try:
        machine.wait_booted()
        say("guest is up")
        yield machine
    finally:
        machine.save_logs()
        machine.stop()


def guest_facts(machine):
    """What the guest is, asked of QEMU and of the guest itself."""
    version, kvm = machine.qmp.ask("query-version")["qemu"], machine.qmp.ask("query-kvm")["enabled"]
    kernel, cores, memory = machine.oob.run("uname -r; nproc; awk '/^MemTotal:/ {print $2}' /proc/meminfo").split()
    return {"guest_qemu": f"{version['major']}.{version['minor']}.{version['micro']}",
            "guest_accelerator": "KVM" if kvm else "TCG (emulated, no KVM)", "guest_kernel": kernel, "guest_cores": int(cores),
            "guest_memory_gib": round(int(memory) / (1 << 20), 1)}


def idle(machine, rounds):
    """Wakeups with the host silent and gone, and memory, each in a fresh process that has answered a few requests."""
    gone, silent = Row("wakeups, host gone", "/s", most=0), Row("wakeups, host silent", "/s", most=0)
    rss, pss = Row("resident (Rss), idle", "KiB", ratio=1), Row("shared out (Pss), idle", "KiB")
    dirty, threads = Row("private dirty, idle", "KiB", ratio=1), Row("threads", "")
    for turn, side in alternate(rounds):
        pid = machine.run_agent(IN_GUEST[side])
        with machine.agent() as agent:
            for _ in range(10):
                agent.ask("guest-ping")
            silent.add(side, machine.wakeups(pid, IDLE_SECONDS) / IDLE_SECONDS)
        # The hang-up itself may wake the agent: it is not part of being gone.
        time.sleep(1)
        gone.add(side, machine.wakeups(pid, IDLE_SECONDS) / IDLE_SECONDS)
        # Rss of smaps_rollup is counted when read; VmRSS of status lags behind by what the kernel has not summed up yet.
        text = machine.oob.run(f"cat /proc/{pid}/status /proc/{pid}/smaps_rollup")
        values = {line.split()[0].rstrip(":"): line.split()[1] for line in text.splitlines() if len(line.split()) in (2, 3)}
        for row, key in ((rss, "Rss"), (pss, "Pss"), (dirty, "Private_Dirty"), (threads, "Threads")):
            row.add(side, int(values[key]))
        say(f"idle, run {turn}, {side}: {gone.runs[side][-1]:.1f}/s gone, {silent.runs[side][-1]:.1f}/s silent, "
            f"Rss {values['Rss']} KiB (VmRSS {values['VmRSS']}), Pss {values['Pss']} KiB, private dirty {values['Private_Dirty']} KiB")
    return [gone, silent, rss, pss, dirty, threads]


def ping_virtio(machine, rounds, pings=1000):
    """guest-ping round trips over virtio-serial into the emulated guest."""
    median, slow = Row("ping, virtio-serial, p50", "µs", ratio=1), Row("ping, virtio-serial, p99", "µs")
    for turn, side in alternate(rounds):
        machine.run_agent(IN_GUEST[side])
        with machine.agent() as agent:
            times = pings_of(agent, pings)
        median.add(side, times[len(times) // 2])
        slow.add(side, times[len(times) * 99 // 100])
        say(f"ping into the guest, run {turn}, {side}: p50 {times[len(times) // 2]:.0f} µs, p99 {times[len(times) * 99 // 100]:.0f} µs")
    return [median, slow]


def stall_slow_disk(machine, rounds):
    """300 MB dirty on a disk that takes 100 MB/s."""
    on_slow_disk(machine)
    return stall(machine, rounds, "slow disk", "/slow", 300, 1 / 10)


def stall_loop(machine, rounds):
    """600 MB dirty on a loop-mounted ext4 whose image lies in memory."""
    # Larger than its memory could hold: ext4 writes back by itself once half of the free space is promised.
    machine.oob.run("umount /slow 2>/dev/null; mkdir -p /images /loop && mount -t tmpfs -o size=1600M tmpfs /images && "
                    "truncate -s 2400M /images/loop.img && mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /images/loop.img && "
                    "modprobe loop && mount -o loop /images/loop.img /loop", timeout=120)
    return stall(machine, rounds, "fast loop mount", "/loop", 600, 1 / 6)


def stall(machine, rounds, name, where, megabytes, ratio):
    """How long a writer stands still at a freeze that is thawed at once, with much to write back."""
    machine.oob.run(NO_WRITEBACK)
    worst = Row(f"worst write stall, {name}, {megabytes} MB dirty", "ms", ratio=ratio)
    clean = Row(f"worst write stall, {name}, nothing dirty", "ms")
    freeze = Row(f"freeze command, {name}, {megabytes} MB dirty", "ms")
    for turn, side in alternate(rounds):
        machine.run_agent(IN_GUEST[side])
        for row, size in ((clean, 0), (worst, megabytes)):
            dirty = make_dirty(machine, where, size)
            gap, took = one_freeze(machine, where)
            row.add(side, gap)
            if size:
                freeze.add(side, took)
            say(f"stall, {name}, run {turn}, {side}, {dirty:.0f} MB dirty: writer stood still {gap:.0f} ms, freeze command {took:.0f} ms")
    return [worst, clean, freeze]


@contextlib.contextmanager
def loop_mounts(machine, count):
    """That many small ext4 filesystems, /many/1 and so on, on images in memory."""
    machine.oob.run("umount /loop 2>/dev/null; umount /images 2>/dev/null; modprobe loop; mkdir -p /many /many-images && "
                    "mount -t tmpfs -o size=1600M tmpfs /many-images && truncate -s 16M /many-images/0 && "
                    "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /many-images/0 && "
                    f"for i in $(seq {count}); do cp --sparse=always /many-images/0 /many-images/$i && mkdir -p /many/$i && "
                    "tune2fs -U random /many-images/$i >/dev/null && mount -o loop /many-images/$i /many/$i || exit 1; done", timeout=600)
    try:
        yield
    finally:
        machine.oob.run(f"for i in $(seq {count}); do umount /many/$i; done; umount /many-images", timeout=300)


def stall_of_many(machine, rounds):
    """20 filesystems, 300 MB dirty on one: how long a writer on another one, the last mounted, stands still."""
    on_slow_disk(machine)
    machine.oob.run(NO_WRITEBACK)
    stall, freeze = Row("worst write stall, 20 filesystems, 300 MB dirty on one", "ms", ratio=1 / 6), Row("freeze command, 20 filesystems", "ms")
    with loop_mounts(machine, 17):
        for turn, side in alternate(rounds):
            machine.run_agent(IN_GUEST[side])
            make_dirty(machine, "/slow", 300)
            gap, took = one_freeze(machine, "/many/17")
            stall.add(side, gap)
            freeze.add(side, took)
            say(f"20 filesystems, run {turn}, {side}: writer stood still {gap:.0f} ms, freeze command {took:.0f} ms")
    return [stall, freeze]


def many_clean(machine, rounds):
    """The freeze command over 100 loop filesystems with nothing to write back."""
    row = Row("freeze command, 100 clean loop filesystems", "ms", ratio=1)
    with loop_mounts(machine, 100):
        for turn, side in alternate(rounds):
            machine.run_agent(IN_GUEST[side])
            machine.oob.run("sync", timeout=120)
            with machine.agent() as agent:
                started = time.monotonic()
                count = agent.ask("guest-fsfreeze-freeze", timeout=120)
                took = (time.monotonic() - started) * 1000
                agent.ask("guest-fsfreeze-thaw", timeout=120)
            row.add(side, took)
            say(f"100 clean loop filesystems, run {turn}, {side}: {count} frozen in {took:.0f} ms")
    return [row]


def on_slow_disk(machine):
    """The slow disk at /slow."""
    machine.oob.run("mkdir -p /slow; mountpoint -q /slow || { mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vdc && "
                    "mount /dev/vdc /slow; }", timeout=120)


def make_dirty(machine, where, megabytes):
    """Leaves that much unwritten data behind and says how much the kernel has; fails if too much was written back."""
    # The trim gives a loop mount's image back to memory: else it fills up, as ext4 takes new blocks each time.
    machine.oob.run(f"rm -f {where}/*; sync; fstrim {where} || true; sync", timeout=120)
    if megabytes:
        machine.oob.run(f"dd if=/dev/zero of={where}/fill bs=1M count={megabytes} 2>/dev/null", timeout=120)
    dirty = int(machine.oob.run("awk '/^Dirty:/ {print $2}' /proc/meminfo")) / 1024
    if dirty < megabytes * 0.95:
        raise RuntimeError(f"only {dirty:.0f} of {megabytes} MB are still dirty")
    return dirty


def one_freeze(machine, where):
    """(worst gap of the writer, time of the freeze command), in ms."""
    # The log of an earlier turn would make the wait below end before the writer writes.
    machine.oob.run(f"rm -f /run/oob/writer.stop {where}/log")
    writer = machine.oob.start(f"python3 /run/oob/writer.py {where}/log 120")
    machine.oob.run(f"until [ -s {where}/log ]; do sleep 0.05; done; sleep 0.5")
    with machine.agent() as agent:
        started = time.monotonic()
        agent.ask("guest-fsfreeze-freeze", timeout=120)
        took = time.monotonic() - started
        agent.ask("guest-fsfreeze-thaw", timeout=120)
    machine.oob.run("sleep 0.5; touch /run/oob/writer.stop")
    status, out, err = writer.wait(60)
    if status != 0:
        raise RuntimeError(f"the writer ended with {status}: {err}")
    return json.loads(out)["worst_ms"], took * 1000
