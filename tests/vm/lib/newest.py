"""The newest libvirt, with the QEMU beside it: from the backports of Debian 13, whatever release the machine is.

Nothing of it is installed: mmdebstrap unpacks the packages into a tree under .cache/vm, and what runs of them runs in a chroot of
the sandbox, on its mounts of the sandbox's own.
"""
import hashlib
import os
import pathlib
import shutil
import subprocess

from . import apt, image, paths, report

CODENAME = "trixie"
# The last has the locale C.UTF-8.
PACKAGES = [*(f"{name}/{CODENAME}-backports"
              for name in ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86")), "libc-bin"]
# Short, for a socket's path has no more than 107 bytes.
ROOT = pathlib.Path("/run/newest")

# The tree, or the reason why there is none.
_made = None


def ensure():
    """Makes the tree, unless it is cached. Outside of the sandbox, where the network is."""
    global _made
    try:
        sources = apt.sources(CODENAME, backports=True)
        key = hashlib.sha256("\n".join(sources).encode() + pathlib.Path(__file__).read_bytes()).hexdigest()[:16]
        _made = paths.CACHE / f"libvirt-{key}"
        if _made.exists():
            return
        for old in paths.CACHE.glob("libvirt-*"):
            shutil.rmtree(old)
        image.say(f"mmdebstrap of {' '.join(PACKAGES)}")
        unfinished = _made.with_name("unfinished-libvirt")
        shutil.rmtree(unfinished, ignore_errors=True)
        # Else apt takes the libraries of the release itself, which are too old for these.
        apt.unpack(CODENAME, sources, PACKAGES, unfinished, f'--aptopt=APT::Default-Release "{CODENAME}-backports"')
        # As base-files makes it when it is configured.
        (unfinished / "var/run").rmdir()
        (unfinished / "var/run").symlink_to("/run")
        unfinished.rename(_made)
    except SystemExit as reason:
        _made = reason


def enter(made):
    """Mounts the tree with what a daemon needs, and returns its root. Inside the sandbox. `made` is the guest's image."""
    if not isinstance(_made, pathlib.Path):
        raise report.Skip(f"no newer libvirt could be had: {apt.first_error(_made)}")
    ROOT.mkdir()
    mount("--bind", _made, ROOT)
    for folder in ("proc", "dev", "sys"):
        mount("--rbind", f"/{folder}", ROOT / folder)
    for folder in ("run", "etc/libvirt", *(f"var/{name}/libvirt" for name in ("lib", "cache", "log"))):
        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", ROOT / folder)
    for database in ("etc/passwd", "etc/group"):
        (ROOT / database).touch()
        mount("--bind", f"/{database}", ROOT / database)
    # The guests' files have the same paths inside.
    for folder in (paths.CACHE, made.resolve()):
        mount("--bind", folder, ROOT / folder.relative_to("/"))
    return ROOT


def mount(*words):
    """Runs mount(8) with the target as the last word, which is created."""
    target = pathlib.Path(words[-1])
    if not target.exists():
        os.makedirs(target)
    subprocess.run(["mount", *map(str, words)], check=True)
