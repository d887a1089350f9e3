"""Programs for another processor on this machine: QEMU runs them, and the kernel's binfmt_misc knows when it has to."""
import contextlib
import pathlib
import tempfile

from . import apt

# The names in qemu-user-static's package.
RULES = {"arm64": "qemu-aarch64"}


@contextlib.contextmanager
def of(architecture):
    """While the block lasts. Where systemd is process 1 the package has set it up for good; elsewhere it is taken back at the end."""
    name = RULES.get(architecture)
    if name is None:
        yield
        return
    with tempfile.TemporaryDirectory() as directory:
        # What is mounted elsewhere, too, is the same.
        apt.run(["mount", "-t", "binfmt_misc", "binfmt_misc", directory], "mounting binfmt_misc")
        rule = pathlib.Path(directory, name)
        missing = not rule.exists()
        try:
            if missing:
                pathlib.Path(directory, "register").write_text(pathlib.Path("/usr/lib/binfmt.d", f"{name}.conf").read_text().strip())
            yield
        finally:
            if missing and rule.exists():
                rule.write_text("-1")
            apt.run(["umount", directory], "unmounting binfmt_misc")
