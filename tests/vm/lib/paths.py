"""Where things lie: the checkout, its git-ignored cache, and the binaries under test."""
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
VM = ROOT / "tests" / "vm"
CLIENTS = ROOT / "tests" / "clients"
GUEST_FILES = VM / "guest"
CACHE = ROOT / ".cache" / "vm"
ORIGINAL = CACHE / "original"
LOCK = CACHE / "lock"
LAST_RUN = CACHE / "last-run"


def target():
    """Where cargo builds for the packages."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


def binary_under_test():
    """The agent to test: $QGA_BIN, or the release build of this checkout."""
    path = pathlib.Path(os.environ.get("QGA_BIN") or ROOT / "target" / "release" / "qemu-ga").resolve()
    if not os.access(path, os.X_OK):
        raise SystemExit(f"{path} is not there: run `cargo build --release` first, or name a binary in QGA_BIN")
    return path


def original_binary(original=ORIGINAL):
    """Debian's own agent, unpacked by tests/vm/setup or tests/vm/original."""
    path = original / "usr/sbin/qemu-ga"
    if not path.exists():
        raise SystemExit(f"{path} is not there: run tests/vm/setup first")
    return path


def hook_master(binary):
    """The fsfreeze-hook that belongs to `binary`: $QGA_HOOK, the original's with the original, else this project's."""
    if os.environ.get("QGA_HOOK"):
        return pathlib.Path(os.environ["QGA_HOOK"]).resolve()
    ours, originals = ROOT / "hooks" / "fsfreeze-hook", ORIGINAL / "etc/qemu/fsfreeze-hook"
    return originals if binary == original_binary() or not ours.exists() else ours


def packages(original=ORIGINAL, architecture=""):
    """The .deb of this checkout (tests/package/build makes it) and Debian's own, to go from one to the other."""
    directory = target() / "packages" / architecture
    built = sorted(directory.glob("qemu-ga-rs_*.deb"))
    if len(built) != 1:
        raise SystemExit(f"{directory} has no .deb: run tests/package/build deb {architecture} first")
    return built[0], original / "package.deb"
