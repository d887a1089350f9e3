"""The guest images, made once with mmdebstrap and kept under .cache/vm: the machine's own distribution, and releases and init
systems of Debian's that the packages are tried with.

No loop device and no mount of a guest filesystem on this machine: mke2fs fills the root from a directory, debugfs puts
the binaries under test into a copy of it. The key covers the package list and everything else that shapes the image.
"""
import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import time

from . import apt, emulation, paths


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an image is made of; its name is part of the directory's."""

    name: str
    packages: str
    # Debian's release, unless the machine's is newer (`release`). Without one: the machine's own.
    codename: str | None = None
    init: str = "systemd"
    root_size: str = "1G"
    # Only where the release has them.
    where_known: tuple[str, ...] = ()
    # Without one: the distribution's small kernel for guests.
    kernel: str | None = None
    # Without one: the machine's own.
    architecture: str | None = None
    # What a container image in Podman's storage is made of, beside the essential packages.
    container: str = ""

    def release(self):
        """The codename of what it is made of."""
        return apt.not_older(self.codename) if self.codename else apt.codename()


KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
# The second line is what the original agent links to; python3 is for the out-of-band server and the writers.
BASE = """udev kmod initramfs-tools iproute2 procps e2fsprogs xfsprogs util-linux python3
    libnuma1 liburing2 libudev1"""
# The first line is for the database hooks, the second what the acceptance checks compare the agent with. hwclock has a package of
# its own in newer releases, where logins are known by libpam-systemd alone. The last two are for the packages of checks/rpm.py.
MAIN = Kind("main", f"""{BASE} systemd-sysv dbus libglib2.0-0 mariadb-server postgresql redis-server
    lvm2 btrfs-progs openssh-server libpam-systemd python3-rpm rpm""", root_size="2560M", where_known=("util-linux-extra",))
# The last two are for a login that logind records.
DEBIAN13 = Kind("debian13", f"{BASE} systemd-sysv dbus libglib2.0-0t64 login libpam-systemd", "trixie")
# The last release whose udev comes with an init script; for later ones the last package has it.
SYSVINIT = Kind("sysvinit", f"{BASE} sysvinit-core libglib2.0-0 orphan-sysvinit-scripts", "bookworm", init="sysvinit")
# A release whose kernel is known to have the SCSI target, the NVMe target and nbd as modules. The full kernel boots with the same MODULES.
HIDDEN = Kind("hidden", f"{BASE} systemd-sysv dbus libglib2.0-0 nbdkit nbd-client", "bookworm", root_size="2G",
              kernel="linux-image-amd64")
# The releases of database servers after the main guest's, and containers; the last two are for what cannot be frozen or written to.
SERVERS = Kind("servers", f"""{BASE} systemd-sysv dbus libglib2.0-0t64 mariadb-server postgresql valkey-server podman crun
    dosfstools squashfs-tools""", "trixie", root_size="3G", container="postgresql-17 valkey-server")
# Another processor, which QEMU imitates while the image is made, too.
ARM64 = Kind("arm64", f"{BASE} systemd-sysv dbus libglib2.0-0t64", "trixie", kernel="linux-image-cloud-arm64", architecture="arm64")
CONTAINER_IMAGE = "localhost/databases"
# Of PostgreSQL's compiler for queries: more than all the rest together.
CONTAINER_EXCLUDES = ("/usr/lib/*/libLLVM*", "/usr/lib/*/libz3*", "/usr/lib/postgresql/*/llvmjit.so")
DATA_SIZE = "1G"
# What no guest needs.
LEAN = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")]
MODULES = "virtio_pci virtio_blk virtio_console ext4 xfs crc32c_generic".split()


def say(text):
    print(f"vm image: {text}", flush=True)


def ensure(kind=MAIN):
    """Builds the image if its key is new; returns the directory with root.img, data.img, vmlinuz and initrd."""
    codename = kind.release()
    packages = [kind.kernel or KERNELS.get(apt.os_release().get("ID"), KERNELS["debian"]), *kind.packages.split(), *filter(apt.known, kind.where_known)]
    sources = apt.sources(codename)
    digest = hashlib.sha256("\n".join([codename, kind.init, kind.root_size, kind.container, *packages, *sources]).encode())
    for file in [pathlib.Path(__file__), *sorted(paths.GUEST_FILES.iterdir())]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    made = paths.CACHE / f"image-{kind.name}-{digest.hexdigest()[:16]}"
    if (made / "complete").exists():
        say(f"cached in {made}")
        return made
    for old in paths.CACHE.glob(f"image-{kind.name}-*"):
        shutil.rmtree(old)
    made.mkdir(parents=True)
    started = time.monotonic()
    try:
        _build(made, kind, codename, packages, sources)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    say(f"made in {time.monotonic() - started:.0f} s: {made}")
    return made


def _build(made, kind, codename, packages, sources):
    tree = made / "tree"
    say(f"mmdebstrap of {codename} with {' '.join(packages)}")
    initramfs = ('mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"; '
                 'echo MODULES=list >"$1/etc/initramfs-tools/conf.d/vm"; '
                 f'printf "%s\\n" {" ".join(MODULES)} >"$1/usr/share/initramfs-tools/modules.d/vm"')
    with emulation.of(kind.architecture):
        apt.mmdebstrap(codename, sources, packages, tree, "minbase", *LEAN, f"--essential-hook={initramfs}",
                       *([f"--architectures={kind.architecture}"] if kind.architecture else []))
    if kind.container:
        _add_container_image(made / "container.tar", tree, kind, codename, sources)
    _settle(tree, kind.init)
    for name, link in (("vmlinuz", "vmlinuz"), ("initrd", "initrd.img")):
        newest = max((tree / "boot").glob(f"{link}-*"))
        shutil.copy(newest, made / name)
        newest.unlink()
    apt.run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(tree), str(made / "root.img"), kind.root_size], "making the root disk")
    apt.run(["truncate", "-s", DATA_SIZE, str(made / "data.img")], "making the data disk")
    apt.run(["mkfs.xfs", "-q", "-L", "data", str(made / "data.img")], "making the data disk")
    shutil.rmtree(tree)
    (made / "complete").touch()


def _add_container_image(archive, tree, kind, codename, sources):
    """A container image of the release's packages, imported by the guest's own Podman, here and not in the guest, where it would take
    a minute each time. In namespaces of its own, so that no mount of Podman's is left."""
    say(f"container image with {kind.container}")
    apt.mmdebstrap(codename, sources, kind.container.split(), archive, "essential", *LEAN,
                   *(f"--dpkgopt=path-exclude={path}" for path in CONTAINER_EXCLUDES))
    script = ('mount --bind "$1" "$1" && mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/run" && cd "$1" && '
              f'exec chroot . podman --cgroup-manager=cgroupfs --events-backend=none import --quiet - {CONTAINER_IMAGE}')
    with open(archive, "rb") as packed:
        apt.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", str(tree)], "podman import", stdin=packed)
    archive.unlink()


def _settle(tree, init):
    """Turns the bare tree into a guest: mounts, name, the out-of-band server; nothing that idles noisily. The agent comes later."""
    def write(path, text, mode=0o644):
        file = tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    write("/etc/fstab", "/dev/vda / ext4 rw,relatime 0 1\n/dev/vdb /data xfs rw,relatime 0 2\n")
    write("/etc/hostname", "freeze-me\n")
    (tree / "data").mkdir()
    (tree / "etc/qemu/fsfreeze-hook.d").mkdir(parents=True)
    (tree / "etc/machine-id").write_text("")
    for name in ("oob.py", "writer.py", "churn.py"):
        write(f"/usr/local/lib/oob/{name}", (paths.GUEST_FILES / name).read_text())
    if init == "sysvinit":
        write("/usr/local/lib/oob/start", (paths.GUEST_FILES / "oob.start").read_text(), 0o755)
        terminals = re.compile(r"^.*getty.*\n", re.MULTILINE)
        write("/etc/inittab", terminals.sub("", (tree / "etc/inittab").read_text()) + "oob:2345:respawn:/usr/local/lib/oob/start\n")
        return
    # A journal on the root disk: the agent must get along with a journald that blocks while / is frozen.
    (tree / "var/log/journal").mkdir(exist_ok=True)
    write("/etc/systemd/system/oob.service", (paths.GUEST_FILES / "oob.service").read_text())
    units = tree / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/oob.service").symlink_to("/etc/systemd/system/oob.service")
    for service in ("mariadb", "postgresql", "redis-server", "valkey-server"):
        (units / f"multi-user.target.wants/{service}.service").unlink(missing_ok=True)
    for noisy in ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
                  "fstrim.timer", "systemd-timesyncd.service", "getty@tty1.service", "serial-getty@ttyS0.service", "serial-getty@ttyAMA0.service",
                  "xfs_scrub_all.timer", "ssh.service", "ssh.socket", "man-db.timer", "systemd-networkd-wait-online.service", "motd-news.timer"):
        link = units / noisy
        if not link.is_symlink():
            link.symlink_to("/dev/null")


def put(image, files):
    """Writes host files into an unmounted ext4 image: `files` is a list of (source, path in the guest, mode)."""
    commands = []
    for source, target, mode in files:
        commands += [f'write "{source}" {target}', f"set_inode_field {target} mode 0{0o100000 | mode:o}",
                     f"set_inode_field {target} uid 0", f"set_inode_field {target} gid 0"]
    done = subprocess.run(["debugfs", "-w", "-f", "-", str(image)], input="\n".join(commands) + "\n",
                          capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line and not line.startswith("debugfs 1.")]
    if done.returncode != 0 or errors:
        raise SystemExit(f"debugfs could not write into {image}: {errors}")


def copy(source, target):
    """A sparse private copy of an image."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)
