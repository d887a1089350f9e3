"""Disks of every bus, LVM, btrfs, interfaces: the agent's lists against lsblk, df and ip inside, and against QEMU outside."""
import json
import time

from lib.report import check, equal, holds

SERIALS = {"lvm0": ("virtio", "LVM0"), "lvm1": ("virtio", "LVM1"), "trim": ("virtio", "TRIM"), "scsi0": ("scsi", "0QEMU_QEMU_HARDDISK_SCSI0"),
           "ide0": ("ide", "QEMU_HARDDISK_IDE0")}


def lsblk(g):
    """{/dev/name: (type, {/dev/parents}, alias)} of lsblk's tree."""
    found = {}

    def walk(node, parent):
        name = f"/dev/{node['kname']}"
        kind, parents, alias = found.setdefault(name, (node["type"], set(), node["name"]))
        if parent:
            parents.add(parent)
        for child in node.get("children", ()):
            walk(child, name)

    for node in json.loads(g.oob.run("lsblk -J -o NAME,KNAME,TYPE"))["blockdevices"]:
        walk(node, None)
    return found


def compare_disks(g, agent):
    """guest-get-disks against lsblk; returns the disks by name."""
    disks = {disk["name"]: disk for disk in agent.ask("guest-get-disks")}
    wanted = lsblk(g)
    equal(set(disks), set(wanted), "disks")
    for name, (kind, parents, alias) in wanted.items():
        disk = disks[name]
        equal(disk["partition"], kind == "part", f"{name} is a partition")
        equal(set(disk.get("dependencies", ())), parents, f"what {name} stands on")
        equal(disk.get("alias"), alias if kind not in ("disk", "part", "loop") else None, f"alias of {name}")
    return disks


def compare_filesystems(g, agent, quiet=()):
    """guest-get-fsinfo against df and the mount table; returns the filesystems by mountpoint."""
    # What is not yet written changes df's figures on its own.
    g.oob.run("sync")
    found = {fs["mountpoint"]: fs for fs in agent.ask("guest-get-fsinfo")}
    lines = g.oob.run("df -B1 --output=target,fstype,size,used,avail -x tmpfs -x devtmpfs -x efivarfs -x overlay").splitlines()[1:]
    wanted = {line.split()[0]: line.split()[1:] for line in lines}
    equal(set(found), set(wanted), "mountpoints")
    for mountpoint, (kind, size, used, free) in wanted.items():
        fs = found[mountpoint]
        equal(fs["type"], kind, f"type of {mountpoint}")
        equal(fs["total-bytes-privileged"], int(size), f"size of {mountpoint}")
        # The journal of the root goes on.
        if mountpoint != "/":
            equal((fs["used-bytes"], fs["total-bytes"]), (int(used), int(used) + int(free)), f"used and total bytes of {mountpoint}")
        source = g.oob.run(f"basename $(realpath $(findmnt -no SOURCE {mountpoint} | sed 's/\\[.*//'))").strip()
        equal(fs["name"], source, f"device of {mountpoint}")
    return found


def pci_address(g, device):
    """Where QEMU has a device: (bus, slot, function)."""
    for bus in g.qmp.ask("query-pci"):
        for one in bus["devices"]:
            if one["qdev_id"] == device:
                return one["bus"], one["slot"], one["function"]
    raise AssertionError(f"QEMU has no PCI device {device}")


# ioctl_blkpg of linux/blkpg.h, because util-linux has no addpart and delpart any more. It counts bytes.
PARTITION = """
import ctypes, fcntl, os, struct, sys
disk, number, start, length = sys.argv[1], *map(int, sys.argv[2:])
part = ctypes.create_string_buffer(struct.pack("qqi64s64s4x", start, length, number, b"", b""))
BLKPG, ADD, DELETE = 0x1269, 1, 2
request = struct.pack("iiiP", ADD if length else DELETE, 0, len(part), ctypes.addressof(part))
fcntl.ioctl(os.open(disk, os.O_RDONLY), BLKPG, request)
"""


def partition(g, disk, number, start=0, length=0):
    """Makes the kernel know a partition, without a table on the disk; without a length, forget it."""
    g.oob.run(f"python3 - {disk} {number} {start} {length} <<'END_OF_FILE'\n{PARTITION}END_OF_FILE", check=bool(length))


def appears(look, what, seconds=30):
    """Waits until `look` gives something true, and returns it."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        holds(time.monotonic() < end, f"{what} within {seconds} s")
        time.sleep(0.2)
    return seen


@check("devices")
def disks_of_every_bus_as_lsblk_and_qemu_have_them(g):
    disk = g.device("scsi0")
    partition(g, disk, 1, 1 << 20, 16 << 20)
    partition(g, disk, 2, 17 << 20, 32 << 20)
    g.oob.run("modprobe loop; udevadm settle; truncate -s 8M /var/tmp/l.img; "
              "losetup /dev/loop0 /var/tmp/l.img; udevadm settle")
    try:
        with g.agent() as agent:
            disks = compare_disks(g, agent)
            for name, (bus, serial) in SERIALS.items():
                address = disks[g.device(name)]["address"]
                equal((address["bus-type"], address.get("serial"), address["dev"]), (bus, serial, g.device(name)), f"address of {name}")
                controller = {"scsi0": "scsi", "ide0": None}.get(name, f"dev-{name}")
                if controller:
                    pci = address["pci-controller"]
                    equal((pci["domain"], pci["bus"], pci["slot"], pci["function"]), (0, *pci_address(g, controller)), f"PCI address of {name}")
            equal([disks[g.device("scsi0")]["address"][key] for key in ("bus", "target", "unit")], [0, 0, 3], "the SCSI disk's bus, target, LUN")
            holds(disks[f"{disk}1"]["partition"] and disks[f"{disk}2"]["dependencies"] == [disk], "partitions of the SCSI disk")
            nvme = disks[g.device("nvme0")]["address"]
            holds("NVME0" in nvme["serial"], f"serial of the NVMe disk: {nvme}")
    finally:
        g.oob.run("losetup -d /dev/loop0; rm -f /var/tmp/l.img", check=False)
        for number in (1, 2):
            partition(g, disk, number)
        g.oob.run("udevadm settle", check=False)


@check("devices")
def lvm_as_lsblk_and_df_have_it(g):
    one, two = g.device("lvm0"), g.device("lvm1")
    g.oob.run(f"vgcreate -q -y vg-one {one} {two} && lvcreate -q -y -L 100M -n spans vg-one && lvcreate -q -y -L 32M -n small vg-one "
              "&& mkfs.ext4 -q /dev/vg-one/spans && mkdir -p /mnt/spans && mount /dev/vg-one/spans /mnt/spans "
              "&& head -c 3000000 /dev/urandom >/mnt/spans/x && udevadm settle", timeout=120)
    try:
        with g.agent() as agent:
            disks = compare_disks(g, agent)
            holds({"vg--one-spans", "vg--one-small"} <= {disk.get("alias") for disk in disks.values()}, "aliases of the volumes")
            found = compare_filesystems(g, agent)
            equal({(a["dev"], a["serial"]) for a in found["/mnt/spans"]["disk"]}, {(one, "LVM0"), (two, "LVM1")}, "disks below the volume")
            equal(agent.ask("guest-fsfreeze-freeze"), 3, "filesystems frozen")
            held = g.oob.start("echo x >/mnt/spans/late")
            holds(held.wait(1)[0] is None, "a write to the volume waits")
            equal(agent.ask("guest-fsfreeze-thaw"), 3, "filesystems thawed")
            equal(held.wait(20)[0], 0, "the held write")
    finally:
        g.oob.run("umount /mnt/spans; vgremove -q -ff -y vg-one", timeout=60, check=False)


@check("devices")
def btrfs_as_lsblk_and_df_have_it(g):
    one, two = g.device("btrfs0"), g.device("btrfs1")
    g.oob.run(f"mkfs.btrfs -q -f -m raid1 -d single {one} {two} && mkdir -p /mnt/btrfs && mount {one} /mnt/btrfs "
              "&& head -c 3000000 /dev/urandom >/mnt/btrfs/x && btrfs -q subvolume create /mnt/btrfs/sub >/dev/null", timeout=120)
    try:
        with g.agent() as agent:
            compare_disks(g, agent)
            found = compare_filesystems(g, agent)
            devices = {a["dev"] for a in found["/mnt/btrfs"]["disk"]}
            holds(one in devices and devices <= {one, two}, f"disks of the btrfs: {devices}")
            equal(agent.ask("guest-fsfreeze-freeze"), 3, "filesystems frozen")
            held = g.oob.start("echo x >/mnt/btrfs/late")
            holds(held.wait(1)[0] is None, "a write to the btrfs waits")
            equal(agent.ask("guest-fsfreeze-thaw"), 3, "filesystems thawed")
            equal(held.wait(20)[0], 0, "the held write")
    finally:
        g.oob.run("umount /mnt/btrfs", timeout=30, check=False)


def compare_interfaces(g, agent):
    """guest-network-get-interfaces against `ip -j addr`; returns the names."""
    found = {link["name"]: link for link in agent.ask("guest-network-get-interfaces")}
    wanted = {link["ifname"]: link for link in json.loads(g.oob.run("ip -j addr"))}
    equal(set(found), set(wanted), "interfaces")
    for name, link in wanted.items():
        equal(found[name]["hardware-address"], link["address"], f"MAC address of {name}")
        addresses = {(a["ip-address"], a["prefix"], a["ip-address-type"]) for a in found[name].get("ip-addresses", ())}
        equal(addresses, {(a["local"], a["prefixlen"], {"inet": "ipv4", "inet6": "ipv6"}[a["family"]]) for a in link["addr_info"]},
              f"addresses of {name}")
        equal("statistics" in found[name], bool(link["addr_info"]), f"statistics of {name}")
    return set(found)


@check("devices")
def interfaces_and_routes_as_ip_has_them(g):
    g.oob.run("sysctl -qw net.ipv6.conf.default.accept_dad=0; ip link add br0 type bridge; ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0; "
              "ip addr add 198.51.100.1/30 dev br0; ip addr add 2001:db8::1/64 dev br0; ip link set br0 up; ip route add default via 192.0.2.254; sleep 1")
    try:
        with g.agent() as agent:
            compare_interfaces(g, agent)
            routes = agent.ask("guest-network-get-route")
            default = [r for r in routes if r["version"] == 4 and r["destination"] == "0.0.0.0"]
            equal([(r["iface"], r["gateway"], r["mask"]) for r in default], [("eth0", "192.0.2.254", "0.0.0.0")], "default route")
            holds({(r["destination"], r["mask"]) for r in routes if r["version"] == 4} >= {("192.0.2.0", "255.255.255.0"), ("198.51.100.0", "255.255.255.252")},
                  f"routes of the addresses: {routes}")
            g.oob.run("ip addr del 192.0.2.1/24 dev eth0; ip addr add 192.0.2.99/25 dev eth0")
            compare_interfaces(g, agent)
    finally:
        g.oob.run("ip link del br0; ip addr flush dev eth0", check=False)


@check("devices")
def a_hot_plugged_disk_comes_and_goes(g):
    image = g.work / "hot.img"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    with g.agent() as agent:
        def names():
            return {disk["name"] for disk in agent.ask("guest-get-disks")}

        before = names()
        g.qmp.ask("blockdev-add", node_name="hot", driver="raw", file={"driver": "file", "filename": str(image)})
        g.qmp.ask("device_add", driver="virtio-blk-pci", id="dev-hot", drive="hot", serial="HOT")
        disk = appears(lambda: names() - before, "the new disk").pop()
        g.oob.run(f"udevadm settle; mkfs.ext4 -q {disk} && mkdir -p /mnt/hot && mount {disk} /mnt/hot")
        compare_disks(g, agent)
        address = compare_filesystems(g, agent)["/mnt/hot"]["disk"][0]
        equal((address["dev"], address["serial"], address["bus-type"]), (disk, "HOT", "virtio"), "its address")
        equal((address["pci-controller"]["bus"], address["pci-controller"]["slot"], address["pci-controller"]["function"]),
              pci_address(g, "dev-hot"), "its PCI address")
        g.oob.run("umount /mnt/hot")
        g.qmp.unplug("dev-hot")
        appears(lambda: names() == before, "the disk is gone")
        g.qmp.ask("blockdev-del", node_name="hot")
    image.unlink()


@check("devices")
def a_disk_hot_plugged_while_frozen_is_there_after_the_thaw(g):
    with g.agent() as agent:
        before = {disk["name"] for disk in agent.ask("guest-get-disks")}
        g.qmp.ask("blockdev-add", node_name="cold", driver="null-co", size=64 << 20)
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
        try:
            g.qmp.ask("device_add", driver="virtio-blk-pci", id="dev-cold", drive="cold", serial="COLD")
            time.sleep(1)
            equal(agent.ask("guest-fsfreeze-status"), "frozen", "status with the new disk")
        finally:
            equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
        appears(lambda: {disk["name"] for disk in agent.ask("guest-get-disks")} - before, "the new disk")
        g.qmp.unplug("dev-cold")
        appears(lambda: {disk["name"] for disk in agent.ask("guest-get-disks")} == before, "the disk is gone")
        g.qmp.ask("blockdev-del", node_name="cold")


@check("devices")
def a_hot_plugged_nic_comes_and_goes(g):
    with g.agent() as agent:
        def names():
            return {link["name"] for link in agent.ask("guest-network-get-interfaces")}

        before = compare_interfaces(g, agent)
        g.qmp.ask("netdev_add", type="hubport", id="net1", hubid=0)
        g.qmp.ask("device_add", driver="virtio-net-pci", id="nic1", netdev="net1", mac="52:54:00:00:00:02")
        name = appears(lambda: names() - before, "the new interface").pop()
        g.oob.run(f"ip link set {name} up; ip addr add 203.0.113.5/24 dev {name}; sleep 1")
        compare_interfaces(g, agent)
        link = next(link for link in agent.ask("guest-network-get-interfaces") if link["name"] == name)
        equal(link["hardware-address"], "52:54:00:00:00:02", "its MAC address")
        g.qmp.unplug("nic1")
        equal(names(), before, "interfaces without it")
        compare_interfaces(g, agent)


@check("devices")
def a_filesystem_unmounted_while_frozen_is_writable_again(g):
    disk = g.device("trim")
    g.oob.run(f"mkdir -p /mnt/away; mkfs.ext4 -qF {disk} && mount {disk} /mnt/away")
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 3, "filesystems frozen")
        g.oob.run("umount -l /mnt/away", timeout=20)
        agent.ask("guest-fsfreeze-thaw")
        g.oob.run(f"for i in $(seq 50); do mount {disk} /mnt/away && break; sleep 0.2; done; echo x >/mnt/away/x && umount /mnt/away", timeout=30)
        equal(agent.ask("guest-fsfreeze-status"), "thawed", "status")
