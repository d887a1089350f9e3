"""The matrix of freezes and the memory after many of them, on this machine itself in a namespace of sealed.py."""
import contextlib
import os
import pathlib
import select
import shutil
import statistics
import subprocess
import sys
import time

import cells
import hooks
import parts
import sealed
from lib import channel, paths

MANY = pathlib.Path("/m")
SMALL, LARGE = 32 << 20, 3 << 30
DIRTY_MB = 200
HOOK_COUNT = 5
PRIORITY = 10
MEMORY_FILESYSTEMS = 4
MEMORY_WAIT = 2
# The most that ours may grow to, of its own memory before the first freeze.
MEMORY_GROWTH = 1.05
WRITER_TIMEOUT = 60
# Before the freeze and after the thaw, so that the writers are at work.
MARGIN = 0.05


def measure(rows, work, rounds, only, words):
    """Appends the rows of the parts whose name holds `only` and of the cells that `words` choose; returns whether there are any."""
    scenes = cells.scenes(words) if only in "matrix" else []
    memory = only in "freeze-memory" and not words
    if not (scenes or memory):
        return False
    # A copy beside the original, which is seen inside: on a tmpfs, or mapped by others, pages of a program count otherwise.
    work.mkdir(parents=True, exist_ok=True)
    program = work / "qemu-ga"
    shutil.copy(paths.binary_under_test(), program)
    body = Body({"ours": program, "original": paths.original_binary()}, scenes, rounds, memory)
    kept, whole = sealed.run(body, work / "sealed", parts.NO_WRITEBACK)
    made = [parts.Row(scene.name(name), "ms", ratio=ratio) for scene in scenes for name, ratio in scene.measures()]
    for kind in cells.MEMORY_KINDS:
        before, *after = [parts.Row(cells.memory_name(kind, freezes), "KiB", ratio=1) for freezes in (0, *cells.MEMORY_COUNTS)]
        for row in after if before.name in kept else ():
            row.most = MEMORY_GROWTH * statistics.median(kept[before.name]["ours"])
        made += [before, *after]
    for row in made:
        row.runs = kept.get(row.name, row.runs)
    # What was cut short may lack a side.
    rows += [row for row in made if all(row.runs.values())]
    if not whole:
        raise sealed.SealedError("the matrix was not measured to its end")
    return True


class Body:
    """What is done inside the namespace; `runs` by the row's name and by side."""

    def __init__(self, programs, scenes, rounds, memory):
        self.programs, self.scenes, self.rounds, self.memory = programs, scenes, rounds, memory
        self.runs = {}

    def value(self):
        return self.runs

    def record(self, name, side, value):
        self.runs.setdefault(name, {each: [] for each in parts.SIDES})[side].append(value)

    def __call__(self):
        # Of all that is measured alike, so that other work on the machine disturbs less.
        os.nice(-PRIORITY)
        for count in cells.COUNTS:
            scenes = [scene for scene in self.scenes if scene.count == count]
            memory = self.memory and count == MEMORY_FILESYSTEMS
            if not (scenes or memory):
                continue
            with Filesystems(count) as mounted:
                if scenes:
                    with mounted.writers(scenes[0].writers()) as writers:
                        for kind in cells.HOOKS:
                            self.with_hooks(kind, [scene for scene in scenes if scene.hooks == kind], mounted, writers)
                if memory:
                    self.measure_memory(count)

    def with_hooks(self, kind, scenes, mounted, writers):
        """All scenes that differ in what is dirty only: by the same two agents, each of which has frozen once before."""
        if not scenes:
            return
        with contextlib.ExitStack() as stack:
            agents = {side: stack.enter_context(Agent(side, self.programs[side], kind)) for side in parts.SIDES}
            for agent in agents.values():
                agent.cycle(scenes[0].count)
            for scene in scenes:
                for turn, side in parts.alternate(self.rounds):
                    mounted.make_dirty(DIRTY_MB if scene.state == "dirty" else 0)
                    writers.start()
                    freeze, thaw = agents[side].cycle(scene.count)
                    stalls = writers.stop()
                    for name, value in {"freeze": freeze, "thaw": thaw, **stalls}.items():
                        self.record(scene.name(name), side, value)
                    shown = ", ".join(f"{name} {value:.1f}" for name, value in stalls.items())
                    parts.say(f"{scene}, run {turn}, {side}: freeze {freeze:.1f} ms, thaw {thaw:.1f} ms, write stalls (ms): {shown}")

    def measure_memory(self, count):
        """Memory of a fresh agent and of what it has started, before its first freeze and after many."""
        for turn, side in parts.alternate(self.rounds):
            with Agent(side, self.programs[side], "none") as agent:
                for _ in range(10):
                    agent.client.ask("guest-ping")
                done = 0
                for freezes in (0, *cells.MEMORY_COUNTS):
                    for _ in range(freezes - done):
                        agent.cycle(count)
                    done = freezes
                    time.sleep(MEMORY_WAIT)
                    memory, processes = agent.memory()
                    for kind, value in memory.items():
                        self.record(cells.memory_name(kind, freezes), side, value)
                    parts.say(f"memory after {freezes} freezes, run {turn}, {side}: resident {memory['resident']} KiB, "
                              f"private dirty {memory['private']} KiB, {processes} processes")


# --- filesystems and writers

class Filesystems:
    """The root and `count` - 1 more; the last mounted, which both agents freeze first, has room for what is dirty."""

    def __init__(self, count):
        self.places = [pathlib.Path("/"), *(MANY / str(number) for number in range(1, count))]

    def __enter__(self):
        for place in self.places[1:]:
            sealed.mount_image(sealed.HOLD / "images" / place.name, LARGE if place == self.places[-1] else SMALL, place)
        parts.say(f"{cells.filesystems(len(self.places))} mounted")
        return self

    def __exit__(self, *_):
        sealed.thaw_all()
        for place in self.places[:0:-1]:
            subprocess.run(["umount", str(place)], check=True)
            (sealed.HOLD / "images" / place.name).unlink()

    @contextlib.contextmanager
    def writers(self, names):
        """Writers for these places, ready to start."""
        # Its interpreter reads nothing from a filesystem that freezes.
        program = sealed.HOLD / "bin" / "writer.py"
        shutil.copy(paths.ROOT / "tests/bench/writer.py", program)
        # The agents freeze in the reverse order of the mounts, the root last.
        where = {"root": self.places[0], "first": self.places[-1], "last": self.places[min(1, len(self.places) - 1)]}
        writers = Writers({name: where[name] / "log" for name in names}, program)
        try:
            yield writers
        finally:
            sealed.thaw_all()
            writers.end()

    def make_dirty(self, megabytes):
        """Flushes all, then leaves that much unwritten on the filesystem that is frozen first; fails if it was written back at once."""
        fill = self.places[-1] / "fill"
        if fill.exists():
            fill.unlink()
        self.flush()
        if not megabytes:
            return
        # Gives the image's blocks back to memory.
        subprocess.run(["fstrim", str(self.places[-1])], check=True)
        before = self.written()
        block = b"\xa5" * (1 << 20)
        with open(fill, "wb", buffering=0) as file:
            for _ in range(megabytes):
                file.write(block)
        written = self.written() - before
        if written > megabytes / 20:
            raise RuntimeError(f"{written:.0f} of {megabytes} MB were written back before the freeze")

    def flush(self):
        """syncfs of each; sync would wait for the machine's disks, too."""
        for place in self.places:
            file = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sealed.libc.syncfs(file)
            finally:
                os.close(file)

    def written(self):
        """How many MB the device of the last one has been given."""
        device = os.stat(self.places[-1]).st_dev
        # Documentation/block/stat.rst: the seventh is sectors written.
        stat = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
        return int(stat[6]) / 2048


class Writers:
    """A writer.py for each file."""

    def __init__(self, files, program):
        self.processes = {name: subprocess.Popen([sys.executable, str(program), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                 bufsize=0) for name, file in files.items()}

    def start(self):
        for process in self.processes.values():
            process.stdin.write(b".")
        for name in self.processes:
            self.answer(name)
        time.sleep(MARGIN)

    def stop(self):
        """The longest gap of each, in ms."""
        time.sleep(MARGIN)
        for process in self.processes.values():
            process.stdin.write(b".")
        return {name: float(self.answer(name).split()[1]) for name in self.processes}

    def answer(self, name):
        process = self.processes[name]
        if not select.select([process.stdout], [], [], WRITER_TIMEOUT)[0]:
            raise RuntimeError(f"the writer on {cells.WRITERS[name]} stands still for {WRITER_TIMEOUT} s")
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the writer on {cells.WRITERS[name]} has ended")
        return line

    def end(self):
        for process in self.processes.values():
            process.stdin.close()
            process.wait()


# --- agents

class Agent:
    """One agent with its hook master, its state and a connection to it, all on the tmpfs."""

    def __init__(self, side, program, kind, options=()):
        self.side, self.hooks = side, HOOK_COUNT if kind == "five" else 0
        place = sealed.HOLD / "run" / side
        shutil.rmtree(place, ignore_errors=True)
        (place / "state").mkdir(parents=True)
        command = [str(program), "-m", "unix-listen", "-p", str(place / "socket"), "-t", str(place / "state"), *options]
        if kind != "none":
            master, self.log, _ = hooks.install(place / "hooks", side, {f"{number:03}": None for number in range(self.hooks)}, "")
            command.append(f"-F{master}")
        self.output = open(place / "output", "wb")
        # Its temporary files and whatever a hook writes: never on a filesystem that freezes.
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, cwd=sealed.HOLD,
                                        env=dict(os.environ, LC_ALL="C", TMPDIR="/tmp"))
        self.place = place

    def __enter__(self):
        try:
            self.client = channel.Agent(self.place / "socket")
            self.client.sync()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()

    def cycle(self, count):
        """Freezes and thaws at once; the time of each command in ms. Fails unless all `count` were frozen and every hook ran."""
        if self.hooks:
            self.log.write_text("")
        expedited = sealed.EXPEDITED.read_text()
        sealed.refuse_real_filesystems()
        try:
            frozen, freeze = self.timed("guest-fsfreeze-freeze")
            thawed, thaw = self.timed("guest-fsfreeze-thaw")
        except BaseException:
            # First, for it may freeze more.
            self.process.kill()
            self.process.wait()
            sealed.thaw_all()
            print((self.place / "output").read_text(), file=sys.stderr)
            raise
        if (frozen, thawed) != (count, count):
            raise RuntimeError(f"{self.side} froze {frozen} and thawed {thawed} of {count}")
        if self.hooks:
            good = sum(line.endswith(("finished with status=0", "finished successfully")) for line in self.log.read_text().splitlines())
            if good != 2 * self.hooks:
                raise RuntimeError(f"{self.side}: {good} of {2 * self.hooks} calls of hooks succeeded: {self.log.read_text()}")
        if sealed.EXPEDITED.read_text() != expedited:
            raise RuntimeError(f"{self.side} has left {sealed.EXPEDITED} changed: the other's figures would be wrong")
        return freeze, thaw

    def timed(self, command):
        started = time.perf_counter_ns()
        value = self.client.ask(command, timeout=120)
        return value, (time.perf_counter_ns() - started) / 1e6

    def memory(self):
        """Rss and private dirty memory of the agent and its descendants, in KiB, and how many processes these are."""
        total, pids = {"resident": 0, "private": 0}, descendants(self.process.pid)
        for pid in pids:
            rollup = dict(line.split()[:2] for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
            total["resident"] += int(rollup["Rss:"])
            total["private"] += int(rollup["Private_Dirty:"])
        return total, len(pids)


def descendants(pid):
    """The process and all below it."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found
