"""Holds what came against what is to come, and the declared differences against docs/COMPAT.md."""
import re

from . import cases

COMPAT = cases.HERE.parents[1] / "docs/COMPAT.md"
# A process's number, and which release an agent says it is.
COMMON_MASKS = ((r'\{"pid": \d+\}', '{"pid": <PID>}'), (r'"version": "\d+\.\d+\.\d+", "sup', '"version": "<VERSION>", "sup'))


def rows():
    """First cell and last cell (the tests) of each row of COMPAT.md."""
    cells = [line.strip("| ").split(" | ") for line in COMPAT.read_text().splitlines() if line.startswith("| ")]
    return [(row[0], row[-1]) for row in cells if row[0] != "the original"]


def undeclared(case, table):
    """What is wrong with how `case` declares its differences; empty if nothing."""
    wrong = []
    declared = case.headers["compat"]
    if case.is_split() and not declared:
        wrong.append("it has replies that differ and no `compat:` line that names a row of COMPAT.md")
    if declared and not case.is_split():
        wrong.append("it has a `compat:` line and nothing that differs")
    for start in declared:
        found = [tests for original, tests in table if original.startswith(start)]
        if len(found) != 1:
            wrong.append(f"`compat: {start}` fits {len(found)} rows of COMPAT.md")
    return wrong


def stale_rows(known, table):
    """Rows of COMPAT.md that name a case which does not declare them."""
    for original, tests in table:
        for name in re.findall(r"`compliance::([^`]*)`", tests):
            if not any(case.name == name and any(original.startswith(c) for c in case.headers["compat"]) for case in known):
                yield f"COMPAT.md, `{original}`: no case {name} declares it"


def differences(case, outcomes, version):
    """What is wrong with the outcomes ("ours" and/or "theirs" to a list by step, or a text); empty if nothing."""
    wrong = [f"{side}: {came}" for side, came in outcomes.items() if isinstance(came, str)]
    if wrong:
        return wrong
    for number, step in enumerate(case.steps):
        came = {side: _masked(case, outcome[number]) for side, outcome in outcomes.items()}
        place = f"{case.file}:{step.line}: {step.kind} {_short(step.text)}"
        wrong += [f"{place}\n{problem}" for problem in _step(step, came, version)]
    return wrong


def _step(step, came, version):
    if not step.expected:
        if step.kind == "$":
            yield from (f"    {side}: {text}" for side, text in came.items() if "(status " in text)
        else:
            yield "    no reply is written for it" + "".join(f"\n    {side}: {text}" for side, text in came.items())
        return
    wanted = {side: step.wanted(side, version) for side in came}
    if any(text not in (cases.SAME, None, came[side]) for side, text in wanted.items()):
        told = [f"    {side}: {_short(came[side])}\n    wanted: {_short(wanted[side])}" if came[side] != wanted[side]
                else f"    {side}: as wanted" for side in came]
        stale = len(set(came.values())) == 1 < len(came) and step.differs(version)
        yield "\n".join(told) + ("\n    (the declared difference does not show: both are the same)" if stale else "")
    elif len(came) == 2 and not step.differs(version) and came["ours"] != came["theirs"]:
        yield f"    ours:   {_short(came['ours'])}\n    theirs: {_short(came['theirs'])}"
    elif len(came) == 2 and step.differs(version) and came["ours"] == came["theirs"]:
        yield f"    the declared difference does not show: both: {_short(came['ours'])}"


def _masked(case, text):
    for pattern, replacement in [*COMMON_MASKS, *case.masks()]:
        text = re.sub(pattern, replacement, text)
    return text


def _short(text):
    return text if len(text) < 1500 else f"{text[:900]} … {text[-500:]} ({len(text)} characters)"
