"""Case files: what is asked of both agents, and what they are to answer.

A file of tests/compliance/cases holds cases like this one:

    case file-read
    compat: a partial read before an error is lost
    mask: "pid": \\d+ => "pid": <PID>
    args: -b guest-exec
    $ printf hello >/mnt/file
    > {"execute":"guest-file-open","arguments":{"path":"/mnt/file"}}
    < {"return": 1000}
    $ cat /run/calls
    = what the command is to print

`>` is a request and `<` its reply, both without the line feed that ends them; `⏎` is a line feed inside, `«XX»` the byte
XX, `«1000*[»` a thousand brackets. `?` is a request that is repeated until its reply no longer says `"exited": false`. `$` is a command for the shell; `=`
its output, line by line (no `=`: it must succeed, whatever it prints). `<PID>` in a request is the last pid that a reply
told. The agent starts at the first request, so what stands before it prepares its world.

A reply is `(nothing)`, or `(same)` where only the two agents can be compared. What differs on purpose has lines of its
own, `<ours`, `<theirs` (`=ours`, `=theirs`), and the case names the rows of docs/COMPAT.md that allow it, each by the
start of its first cell. `<theirs-10.0.5` is the reply of originals up to that version, `<theirs-10.0` that of its whole
line; later ones give the plain reply. `since: 11.1` leaves a case out with originals before that. Errors of the parser are written with their place in the input, which originals
before 11.1 do not tell.
"""
import dataclasses
import pathlib
import re

from . import noise

HERE = pathlib.Path(__file__).resolve().parents[1]
EXCHANGES = HERE.parent / "integration" / "exchanges.txt"
HEADERS = ("args", "compat", "env", "mask", "since", "without")
SAME = "(same)"
PLACES_SINCE = (11, 1)
PLACE = re.compile(r'"\d+:\d+: (?=JSON parse error, )')


@dataclasses.dataclass
class Step:
    """One request or command, and what is to come of it."""
    kind: str  # ">", "?" or "$"
    text: str
    line: int
    expected: dict = dataclasses.field(default_factory=dict)  # "", "ours", "theirs" or "theirs-VERSION" to text

    def wanted(self, side, version):
        """What `side` is to answer; None if nothing is said of it. `version` is the original's."""
        text = self.expected.get(side, self.expected.get(""))
        for key, older in self.expected.items():
            if side == "theirs" and key.startswith("theirs-") and _is_within(version, _version(key[7:])):
                text = older
                break
        if text is not None and side == "theirs" and version < PLACES_SINCE:
            text = PLACE.sub('"', text)
        return text if text is None else expand(text)

    def differs(self, version):
        """Whether the two sides are to answer differently."""
        return self.wanted("ours", version) != self.wanted("theirs", version)


@dataclasses.dataclass
class Case:
    """One fresh agent and what it is put through."""
    name: str
    file: str
    raw: bool = False  # requests are sent as they are, and replies end as they end
    headers: dict = dataclasses.field(default_factory=lambda: {key: [] for key in HEADERS})
    steps: list = dataclasses.field(default_factory=list)

    def is_split(self):
        """Whether anything in it may differ."""
        return any(key for step in self.steps for key in step.expected)

    def is_beyond(self, version):
        """Whether the original is too old for it."""
        return any(version < _version(since) for since in self.headers["since"])

    def masks(self):
        """Pairs of pattern and replacement."""
        return [tuple(re.split(" => ?", mask, maxsplit=1)) for mask in self.headers["mask"]]


def _version(text):
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _is_within(version, last):
    """Whether `version` is at most `last`, of which a part that is not given stands for all."""
    return version[:len(last)] <= last


def version(package):
    """The upstream part of a Debian version as a tuple of numbers."""
    return _version(package.split(":")[-1])


def load():
    """Every case, in the order of the files' names; the observed exchanges of tests/integration and the noise first."""
    cases = [_exchanges(), _noise()]
    for path in sorted((HERE / "cases").glob("*.txt")):
        cases += _read(path)
    names = [case.name for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise SystemExit(f"two cases are called {name}")
    return cases


def _exchanges():
    case = Case("exchanges", EXCHANGES.name, raw=True)
    case.headers["compat"].append("parse errors (until 10.0)")
    for number, line in enumerate(EXCHANGES.read_text().split("\n"), 1):
        if line.startswith("> "):
            case.steps.append(Step(">", line[2:], number))
        elif match := re.fullmatch("<(theirs-[0-9.]+|) (.*)", line):
            case.steps[-1].expected[match[1]] = match[2]
    return case


def _noise():
    case = Case("noise", "noise.py", raw=True)
    case.headers["since"].append("11.1")
    case.steps = [Step(">", decode(request), number, {"": SAME}) for number, request in enumerate(noise.requests(), 1)]
    return case


def _read(path):
    cases = []
    for number, line in enumerate(path.read_text().split("\n"), 1):
        place = f"{path.name}:{number}"
        if not line.strip() or line.startswith("#"):
            continue
        if match := re.fullmatch(r"case ([a-z0-9-]+)( raw)?", line):
            cases.append(Case(match[1], path.name, raw=bool(match[2])))
        elif match := re.fullmatch(rf"({'|'.join(HEADERS)}): (.*)", line):
            cases[-1].headers[match[1]].append(match[2])
        elif line[:2] in ("> ", "? ", "$ "):
            cases[-1].steps.append(Step(line[0], line[2:], number))
        elif match := re.fullmatch(r"([<=])(ours|theirs|theirs-[\d.]+|)(?: (.*)|)", line):
            _expect(cases[-1].steps[-1], match, place)
        else:
            raise SystemExit(f"{place}: not understood: {line}")
    return cases


def _expect(step, match, place):
    sign, side, text = match[1], match[2], match[3] or ""
    if (sign == "=") != (step.kind == "$"):
        raise SystemExit(f"{place}: `{sign}` does not go with `{step.kind}`")
    if side in step.expected:
        if sign == "<":
            raise SystemExit(f"{place}: a second reply")
        text = step.expected[side] + "\n" + text
    step.expected[side] = text


def expand(text):
    """Writes repetitions out."""
    return re.sub("«(\\d+)\\*([^»]+)»", lambda m: m[2] * int(m[1]), text)


def encode(text):
    """Bytes as case files write them."""
    parts = re.split("«([0-9A-F]{2})»", expand(text).replace("⏎", "\n"))
    return b"".join(bytes([int(part, 16)]) if i % 2 else part.encode() for i, part in enumerate(parts))


def decode(data):
    """The reverse of `encode`, for replies."""
    text = re.sub(rb"[^\n\x20-\x7e]", lambda m: b"\x00%02X\x01" % m[0][0], data).decode()
    return text.replace("\x00", "«").replace("\x01", "»").replace("\n", "⏎") or "(nothing)"
