"""FIGURES.md, the plot and the place in README.md, all from one file of figures."""
import itertools
import pathlib
import re

import cells
import figures
import measures
import plot

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
KEPT, PAGE, PLOT = HERE / "figures.json", HERE / "FIGURES.md", HERE / "figures.svg"
BEGIN, END = "<!-- figures: written by tests/bench/run --page -->", "<!-- /figures -->"
LEAST_ROUNDS = 3
BUSY = "the machine had other work to do during this run"
OUTCOMES = {"less": "less", "more": "**more**", "equal": "equal", "unclear": "unclear"}


def make(source):
    """What each file has to hold, by path, for the figures in `source`."""
    facts, known = figures.load(source)
    described = [measure.name for group in measures.GROUPS for measure in group.measures]
    # Files from before there was a matrix have none of it.
    if has_matrix(known):
        described += cells.names()
    missing, unknown = sorted(set(described) - known.keys()), sorted(known.keys() - set(described))
    if facts["rounds"] < LEAST_ROUNDS:
        raise figures.FiguresError(f"{source} has {facts['rounds']} rounds: a page needs {LEAST_ROUNDS}, to show how far they differ")
    if missing:
        raise figures.FiguresError(f"{source} lacks {', '.join(missing)}: a page needs a whole run, without --only")
    if has_matrix(known) and (absent := [fact for fact in figures.MATRIX_FACTS if facts.get(fact) is None]):
        raise figures.FiguresError(f"{source} lacks {', '.join(absent)}: a page needs a whole run, without --only")
    if unknown:
        raise figures.FiguresError(f"no text for {', '.join(unknown)}: add it to tests/bench/measures.py")
    return {KEPT: pathlib.Path(source).read_text(), PAGE: page(facts, known), PLOT: plot.draw(facts, known), README: readme(facts, known)}


def has_matrix(known):
    """Whether the run has measured the matrix of freezes."""
    return not known.keys().isdisjoint(cells.names())


def around():
    """README.md before and after the place of the plot."""
    text = README.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise figures.FiguresError(f"{README} must have one line {BEGIN} and one line {END}: the plot is between them")
    before, rest = text.split(BEGIN)
    return before, rest.split(END)[1]


def readme(facts, known):
    """README.md with the plot and the sentence under it put in anew."""
    before, after = around()
    noise = f" (provisional: {BUSY})" if busy(facts) else ""
    first = [panel.pairs[0] for panel in measures.PANELS]
    words = "; ".join(plot.in_words(known[name], f"{panel.title.lower()} ({label})") for panel, (name, label) in zip(measures.PANELS, first))
    shown = (f"[![{plot.title()}: {words}]({PLOT.relative_to(README.parent)})]({PAGE.relative_to(README.parent)})\n\n"
             f"Both agents in turn on one machine, {facts['date']}{noise}: [all {len(known)} figures, how each was taken, and where this agent "
             f"is no better]({PAGE.relative_to(README.parent)}).")
    return f"{before}{BEGIN}\n{shown}\n{END}{after}"


def page(facts, known):
    """The page."""
    parts = ["# Figures compared with the original\n",
             "What this agent costs a guest, and what QEMU's own agent costs the same guest. One command measures both in turn, in one run.\n",
             f"![{plot.title()}]({PLOT.name})\n", f"{summary(known)}\n"]
    if has_matrix(known):
        parts.append(matrix_summary(facts, known))
    parts += [contents(known), "## Conditions\n", conditions(facts)]
    for group in measures.GROUPS:
        parts += [f"## {group.title}\n", f"{group.about}\n", table(group, known), hows(group)]
    if has_matrix(known):
        parts.append(matrix(facts, known))
    return "\n".join(parts + ["## Repeat the run\n", AGAIN.format(minutes=facts["minutes"], rounds=facts["rounds"])])


AGAIN = """As root on Debian or Ubuntu, in the source tree:

```sh
cargo build --release --locked
tests/bench/run --page
```

This measures everything again, in {minutes} minutes for the {rounds} rounds above; the guest image is made once
before that. It writes this page, [figures.svg](figures.svg), `figures.json` with every single round, and the figures in
README.md. `tests/bench/run --page --from FILE` makes them from such a file, without measuring.
"""


def busy(facts):
    """Whether others have spoiled the figures."""
    return facts["others_percent"] > figures.BUSY_PERCENT


def summary(known):
    """How many are better, and by name all that are not."""
    by = {outcome: [measure.label for group in measures.GROUPS for measure in group.measures if known[measure.name].outcome() == outcome]
          for outcome in OUTCOMES}
    lines = [f"Of {sum(map(len, by.values()))} measures this agent needs less in {len(by['less'])}, in every round. Less is better in all of them.", ""]
    lines += [f"- {words}: {'; '.join(by[outcome]) or 'none'}." for outcome, words in
              (("more", "More, in every round"), ("equal", "Equal"), ("unclear", "Unclear, because the rounds of both overlap"))]
    return "\n".join(lines)


def matrix_summary(facts, known):
    """How busy the machine was, and by name every cell of the matrix in which this agent is worse."""
    before, after = facts["others_percent"], facts["others_percent_after_matrix"]
    quiet = "quiet" if max(before, after) <= figures.BUSY_PERCENT else "**not quiet**"
    worse = {}
    for scene in cells.scenes():
        for measure, _ in scene.measures():
            worse.setdefault(cells.label(measure), []).append((scene.name(measure), str(scene)))
    worse["memory"] = [(name, name) for name in cells.memory_names()]
    worse = {what: [f"{place} ({known[name].ratio():.2f})" for name, place in places if (known[name].ratio() or 0) > 1]
             for what, places in worse.items()}
    count = sum(map(len, worse.values()))
    lines = [f"Of {len(cells.names())} figures of [the whole matrix of freezes](#the-whole-matrix), this agent is worse (ratio above 1) in "
             f"{count or 'none'}. The machine was {quiet}: {before} % busy before it, {after} % after.", ""]
    lines += [f"- {what}: {'; '.join(places)}." for what, places in worse.items() if places]
    return "\n".join(lines).rstrip() + "\n"


def contents(known):
    """Links to the sections."""
    titles = ["Conditions", *(group.title for group in measures.GROUPS), *(["The whole matrix"] if has_matrix(known) else []), "Repeat the run"]
    return "Contents: " + ", ".join(f"[{title.lower()}](#{title.lower().replace(' ', '-')})" for title in titles) + "\n"


def conditions(facts):
    """Machine, guest and agents."""
    rows = [("date, rounds", f"{facts['date']}, {facts['rounds']} of each agent, in turn: ours, the original, ours, …"),
            ("this agent", facts["ours"]), ("the original", facts["original"]),
            ("machine", f"{facts['cores']} cores ({facts['processor']}), {facts['memory_gib']} GiB, {facts['system']}, Linux {facts['kernel']}; "
                        f"{facts['others_percent']} % busy before the run"),
            ("guest", f"QEMU {facts['guest_qemu']}, {facts['guest_accelerator']}, {facts['guest_cores']} processors, "
                      f"{facts['guest_memory_gib']} GiB, Linux {facts['guest_kernel']}")]
    if "size_date" in facts:
        rows.append(("this agent's size", f"measured again on {facts['size_date']}"))
    noise = f"\n\n**Provisional: {BUSY}, so that times are too long and differ too much.**" if busy(facts) else ""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {cell(value)} |" for name, value in rows)]) + noise + """

Times differ between machines: compare them only within a run. Measures that need mounts and loop devices are taken in the guest. Those that need
speed are taken on the machine itself, in a network namespace of its own. The tables have the median, and in brackets the least and the most of the
rounds. *Ratio* is this agent's median divided by the original's. It says *less* or *more* only if every round of the one is below every round of the
other.
"""


def cell(text):
    """Text that does not end the cell."""
    return str(text).replace("|", "\\|")


def table(group, known):
    """A row for each measure."""
    lines = ["| measure | this agent | the original | ratio |", "|---|---|---|---|"]
    for measure in group.measures:
        figure = known[measure.name]
        ratio = figure.ratio()
        outcome = OUTCOMES[figure.outcome()]
        lines.append(f"| {measure.label} | {' | '.join(spread(figure, side) for side in figures.SIDES)} | "
                     f"{outcome if ratio is None else f'{ratio:.3f}, {outcome}'} |")
    return "\n".join(lines) + "\n"


def matrix(facts, known):
    """The section of the matrix: a table for each setup of hooks and each state, and one of the memory after many freezes."""
    parts = ["## The whole matrix\n", measures.MATRIX.format(rounds=facts["matrix_rounds"])]
    for hooks, state in itertools.product(cells.HOOKS, cells.STATES):
        rows = [(f"{cells.filesystems(scene.count)}: {cells.label(measure)}", scene.name(measure))
                for scene in cells.scenes((hooks, state)) for measure, _ in scene.measures()]
        parts += [f"### {state.capitalize()}, {cells.HOOKS[hooks]}\n", small_table(rows, known)]
    memory = small_table([(name, name) for name in cells.memory_names()], known)
    return "\n".join(parts + ["### Memory after freezes\n", measures.MEMORY_AFTER, memory])


def small_table(rows, known):
    """`rows` are pairs of a label and a name."""
    lines = ["| measure | this agent | the original | ratio |", "|---|---|---|---|"]
    for label, name in rows:
        ratio = known[name].ratio()
        shown = "–" if ratio is None else f"**{ratio:.3f}**" if ratio > 1 else f"{ratio:.3f}"
        lines.append(f"| {label} | {' | '.join(spread(known[name], side) for side in figures.SIDES)} | {shown} |")
    return "\n".join(lines) + "\n"


def spread(figure, side):
    """The median, and in brackets least and most of the rounds if they differ."""
    median, least, most, unit = figure.shown(side)
    # A hyphen at which no line is broken.
    return f"{median} {unit}".rstrip() + (f" ({least}\u2011{most})" if least != most else "")


def hows(group):
    """What each measure means, and how it was taken; measures that were taken in the same way have one item."""
    means = "\n".join(f"- *{measure.label}:* {measure.means}." for measure in group.measures)
    ways = {}
    for measure in group.measures:
        ways.setdefault(measure.how, []).append(measure.label)
    taken = "\n".join(f"- *{'; '.join(labels)}:* {way}" for way, labels in ways.items())
    return f"What it means:\n\n{means}\n\nHow it was taken:\n\n{taken}\n"


def differing(files):
    """The paths whose content is not what it should be."""
    return [path for path, text in files.items() if not path.exists() or path.read_text() != text]


def write(files):
    """Writes what has changed, and says so."""
    for path in differing(files):
        path.write_text(files[path])
        print(f"written: {re.sub(f'^{re.escape(str(README.parent))}/', '', str(path))}")
