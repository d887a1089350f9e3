"""The figures of one run as they are kept: what was measured, on what, and the single rounds of both agents."""
import dataclasses
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import time

SIDES = ("ours", "original")
# From here on others spoil the figures.
BUSY_PERCENT = 15
LARGER = {"ms": "s", "µs": "ms"}
# What a page says of a run; parts.bench_guest adds the second line's.
FACTS = ("date", "rounds", "minutes", "ours", "original", "processor", "cores", "memory_gib", "others_percent", "system", "kernel",
         "guest_accelerator", "guest_qemu", "guest_cores", "guest_memory_gib", "guest_kernel")
# Besides, of a run that has measured the matrix.
MATRIX_FACTS = ("matrix_rounds", "others_percent_after_matrix")


class FiguresError(Exception):
    """A file of figures from which no page can be made."""


@dataclasses.dataclass
class Figure:
    """One measure: its rounds, `runs["ours"]` and `runs["original"]`."""

    name: str
    unit: str
    runs: dict

    def median(self, side):
        return statistics.median(self.runs[side])

    def ratio(self):
        """Ours by the original's; None where that is nothing."""
        original = self.median("original")
        return self.median("ours") / original if original > 0 else None

    def outcome(self):
        """How ours compares, judged by all rounds and not by the medians."""
        ours, original = self.runs["ours"], self.runs["original"]
        if min(ours) == max(ours) == min(original) == max(original):
            return "equal"
        if max(ours) < min(original):
            return "less"
        return "more" if min(ours) > max(original) else "unclear"

    def shown(self, side):
        """(median, least, most, unit) of one agent for people, in a unit that fits both agents."""
        medians = [self.median(each) for each in SIDES]
        factor, unit = scale(self.unit, min([value for value in medians if value > 0], default=0), max(medians))
        values = [value * factor for value in (self.median(side), min(self.runs[side]), max(self.runs[side]))]
        shown = [f"{value:.{places(values)}f}" for value in values]
        return *shown, unit

    def medians(self):
        """Both medians for people."""
        return [" ".join(part for part in (median, unit) if part) for median, _, _, unit in map(self.shown, SIDES)]


def scale(unit, least, most):
    """Factor and name of the unit in which people read values from `least` to `most`."""
    if unit == "KiB":
        return (1024 / 1e6, "MB") if most >= 1000 and least >= 100 else (1.024, "kB")
    # 61 ms and 1430 ms, but 0.11 s and 3.2 s.
    if unit in LARGER and most >= 1000 and least >= 100:
        return 1 / 1000, LARGER[unit]
    # Wakeups: the measure's name says that they are per second.
    return 1, unit.removeprefix("/s")


def places(values):
    """How many digits behind the point: three that count in the first value, none if all are round."""
    first = abs(values[0])
    if first >= 100 or all(value == round(value) for value in values):
        return 0
    return 1 if first >= 10 else 2 if first >= 0.1 else 3


def machine(ours, original, original_package):
    """Facts of this machine and of both agents; `original_package` is the version of Debian's package."""
    memory = re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    processor = re.search(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', pathlib.Path("/etc/os-release").read_text(), re.MULTILINE)
    return {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"), "ours": version(ours),
            "original": f"{version(original)}, package {original_package}", "processor": processor[1] if processor else os.uname().machine,
            "cores": os.cpu_count(), "memory_gib": round(int(memory[1]) / (1 << 20), 1), "system": system[1],
            # Without what its builder has appended.
            "kernel": re.match(r"[0-9.]*[0-9]", os.uname().release)[0]}


def others_percent(seconds=3):
    """How much of all processors' time is spent, in percent; asked before a run it is what others spend."""
    def times():
        return [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    before = times()
    time.sleep(seconds)
    spent = [after - earlier for earlier, after in zip(before, times())]
    # proc_stat(5): the fourth and fifth are idle and waiting for a disk.
    return round(100 * (1 - (spent[3] + spent[4]) / max(sum(spent), 1)))


def version(binary):
    """What the agent says of itself, in one line."""
    return " ".join(subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout.split())


def save(path, facts, rows):
    """Writes facts and rows (of parts.Row), one row a line; four digits tell all that is known."""
    lines = []
    for row in rows:
        kept = row.as_dict()
        kept["runs"] = {side: [float(f"{value:.4g}") for value in values] for side, values in kept["runs"].items()}
        lines.append(json.dumps(kept, ensure_ascii=False))
    facts = json.dumps(facts, ensure_ascii=False, indent=1)
    path.write_text(f'{{"facts": {facts},\n"rows": [\n' + ",\n".join(lines) + "\n]}\n")


def load(path):
    """(facts, figures by name) of a file that `save` wrote; says what is missing in it."""
    try:
        kept = json.loads(pathlib.Path(path).read_text())
        facts = kept["facts"]
        figures = {row["name"]: Figure(row["name"], row["unit"], row["runs"]) for row in kept["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FiguresError(f"{path}: no figures as tests/bench/run --json writes them: {error!r}") from error
    missing = [name for name in FACTS if facts.get(name) in (None, "")]
    missing += [f"rounds of {name}, {side}" for name, figure in figures.items() for side in SIDES if not figure.runs.get(side)]
    if missing:
        raise FiguresError(f"{path} lacks {', '.join(missing)}: a page needs a whole run, without --only")
    return facts, figures
