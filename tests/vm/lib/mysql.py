"""A disk with MySQL, for checks/mysql.py: server and client of Debian's sid (no stable release has them), and what they link to.

No package of sid's is installed, here or in a guest: mmdebstrap unpacks them into a tree of their own. The server sets up its data
directory here, where it takes seconds, in namespaces of its own.
"""
import hashlib
import os
import pathlib
import shutil
import time

from . import apt, image, paths, report

PACKAGES = "mysql-server-core mysql-client-core"
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
        lines = str(_made).splitlines()
        # apt's own reason is the first of its errors.
        raise report.Skip(f"no MySQL could be had: {next((line for line in lines if line.startswith('E: ')), lines[0])}")
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
        image.say(f"mmdebstrap of sid with {PACKAGES}")
        try:
            _unpack(sources, tree)
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


def _unpack(sources, tree):
    # sid's index is valid for a week only, and a mirror that stands still has an older one; its signature is checked all the same.
    command = ["mmdebstrap", "--mode=root", "--variant=extract", f"--include={PACKAGES.replace(' ', ',')}",
               '--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Retries "3"', '--aptopt=Acquire::Check-Valid-Until "false"']
    for setting in apt.proxy_options():
        key, value = setting.split("=", 1)
        command.append(f'--aptopt={key} "{value}"')
    apt.run([*command, "sid", str(tree), "-"], "mmdebstrap of sid", input="\n".join(sources) + "\n",
            env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def _settle(tree):
    """What an installation would do."""
    for folder in UNUSED:
        shutil.rmtree(tree / folder, ignore_errors=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (tree / name).exists():
            (tree / name).symlink_to(f"usr/{name}")
    (tree / "var/lib/mysql").mkdir(parents=True, exist_ok=True)
    apt.run(["unshare", "--mount", "--pid", "--net", "--fork", "chroot", str(tree), *INITIALIZE.split()], "setting up MySQL's data directory")
