"""Chroots of a release of Debian's, made once with mmdebstrap and kept in .cache, for scripts that run in one."""
import hashlib
import os
import shutil
import sys

from . import apt, paths

# No network but loopback, and no process that outlives the caller. Arguments: the directory, a user, a script in it.
ENTER = """mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/tmp" && ip link set lo up &&
    exec chroot "$1" runuser -u "$2" -- env -i HOME=/build PATH=/usr/bin:/bin:/usr/sbin:/sbin LC_ALL=C.UTF-8 sh "$3\""""


def ensure(codename, packages):
    """The directory of a chroot with these packages. Ends with the status 77 if the machine's mirror is not Debian's."""
    try:
        sources = apt.sources(codename)
    except SystemExit as reason:
        print(f"left out: {reason}")
        sys.exit(77)
    key = hashlib.sha256("\n".join([*packages, *sources]).encode()).hexdigest()[:16]
    made = paths.ROOT / f".cache/{codename}-{key}"
    if made.exists():
        return made
    for old in paths.ROOT.glob(f".cache/{codename}-*"):
        shutil.rmtree(old)
    unfinished = made.with_suffix(".new")
    unfinished.parent.mkdir(exist_ok=True)
    # A mirror that is not updated has an older index; its signature is checked all the same.
    options = ['--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Retries "3"']
    for setting in apt.proxy_options():
        name, value = setting.split("=", 1)
        options.append(f'--aptopt={name} "{value}"')
    apt.run(["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--include={','.join(packages)}", *options,
             codename, str(unfinished), "-"], f"making a chroot of {codename}", input="\n".join(sources) + "\n",
            env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    unfinished.rename(made)
    return made


def command(root, user, script):
    """What runs `script`, a path in the chroot, as `user`."""
    return ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-euc", ENTER, "sh", str(root), user, script]
