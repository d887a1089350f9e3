"""A guest whose hardware the test drives through QMP: disks of every bus, hot-plug, sleep, power."""
import json
import subprocess

from . import channel, guest

MIB = 1 << 20
# name: (size, -device); what each is for says checks/acceptance_devices.py.
DISKS = {
    "lvm0": (96, "virtio-blk-pci,serial=LVM0"), "lvm1": (96, "virtio-blk-pci,serial=LVM1"),
    "btrfs0": (128, "virtio-blk-pci,serial=BTRFS0"), "btrfs1": (128, "virtio-blk-pci,serial=BTRFS1"),
    "trim": (400, "virtio-blk-pci,serial=TRIM"),
    "scsi0": (64, "scsi-hd,bus=scsi.0,scsi-id=0,lun=3,serial=SCSI0"),
    "nvme0": (64, "nvme,serial=NVME0"),
    "ide0": (64, "ide-hd,bus=ide.1,unit=0,serial=IDE0"),
}


class DeviceGuest(guest.RawGuest):
    """Plain QEMU with memory slots and many disks."""

    DISKS = DISKS
    MEMORY = "1024,slots=2,maxmem=2G"

    def __init__(self, disks, work):
        extra = ["-device", "virtio-scsi-pci,id=scsi",
                 "-netdev", "hubport,id=net0,hubid=0", "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01"]
        self.files = {}
        for slot, (name, (size, device)) in enumerate(self.DISKS.items(), 0x10):
            self.files[name] = work / f"{name}.img"
            with open(self.files[name], "wb") as file:
                file.truncate(size * MIB)
            # High PCI slots: the kernel is to find the root disk first and name it vda.
            place = "" if "bus=" in device else f",addr={slot:#x}"
            extra += ["-drive", f"file={self.files[name]},format=raw,if=none,id={name},discard=unmap", "-device",
                      f"{device},drive={name},id=dev-{name}{place}"]
        super().__init__(disks, work, self.MEMORY, extra)

    def device(self, name):
        """The guest's kernel name of a disk, found by its serial."""
        shown = self.oob.run("lsblk -dnJ -o NAME,SERIAL")
        for disk in json.loads(shown)["blockdevices"]:
            if disk["serial"] == name.upper():
                return f"/dev/{disk['name']}"
        raise channel.ChannelError(f"the guest has no disk of serial {name.upper()}: {shown}")

    def allocated(self, name):
        """Bytes that a disk's file takes on this machine."""
        return int(subprocess.run(["du", "-B1", str(self.files[name])], capture_output=True, text=True, check=True).stdout.split()[0])

    def await_start(self):
        """After a boot of the guest: out-of-band server and agent answer again."""
        self.oob.close()
        self.wait_booted()
        channel.wait_for_agent(self.agent_path, guest.BOOT_SECONDS)

    def boot_id(self):
        """Differs after each boot."""
        return self.oob.run("cat /proc/sys/kernel/random/boot_id").strip()


class ServerGuest(DeviceGuest):
    """With room for database servers, and a disk for an EFI system partition."""

    DISKS = {"esp": (64, "virtio-blk-pci,serial=ESP")}
    MEMORY = "1536"
    PROCESSORS = 1


class HarmGuest(guest.RawGuest):
    """Plain QEMU with a third, empty disk, /dev/vdc, for layers of device mapper and loop devices."""

    def __init__(self, disks, work):
        scratch = work / "scratch.img"
        with open(scratch, "wb") as file:
            file.truncate(1 << 30)
        super().__init__(disks, work, extra=["-drive", f"file={scratch},format=raw,if=virtio"])
