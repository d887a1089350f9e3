"""Where the original is: Debian's own qemu-ga with the libraries of its own release, unpacked and never installed.

The newest that the machine can get: sid's, else that of Debian 13; where apt knows no mirror of Debian's, that of the
machine's own release. With the libraries of its release it needs none of the machine's: it names the loader and them by path.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "vm"))
from lib import apt  # noqa: E402

CACHE = ROOT / ".cache" / "compliance"
RELEASES = ("sid", "trixie")
# Where the worlds have it (world.py).
LIBRARIES = "/usr/local/lib/original"


def fetch():
    """The program, the version of its package and its libraries; downloads what is not there yet.

    $QGA_ORIGINAL is the codename of the only release to look at.
    """
    releases = RELEASES if apt.os_release().get("ID") == "debian" else (apt.codename(),)
    if only := os.environ.get("QGA_ORIGINAL"):
        releases = (only,)
    for release in releases:
        try:
            return _unpacked(release)
        except SystemExit as failure:
            print(f"no original of {release}: {failure}", flush=True)
    raise SystemExit("there is no original to compare with")


def _unpacked(release):
    """What `fetch` returns, of one release."""
    target = CACHE / release
    if not (target / "VERSION").exists():
        part = CACHE / f"{release}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            _download(release, part)
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    binary = target / "qemu-ga"
    return binary, (target / "VERSION").read_text().strip(), sorted((target / "libraries").iterdir())


def _download(release, part):
    private, tree, libraries = part / "apt", part / "tree", part / "libraries"
    private.mkdir(parents=True)
    libraries.mkdir()
    options = apt.private_config(private, apt.sources(release))
    apt.run(["apt-get", *options, "update", "-q"], "reading the package lists for the original agent")
    newest = apt.newest(options, "qemu-guest-agent")
    apt.run(["apt-get", *options, "download", "-q", f"qemu-guest-agent={newest}", *_dependencies(options)],
            "downloading the original agent and its libraries", cwd=private)
    for package in private.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(tree)], check=True)
    for library in tree.rglob("*.so*"):
        # Links are followed: what remains is the names that programs look for.
        if library.is_file() and b"\x7fELF" == library.read_bytes()[:4] and "gconv" not in library.parts:
            shutil.copy(library, libraries / library.name)
    shutil.copy(tree / "usr/sbin/qemu-ga", part / "qemu-ga")
    _bind(part / "qemu-ga", libraries)
    shutil.rmtree(private)
    shutil.rmtree(tree)
    (part / "VERSION").write_text(newest + "\n")


def _dependencies(options):
    """The packages of libraries on which the original's depends, directly or not."""
    tree = apt.run(["apt-cache", *options, "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
                    "--no-breaks", "--no-replaces", "--no-enhances", "qemu-guest-agent"], "looking for its libraries")
    return sorted({line for line in tree.splitlines() if re.match(r"lib|zlib", line)})


def _bind(binary, libraries):
    """Makes `binary` use the loader and the libraries of LIBRARIES; its children use the machine's."""
    loader = apt.run(["patchelf", "--print-interpreter", str(binary)], "looking for the original's loader").strip()
    if not (libraries / pathlib.Path(loader).name).exists():
        raise SystemExit(f"its loader {loader} is in no package on which it depends")
    # rpath and not runpath: the libraries are to find one another by it, too.
    apt.run(["patchelf", "--set-interpreter", f"{LIBRARIES}/{pathlib.Path(loader).name}", "--force-rpath",
             "--set-rpath", LIBRARIES, str(binary)], "naming the original's libraries")
