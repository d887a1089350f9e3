"""Guests: a work directory with private copies of the disks, and QEMU run directly (libvirt's way is in virt.py)."""
import subprocess
import time

from . import channel, image, paths, qmp

# Without what emulation pays dearly for.
KERNEL_LINE = ("root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 mitigations=off nokaslr cryptomgr.notests "
               "rcupdate.rcu_expedited=1")
# The oldest processor: emulating what newer ones have costs more than it saves.
PROCESSOR = "qemu64"
BOOT_SECONDS = 300
ORIGINAL_IN_GUEST = "/usr/local/sbin/qemu-ga-original"
# What a package puts beside the agent, for guests that get it without one.
SERVICE = [(paths.ROOT / "debian/qemu-guest-agent.service", "/usr/lib/systemd/system/qemu-guest-agent.service", 0o644),
           (paths.ROOT / "debian/qemu-guest-agent.udev", "/usr/lib/udev/rules.d/60-qemu-guest-agent.rules", 0o644)]


class Disks:
    """A private copy of the guest's disks, with the binaries under test installed, in `work`."""

    def __init__(self, made, work, files):
        work.mkdir(parents=True, exist_ok=True)
        self.kernel, self.initrd = made / "vmlinuz", made / "initrd"
        self.root, self.data = work / "root.img", work / "data.img"
        image.copy(made / "root.img", self.root)
        image.copy(made / "data.img", self.data)
        image.put(self.root, files)


class Guest:
    """What both kinds of guest have: the two sockets, and helpers that look inside through the out-of-band channel."""

    # What is kept of it when it ends.
    LOGS = "journalctl -b --no-pager; echo; cat /var/log/qga-fsfreeze-hook.log"

    def __init__(self, work):
        self.work = work
        self.agent_path = work / "agent.sock"
        self.oob_path = work / "oob.sock"
        self.console = work / "console.log"
        self.oob = None

    def wait_booted(self):
        """Connects to the out-of-band server; says what the console showed if the guest never comes up."""
        try:
            self.oob = channel.wait_for_oob(self.oob_path, BOOT_SECONDS)
        except channel.ChannelError as error:
            tail = self.console.read_text(errors="replace")[-1500:] if self.console.exists() else "(no console)"
            raise channel.ChannelError(f"{error}; the console's end:\n{tail}") from error

    def agent(self):
        """A new connection to the agent's port, synchronised."""
        agent = channel.Agent(self.agent_path)
        agent.sync(10)
        return agent

    def agent_pid(self):
        """The agent's process id inside the guest (0 while systemd has none)."""
        return int(self.oob.run("systemctl show -p MainPID --value qemu-guest-agent.service").strip() or 0)

    def guardians(self):
        """The process ids of the guardians inside the guest."""
        # What ends between the list and the look is none.
        found = self.oob.run("grep -lsz '^guardian$' /proc/[0-9]*/cmdline", check=False)
        return [int(path.split("/")[2]) for path in found.split()]

    def save_logs(self):
        """Keeps the guest's logs beside that of its console."""
        if self.oob is None:
            return
        try:
            text = self.oob.run(self.LOGS, timeout=30, check=False)
        except (channel.ChannelError, OSError) as error:
            text = f"could not be read: {error}\n"
        (self.work / "journal.log").write_text(text)

    def wakeups(self, pid, seconds):
        """How often the process woke up during `seconds`; counted wholly inside the guest, and a second after what came before,
        for on a busy machine the end of a request may take as long."""
        count = f"cat /proc/{pid}/task/*/status | awk '/^voluntary_ctxt/ {{n += $2}} END {{print n}}'"
        before, after = self.oob.run(f"sleep 1; {count}; sleep {seconds}; {count}", timeout=seconds + 60).split()
        return int(after) - int(before)


class RawGuest(Guest):
    """A guest under plain QEMU, whose agent socket the test owns: connecting and hanging up are its own doing; `qmp` controls QEMU."""

    # The machine that it imitates.
    MACHINE = ("qemu-system-x86_64", "-cpu", PROCESSOR)
    PROCESSORS = 2
    KERNEL_LINE = KERNEL_LINE

    def __init__(self, disks, work, memory=1024, extra=()):
        super().__init__(work)
        work.mkdir(parents=True, exist_ok=True)
        self.disks = disks
        control = work / "qmp.sock"
        command = [
            *self.MACHINE, "-accel", "tcg,thread=multi", "-smp", str(self.PROCESSORS), "-m", str(memory),
            "-display", "none", "-nodefaults", "-no-user-config", "-kernel", disks.kernel, "-initrd", disks.initrd,
            # As every platform gives a machine one; `extra` may have that of a copy.
            "-uuid", "9d2c0f1e-52a7-4f0b-8a61-3c0de4b7a911",
            "-append", self.KERNEL_LINE, "-serial", f"file:{self.console}", "-object", "rng-random,id=rng,filename=/dev/urandom",
            "-device", "virtio-rng-pci,rng=rng",
            # No disk of these outlives the machine.
            "-drive", f"file={disks.root},format=raw,if=virtio,cache=unsafe",
            "-drive", f"file={disks.data},format=raw,if=virtio,cache=unsafe",
            "-device", "virtio-serial", "-chardev", f"socket,path={self.agent_path},server=on,wait=off,id=qga0",
            "-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0,id=agent0",
            "-chardev", f"socket,path={self.oob_path},server=on,wait=off,id=oob0",
            "-device", "virtserialport,chardev=oob0,name=org.qemu-ga-rs.oob",
            "-qmp", f"unix:{control},server=on,wait=off", *extra]
        self.log = open(work / "qemu.log", "wb")
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=subprocess.STDOUT)
        self.qmp = qmp.Qmp(control)

    def run_agent(self, program):
        """Replaces the service's process by another program (no hooks), also while the guest is frozen; returns its pid."""
        old = self.agent_pid()
        drop_in = "/run/systemd/system/qemu-guest-agent.service.d"
        # Set up once, then only a link in tmpfs is turned: even `mkdir -p` of what exists asks the root for a write.
        unit = "[Service]\\nExecStart=\\nExecStart=-/run/agent/qemu-ga\\n"
        self.oob.run(f"[ -e {drop_in}/link.conf ] || {{ mkdir -p {drop_in} /run/agent; printf '{unit}' >{drop_in}/link.conf; "
                     f"systemctl daemon-reload; }}; ln -sfn {program} /run/agent/qemu-ga; kill -9 {old}")
        while self.agent_pid() in (0, old):
            time.sleep(0.1)
        channel.wait_for_agent(self.agent_path, 60)
        return self.agent_pid()

    def thaw_anyway(self):
        """After a failed check: nothing may stay frozen for the next one."""
        try:
            with channel.Agent(self.agent_path) as agent:
                agent.send(b"\xff")
                agent.sync(20)
                agent.command("guest-fsfreeze-thaw")
        except (channel.ChannelError, OSError, ValueError):
            pass

    def stop(self):
        """Ends QEMU at once; the disks stay as they are."""
        if self.oob:
            self.oob.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
