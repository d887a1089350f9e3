"""What cannot be frozen and does not change: the level of a guest with an EFI system partition and snaps, and with a database held by its hook."""
import contextlib
import time

from lib import harm
from lib.report import check, equal, holds
from .databases import enabled, frozen

ESP = "/boot/efi"
SNAPS = [f"/snap/{name}/1" for name in ("core", "shell", "tool")]


@contextlib.contextmanager
def mounted(g):
    """vfat on a disk of its own, and squashfs on files of the root filesystem, as snaps are."""
    g.oob.run(f"mkdir -p {ESP} {' '.join(SNAPS)} /var/lib/snaps; mkfs.vfat -n EFI {g.device('esp')} >/dev/null && mount {g.device('esp')} {ESP} "
              f"&& mkdir {ESP}/EFI && sync -f {ESP}", timeout=60)
    for number, where in enumerate(SNAPS):
        packed = f"/var/lib/snaps/{number}.snap"
        g.oob.run(f"mksquashfs /etc/systemd {packed} -quiet -no-progress >/dev/null && mount -o loop {packed} {where}", timeout=120)
    try:
        yield
    finally:
        g.oob.run(f"umount {ESP} {' '.join(SNAPS)}; rm -r /var/lib/snaps", timeout=60)


def newest(g):
    """The level of the newest report, how each filesystem was held, and the report."""
    report = harm.reports(g)[0]
    return report["level"], {entry["mountpoint"]: entry.get("held") for entry in report["filesystems"]}, report


@check("servers")
def uefi_guest_with_snaps_and_a_database_is_application_consistent(g):
    # The hook that fails on purpose would lower the level by itself.
    harm.only_light_hooks(g)
    held = {"/": "frozen", "/data": "frozen", ESP: "unchanged", **dict.fromkeys(SNAPS, "read-only")}
    g.oob.run("systemctl start mariadb", timeout=120)
    try:
        with mounted(g), enabled(g, "mariadb"):
            plan = g.oob.run("qemu-ga plan")
            with frozen(g):
                # Longer than any interval in which the kernel would write something back by itself.
                time.sleep(6)
            level, seen, report = newest(g)
            equal((level, seen), ("application", held), f"level, and how each was held: {report}")
            equal(plan.count("flushed and watched"), 1, f"what the plan says of {ESP}: {plan}")
            equal([hook["status"] for hook in report["hooks"] if hook["path"].endswith("30-mariadb")], [{"exited": 0}] * 2, "statuses of MariaDB's hook")
            with frozen(g):
                g.oob.run(f"echo x >{ESP}/EFI/written && sync -f {ESP}")
            level, seen, report = newest(g)
            equal((level, seen), ("crash", {**held, ESP: None}), f"level, and how each was held: {report}")
            reasons = report["level-reasons"]
            holds(any(ESP in reason and "written to" in reason for reason in reasons), f"{ESP} is named: {reasons}")
    finally:
        g.oob.run("systemctl stop mariadb", timeout=120)
