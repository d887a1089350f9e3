"""A disk with MySQL, for checks/mysql.py: server and client of Debian's sid (no stable release has them), and what they link to.

No package of sid's is installed, here or in a guest: mmdebstrap unpacks them into a tree of their own. The server sets up its data
directory here, where it takes seconds, in namespaces of its own.
"""
import hashlib
import pathlib
import shutil
import time

from . import apt, image, paths, report

PACKAGES = ("mysql-server-core", "mysql-client-core")
SIZE = "1G"
# What the packages' scripts in Perl need; none of them is used.
UNUSED = ("usr/share/perl", "usr/share/perl5", "usr/share/doc", "usr/share/man", "usr/lib/x86_64-linux-gnu/perl",
          "usr/lib/x86_64-linux-gnu/perl-base")
INITIALIZE = "/usr/sbin/mysqld --no-defaults --user=root --initialize-insecure --datadir=/var/lib/mysql"

# The disk, or the reason why there is none.
_made = None


def disk():
    """The disk's image; skips the check where it could not be had."""
    if not isinstance(_made, pathlib.Path):
        raise report.Skip(f"no MySQL could be had: {apt.first_error(_made)}")
    return _made


def ensure():
    """Makes the disk, unless it is cached. Outside of the sandbox, where the network is."""
    global _made
    try:
        sources = apt.sources("sid")
    except SystemExit as reason:
        _made = reason
        return
    key = hashlib.sha256("\n".join(sources).encode() + pathlib.Path(__file__).read_bytes()).hexdigest()[:16]
    made = paths.CACHE / f"mysql-{key}"
    if (made / "complete").exists():
        _made = made / "disk.img"
        return
    for old in paths.CACHE.glob("mysql-*"):
        shutil.rmtree(old)
    made.mkdir(parents=True)
    started = time.monotonic()
    try:
        tree = made / "tree"
        image.say(f"mmdebstrap of sid with {' '.join(PACKAGES)}")
        try:
            apt.unpack("sid", sources, PACKAGES, tree)
        except SystemExit as reason:
            _made = reason
            shutil.rmtree(made)
            return
        _settle(tree)
        apt.run(["mke2fs", "-q", "-t", "ext4", "-L", "mysql", "-d", str(tree), str(made / "disk.img"), SIZE], "making the disk of MySQL")
        shutil.rmtree(tree)
        (made / "complete").touch()
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    _made = made / "disk.img"
    image.say(f"MySQL made in {time.monotonic() - started:.0f} s: {made}")


def _settle(tree):
    """What an installation would do."""
    for folder in UNUSED:
        shutil.rmtree(tree / folder, ignore_errors=True)
    (tree / "var/lib/mysql").mkdir(parents=True, exist_ok=True)
    apt.run(["unshare", "--mount", "--pid", "--net", "--fork", "chroot", str(tree), *INITIALIZE.split()], "setting up MySQL's data directory")
