"""The runner: one function per check, one PASS, FAIL or SKIP line per check."""
import threading
import time
import traceback

REGISTRY = []


class Skip(Exception):
    """What a check needs cannot be had here; its text is the reason."""


def check(*kinds):
    """Registers a check for these kinds of guest (tests/vm/run makes them), in source order."""
    def register(function):
        REGISTRY.append((kinds, function))
        return function
    return register


def wanted(kind, only):
    """The checks of `kind` whose name, or the kind's, holds one of the words of `only`."""
    return [function for kinds, function in REGISTRY
            if kind in kinds and any(word in kind or word in function.__name__ for word in only)]


def shown(kind, function):
    """A check's name in the report; one that several kinds have names its guest."""
    several = any(function is other and len(kinds) > 1 for kinds, other in REGISTRY)
    return f"{kind}: {function.__name__}" if several else function.__name__


class Report:
    """Counts and prints results."""

    def __init__(self, log):
        self.passed, self.failed, self.log = 0, [], log
        # Two guests may be at work.
        self.lock = threading.Lock()

    def result(self, name, seconds, error=None):
        """Prints one line; the whole trace of a failure goes to the log directory."""
        with self.lock:
            self._result(name, seconds, error)

    def skip(self, name, reason):
        """Prints one line for what cannot be had here."""
        with self.lock:
            print(f"SKIP {name}: {reason}", flush=True)

    def _result(self, name, seconds, error):
        if error is None:
            self.passed += 1
            print(f"PASS {name} ({seconds:.1f} s)", flush=True)
            return
        self.failed.append(name)
        reason = str(error).strip() or type(error).__name__
        print(f"FAIL {name} ({seconds:.1f} s): {reason}", flush=True)
        with open(self.log / "failures.log", "a") as file:
            file.write(f"=== {name}\n{''.join(traceback.format_exception(error))}\n")

    def run(self, kind, guest, only):
        """Runs the wanted checks of `kind` one after the other."""
        for function in wanted(kind, only):
            name = shown(kind, function)
            started = time.monotonic()
            error = None
            try:
                function(guest)
            except Skip as reason:
                self.skip(name, reason)
                continue
            except Exception as caught:  # a check may fail in any way; the next one still runs
                error = caught
            self.result(name, time.monotonic() - started, error)
            if error is not None:
                guest.thaw_anyway()

    def close(self):
        """Prints the closing line; True if nothing failed."""
        print(f"{self.passed} passed, {len(self.failed)} failed", flush=True)
        return not self.failed


def equal(got, wanted, what):
    """Fails with both values when they differ."""
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def holds(condition, what):
    """Fails with `what` unless the condition holds."""
    if not condition:
        raise AssertionError(what)
