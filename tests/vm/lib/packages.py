"""A guest in which dpkg and apt install, replace and remove the agent."""
import subprocess
import time

from . import channel, guest, paths

OURS = "/root/qemu-ga-rs.deb"
DEBIANS = "/root/qemu-guest-agent.deb"
OUR_NAME, DEBIANS_NAME = "qemu-ga-rs", "qemu-guest-agent"
CONF, HOOK = "/etc/qemu/qemu-ga.conf", "/etc/qemu/fsfreeze-hook"
PORT = "/dev/virtio-ports/org.qemu.guest_agent.0"
# Software emulation on a busy machine: dpkg alone may take a minute.
PATIENCE = 300
POWER_SECONDS = 120


class PackageGuest(guest.RawGuest):
    """Plain QEMU; its control connection is for plugging the port."""

    @staticmethod
    def build(log):
        """Makes ours of this checkout; returns the status."""
        return subprocess.run([paths.ROOT / "tests/package/build", "deb"], stdout=log, stderr=subprocess.STDOUT).returncode

    @staticmethod
    def files(original):
        """What is put into the guest, from where, to where; `original` is Debian's agent of the guest's release."""
        ours, debians = paths.packages(original)
        return [(ours, OURS, 0o644), (debians, DEBIANS, 0o644)]

    def service(self, action):
        """What an administrator does with the service."""
        self.oob.run(self.service_command(action))

    def service_command(self, action):
        return f"systemctl {action} qemu-guest-agent"

    def active(self):
        """Whether the init system takes the service for running."""
        return self.oob.run("systemctl is-active qemu-guest-agent", check=False).strip() == "active"

    def starts_by_itself(self):
        """Whether what starts the service at a boot is there."""
        return self.oob.start("test -e /lib/udev/rules.d/60-qemu-guest-agent.rules").wait(60)[0] == 0

    def forget(self):
        """Drops what checks have set up of the service."""
        self.oob.run("rm -rf /run/systemd/system/qemu-guest-agent.service.d; systemctl daemon-reload; systemctl reset-failed", check=False)

    def apt(self, package, *options, check=True):
        """Installs a package as an unattended machine does: nobody answers questions. Returns (status, what was said)."""
        words = " ".join(f"-o Dpkg::Options::={option}" for option in options)
        return self.say("DEBIAN_FRONTEND=noninteractive apt-get install -q -y --reinstall --allow-downgrades --no-install-recommends "
                        f"{words} {package}", check)

    def dpkg(self, words, check=True):
        """dpkg itself. Returns (status, what was said)."""
        return self.say(f"DEBIAN_FRONTEND=noninteractive dpkg {words}", check)

    def say(self, command, check=True):
        """A command that finds nobody to ask. Returns (status, what was said)."""
        status, out, err = self.oob.start(f"{command} </dev/null 2>&1").wait(PATIENCE)
        if check and status != 0:
            raise AssertionError(f"{command} ended with {status}:\n{out}{err}")
        return status, out + err

    def afresh(self, package):
        """The state with which a check begins: that package alone, as it comes."""
        _, said = self.say(f"dpkg --configure -a --force-confdef --force-confold </dev/null; dpkg --purge --force-remove-reinstreq {OUR_NAME} "
                           f"{DEBIANS_NAME}; rm -rf /etc/qemu", check=False)
        if self.state(OUR_NAME).strip("un ") or self.state(DEBIANS_NAME).strip("un "):
            raise AssertionError(f"the packages could not be purged:\n{said}")
        self.forget()
        if package:
            self.dpkg(f"-i {package}")
            # Debian's package leaves the start to the next boot.
            self.service("start")
            self.answers()

    def ours(self):
        """The state with which a check of the service begins: our package as it comes, not taken out first where it is there."""
        if self.state(OUR_NAME) != "ii ":
            self.afresh(OURS)
            return
        self.forget()
        self.oob.run(f"cp /usr/share/qemu-ga-rs/qemu-ga.conf {CONF}; rm -f /etc/qemu/fsfreeze-hook.d/*")
        self.service("restart")
        self.answers()

    def answers(self, within=60):
        """Seconds until the agent answers on a connection of its own."""
        return channel.wait_for_agent(self.agent_path, within)

    def answers_soon(self, after, host=None):
        """Within 2 s of the operation before: on the connection that a host has kept, or on a new one."""
        started = time.monotonic()
        if host is None:
            self.answers()
        else:
            host.send(b"\xff")
            host.sync(60)
        waited = time.monotonic() - started
        print(f"    {self.work.name}: answers {waited:.2f} s after {after}", flush=True)
        if waited >= 2:
            raise AssertionError(f"answers within 2 s after {after}, not {waited:.1f} s")

    def owner(self, path="/usr/sbin/qemu-ga"):
        """The package that a file belongs to."""
        return self.oob.run(f"dpkg -S {path}").split(":")[0]

    def state(self, package):
        """Its status as dpkg has it: `ii `, `rc `, `iU ` and the like; empty if it knows none."""
        return self.oob.run(f"dpkg-query -W -f '${{db:Status-Abbrev}}' {package} 2>/dev/null", check=False)

    def is_ours(self):
        """Whether qemu-ga-rs is what runs."""
        pid = self.agent_pid()
        return pid != 0 and "qemu-ga-rs" in self.oob.run(f"/proc/{pid}/exe --version")

    def run_with_hooks(self):
        """Restarts the service with -F, whichever package it is of."""
        drop_in = "/run/systemd/system/qemu-guest-agent.service.d"
        self.oob.run(f"mkdir -p {drop_in}; printf '[Service]\\nExecStart=\\nExecStart=-/usr/sbin/qemu-ga -F\\n' >{drop_in}/hooks.conf; "
                     "systemctl daemon-reload; systemctl restart qemu-guest-agent")
        self.answers()

    def guest_shutdown(self, mode):
        """Sends guest-shutdown, to which no answer may come, and forgets QEMU's events before it."""
        self.qmp.forget()
        with self.agent() as agent:
            agent.send(b'{"execute":"guest-shutdown","arguments":{"mode":"%s"}}\n' % mode.encode())
            self.qmp.event("RESET" if mode == "reboot" else "SHUTDOWN", POWER_SECONDS)
            if agent.pending:
                raise AssertionError(f"guest-shutdown was answered: {agent.pending}")

    def reboot(self):
        """By guest-shutdown; returns when the guest is up again."""
        self.guest_shutdown("reboot")
        self.oob.close()
        self.wait_booted()

    def port(self, plugged):
        """Plugs the agent's port in or out, and waits until the guest has seen it."""
        if plugged:
            self.qmp.ask("device_add", driver="virtserialport", chardev="qga0", name="org.qemu.guest_agent.0", id="agent0")
        else:
            self.qmp.ask("device_del", id="agent0")
        end = time.monotonic() + 30
        while self.oob.run(f"test -e {PORT} && echo there", check=False).strip() != ("there" if plugged else ""):
            if time.monotonic() > end:
                raise AssertionError(f"the guest did not see its port {'come' if plugged else 'go'} within 30 s")
            time.sleep(0.2)


class Arm64Guest(PackageGuest):
    """One with another processor."""

    ARCHITECTURE = "arm64"
    MACHINE = ("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57")
    KERNEL_LINE = guest.KERNEL_LINE.replace("ttyS0", "ttyAMA0")

    @staticmethod
    def build(log):
        """Makes ours for that processor; returns the status."""
        return subprocess.run([paths.ROOT / "tests/package/build", "deb", Arm64Guest.ARCHITECTURE],
                              stdout=log, stderr=subprocess.STDOUT).returncode

    @staticmethod
    def files(original):
        ours, debians = paths.packages(original, Arm64Guest.ARCHITECTURE)
        return [(ours, OURS, 0o644), (debians, DEBIANS, 0o644)]


class SysvGuest(PackageGuest):
    """One whose process 1 is sysvinit's: the service is /etc/init.d's script, and no journal is kept."""

    LOGS = "dmesg; cat /var/log/dpkg.log /var/log/qga-fsfreeze-hook.log"

    def service_command(self, action):
        return f"/etc/init.d/qemu-guest-agent {action}"

    def active(self):
        return self.oob.start("/etc/init.d/qemu-guest-agent status").wait(60)[0] == 0

    def starts_by_itself(self):
        # One link of each runlevel, and what they lead to may be executed.
        return self.oob.run("ls /etc/rc[0-6].d | grep -c '^[SK][0-9]*qemu-guest-agent$'; test -x /etc/init.d/qemu-guest-agent && echo so",
                            check=False).split() == ["7", "so"]

    def forget(self):
        self.oob.run("rm -f /etc/default/qemu-guest-agent")

    def agent_pid(self):
        # The script's file, for the process may be gone and the file still there.
        return int(self.oob.run("pid=$(cat /run/qemu-ga.pid 2>/dev/null) && kill -0 $pid 2>/dev/null && echo $pid", check=False).strip() or 0)

    def run_with_hooks(self):
        self.oob.run("echo DAEMON_ARGS=-F >/etc/default/qemu-guest-agent; /etc/init.d/qemu-guest-agent restart")
        self.answers()
