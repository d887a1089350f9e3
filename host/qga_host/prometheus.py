"""Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/), as node_exporter's textfile collector reads it."""
import os
import tempfile


def escape(value):
    """A label's value."""
    return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


class Metrics:
    """Families of gauges, in the order of their first sample."""

    def __init__(self):
        self.families = {}

    def add(self, name, description, value, **labels):
        """A sample; none if the value is None."""
        if value is None:
            return
        shown = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
        number = repr(float(value)).removesuffix(".0")
        _, samples = self.families.setdefault(name, (description, []))
        samples.append(f"{name}{{{shown}}} {number}\n" if shown else f"{name} {number}\n")

    def lines(self):
        """The text, line by line: families must not be mixed."""
        for name, (description, samples) in self.families.items():
            yield f"# HELP {name} {description}\n# TYPE {name} gauge\n"
            yield from samples


def write_atomically(path, lines):
    """Replaces the file: a collector that reads meanwhile sees the old one or the new one. Raises OSError."""
    directory, name = os.path.split(os.path.abspath(path))
    # The collector reads *.prom only.
    handle, made = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
            # The collector runs as another user.
            os.fchmod(file.fileno(), 0o644)
        os.replace(made, path)
    except BaseException:
        os.unlink(made)
        raise
