"""The cells of the matrix of freezes: their names, their texts and what the project aims at. matrix.py measures them, page.py shows them."""
import dataclasses
import itertools

COUNTS = (1, 4, 20, 100)
STATES = {"clean": "clean", "dirty": "dirty"}
HOOKS = {"none": "no hook master", "empty": "an empty hook directory", "five": "5 hooks"}
WRITERS = {"root": "the root", "first": "the first frozen", "last": "the last frozen but the root"}
MEMORY_COUNTS = (10, 100)
MEMORY_KINDS = {"resident": "resident memory", "private": "private dirty memory"}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One kind of freeze; it is measured by its two commands and by a writer in each place."""

    count: int
    state: str
    hooks: str

    def __str__(self):
        return f"{filesystems(self.count)}, {self.state}, {HOOKS[self.hooks]}"

    def writers(self):
        """With one filesystem there is one place to write."""
        return ("root",) if self.count == 1 else tuple(WRITERS)

    def measures(self):
        """What is measured, and the most that ours may be divided by the original's."""
        yield "freeze", 1 / 5 if (self.count, self.state) == (100, "clean") else 1.05
        yield "thaw", 1.05
        for writer in self.writers():
            yield writer, 1 / 3 if self.state == "clean" else 1 / 10

    def name(self, measure):
        """The name of the row."""
        return f"{self}: {label(measure)}"


def filesystems(count):
    return f"{count} filesystem{'s' if count > 1 else ''}"


def label(measure):
    """A measure in words."""
    return f"write stall on {WRITERS[measure]}" if measure in WRITERS else f"{measure} command"


def scenes(words=()):
    """All scenes, or those that agree with `words`: of counts, of states and of hooks, each kind that is named at all."""
    chosen = [[value for value in kind if str(value) in words] or list(kind) for kind in (COUNTS, STATES, HOOKS)]
    return [Scene(*values) for values in itertools.product(*chosen)]


def unknown(words):
    """Words that `scenes` knows nothing of."""
    return [word for word in words if word not in {*map(str, COUNTS), *STATES, *HOOKS}]


def memory_name(kind, freezes):
    """The name of a row of the memory after so many freezes; 0 is before the first."""
    return f"{MEMORY_KINDS[kind]} " + (f"2 s after {freezes} freezes" if freezes else "before the first freeze")


def names():
    """Of all rows, in the order of the page."""
    return [scene.name(measure) for scene in scenes() for measure, _ in scene.measures()] + memory_names()


def memory_names():
    return [memory_name(kind, freezes) for kind in MEMORY_KINDS for freezes in (0, *MEMORY_COUNTS)]
