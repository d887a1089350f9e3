"""Where the original is: Debian's own qemu-ga, unpacked and never installed, and the libraries it lacks here."""
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
VM = ROOT / "tests" / "vm"
sys.path.insert(0, str(VM))
from lib import apt, paths  # noqa: E402

LIBRARIES = ROOT / ".cache" / "compliance" / "libraries"


def fetch():
    """The binary, the version of its package, and the libraries to put beside it; downloads what is not there yet."""
    apt.run([str(VM / "original"), str(paths.ORIGINAL)], "fetching the original agent")
    binary = paths.original_binary()
    version = (paths.ORIGINAL / "VERSION").read_text().strip()
    missing = _missing(binary)
    if missing and not LIBRARIES.exists():
        _unpack_libraries(paths.ORIGINAL.with_name("libraries.apt"))
    found = [library for library in LIBRARIES.rglob("*.so*") if library.is_file()] if missing else []
    lacking = missing - {library.name for library in found}
    if lacking:
        raise SystemExit(f"the original agent lacks {', '.join(sorted(lacking))}: remove {LIBRARIES} and try again")
    return binary, version, found


def _missing(binary):
    lines = apt.run(["ldd", str(binary)], "looking at the original's libraries").splitlines()
    return {line.split()[0] for line in lines if "not found" in line}


def _unpack_libraries(private):
    """Unpacks the libraries on which the original's package depends and which are not installed here."""
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir(parents=True)
    try:
        options = apt.private_config(private, apt.sources(backports=True))
        apt.run(["apt-get", *options, "update", "-q"], "reading the package lists for the original's libraries")
        tree = apt.run(["apt-cache", *options, "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
                        "--no-breaks", "--no-replaces", "--no-enhances", "qemu-guest-agent"], "looking for its libraries")
        names = sorted({line for line in tree.splitlines() if line.startswith("lib") and not _installed(line)})
        apt.run(["apt-get", *options, "download", "-q", *names], "downloading the original's libraries", cwd=private)
        for package in private.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(LIBRARIES)], check=True)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _installed(package):
    return subprocess.run(["dpkg-query", "-W", package], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
