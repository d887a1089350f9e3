"""A libvirtd of the tests' own (inside the sandbox, without systemd), and guests under it."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time

import libvirt

from . import guest

URI = "qemu:///system"
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "file"
"""
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>1024</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom'><model>{processor}</model></cpu>
  <on_reboot>restart</on_reboot>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw' cache='unsafe'/><source file='{root}'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw' cache='unsafe'/><source file='{data}'/><target dev='vdb' bus='virtio'/></disk>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><source mode='bind' path='{oob}'/><target type='virtio' name='org.qemu-ga-rs.oob'/></channel>
    <serial type='file'><source path='{console}'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
  <seclabel type='none'/>
</domain>
"""


class Libvirtd:
    """The daemon; started, restarted and stopped by pid. The machine's own, or that of a `root` like lib/newest.py makes."""

    def __init__(self, log, root="/"):
        self.log = pathlib.Path(log)
        self.log.mkdir(parents=True, exist_ok=True)
        self.root = pathlib.Path(root)
        self.chroot = [] if root == "/" else ["chroot", str(root)]
        # The machine's own Python binding, and what uses it, controls the daemon of another root too.
        self.uri = URI if root == "/" else f"qemu+unix:///system?socket={root}/run/libvirt/libvirt-sock"
        self.process = None
        # libvirt's Python binding reports every failed call on stderr besides raising it.
        libvirt.registerErrorHandler(lambda *_: None, None)
        (self.root / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
        (self.root / "etc/libvirt/libvirtd.conf").write_text('auth_unix_ro = "none"\nauth_unix_rw = "none"\n')
        for folder in ("log", "lib", "cache"):
            os.makedirs(self.root / f"var/{folder}/libvirt/qemu", exist_ok=True)

    def start(self):
        """Returns when virsh gets an answer."""
        with open(self.log / "libvirtd.log", "ab") as log:
            self.process = subprocess.Popen([*self.chroot, "/usr/sbin/libvirtd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while self.virsh("version", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"libvirtd does not answer: see {self.log / 'libvirtd.log'}")
            time.sleep(0.2)

    def version(self):
        """The daemon's, like 12.9.0."""
        return self.virsh("version", "--daemon").stdout.split()[-1]

    def stop(self):
        """Stops the daemon; its guests run on."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def save_logs(self):
        """Copies libvirt's own logs, which lie on the sandbox's tmpfs, to where they outlive it."""
        shutil.copytree(self.root / "var/log/libvirt", self.log / "libvirt", dirs_exist_ok=True)

    def virsh(self, *words, check=True, timeout=120, quiet=True):
        """Runs virsh as an operator would; a failure is an error that shows what it printed."""
        command = [*self.chroot, "virsh", *(["-q"] if quiet else []), "-c", URI, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, "LC_ALL": "C.UTF-8"})
        if check and done.returncode != 0:
            raise AssertionError(f"virsh {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    @contextlib.contextmanager
    def domain(self, name):
        """The domain as python3-libvirt gives it."""
        connection = libvirt.open(self.uri)
        try:
            yield connection.lookupByName(name)
        finally:
            connection.close()


class LibvirtGuest(guest.Guest):
    """A transient domain; libvirt holds the agent's channel."""

    def __init__(self, daemon, disks, work, name):
        super().__init__(work)
        work.mkdir(parents=True, exist_ok=True)
        self.daemon, self.disks, self.name = daemon, disks, name
        definition = work / "domain.xml"
        definition.write_text(DOMAIN.format(name=name, kernel=disks.kernel, initrd=disks.initrd, cmdline=guest.KERNEL_LINE, processor=guest.PROCESSOR,
                                            root=disks.root, data=disks.data, oob=self.oob_path, console=self.console))
        self.daemon.virsh("create", str(definition))

    def virsh(self, command, *words, **kw):
        """What `virsh COMMAND DOMAIN WORDS…` printed."""
        return self.daemon.virsh(command, self.name, *words, **kw).stdout

    def ask(self, command, arguments=None, timeout=60):
        """The value that an agent command returns, asked through `virsh qemu-agent-command`."""
        request = {"execute": command, **({"arguments": arguments} if arguments is not None else {})}
        shown = self.virsh("qemu-agent-command", json.dumps(request), "--timeout", str(timeout), timeout=timeout + 60)
        return json.loads(shown)["return"]

    def refused(self, command):
        """The error text of an agent command that must fail."""
        done = self.daemon.virsh("qemu-agent-command", self.name, json.dumps({"execute": command}), "--timeout", "60", check=False)
        if done.returncode == 0:
            raise AssertionError(f"{command} was not refused: {done.stdout.strip()}")
        return done.stderr.strip()

    def thaw_anyway(self):
        """After a failed check: nothing may stay frozen for the next one."""
        self.daemon.virsh("qemu-agent-command", self.name, '{"execute":"guest-fsfreeze-thaw"}', "--timeout", "30", check=False)

    def wait_agent(self, timeout=guest.BOOT_SECONDS):
        """Waits until the agent answers through libvirt."""
        end = time.monotonic() + timeout
        while True:
            done = self.daemon.virsh("qemu-agent-command", self.name, '{"execute":"guest-ping"}', "--timeout", "5", check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > end:
                raise AssertionError(f"the agent did not answer through libvirt within {timeout} s: {done.stderr.strip()}")
            time.sleep(0.2)

    def stop(self):
        """Ends the domain at once."""
        if self.oob:
            self.oob.close()
        self.daemon.virsh("destroy", self.name, check=False)


class Fleet:
    """Several domains: `ours` and `stopped` with the agent under test, `original` with the original."""

    NAMES = ("ours", "original", "stopped")

    def __init__(self, daemon, made, work, files_of):
        self.daemon, self.made, self.work, self.files_of = daemon, made, work, files_of
        self.guests = {}

    def wait_booted(self):
        """Starts them one after another: on a busy machine each has the time of one."""
        for name in self.NAMES:
            work = self.work / name
            disks = guest.Disks(self.made, work, self.files_of(name))
            self.guests[name] = LibvirtGuest(self.daemon, disks, work, f"fleet-{name}")
            self.guests[name].wait_booted()
        self.ours, self.original, self.stopped = self.guests.values()

    def wait_agent(self):
        """All of them."""
        for machine in self.guests.values():
            machine.wait_agent()

    def thaw_anyway(self):
        """After a failed check."""
        for machine in self.guests.values():
            machine.thaw_anyway()

    def save_logs(self):
        """Of all of them."""
        for machine in self.guests.values():
            machine.save_logs()

    def stop(self):
        """All of them."""
        for machine in self.guests.values():
            machine.stop()
