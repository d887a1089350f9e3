"""A guest in which dpkg and apt install, replace and remove the agent."""
import time

from . import channel, guest

OURS = "/root/qemu-ga-rs.deb"
DEBIANS = "/root/qemu-guest-agent.deb"
OUR_NAME, DEBIANS_NAME = "qemu-ga-rs", "qemu-guest-agent"
CONF, HOOK = "/etc/qemu/qemu-ga.conf", "/etc/qemu/fsfreeze-hook"
PORT = "/dev/virtio-ports/org.qemu.guest_agent.0"
# Software emulation on a busy machine: dpkg alone may take a minute.
PATIENCE = 300


class PackageGuest(guest.RawGuest):
    """Plain QEMU; its control connection is for plugging the port."""

    def start_bare(self):
        """Takes away what the image has of an agent without a package."""
        self.oob.run("systemctl stop qemu-guest-agent; rm -rf /lib/systemd/system/qemu-guest-agent.service /etc/qemu "
                     "/lib/udev/rules.d/60-qemu-guest-agent.rules; systemctl daemon-reload; systemctl reset-failed", check=False)

    def apt(self, package, *options, check=True):
        """Installs a package as an unattended machine does: nobody answers questions. Returns (status, what was said)."""
        words = " ".join(f"-o Dpkg::Options::={option}" for option in options)
        status, out, err = self.oob.start(f"DEBIAN_FRONTEND=noninteractive apt-get install -q -y --reinstall --allow-downgrades "
                                          f"--no-install-recommends {words} {package} </dev/null 2>&1").wait(PATIENCE)
        if check and status != 0:
            raise AssertionError(f"apt-get install {package} ended with {status}:\n{out}{err}")
        return status, out + err

    def dpkg(self, words, check=True):
        """dpkg itself. Returns (status, what was said)."""
        status, out, err = self.oob.start(f"DEBIAN_FRONTEND=noninteractive dpkg {words} </dev/null 2>&1").wait(PATIENCE)
        if check and status != 0:
            raise AssertionError(f"dpkg {words} ended with {status}:\n{out}{err}")
        return status, out + err

    def afresh(self, package):
        """The state with which a check begins: that package alone, as it comes."""
        self.oob.run(f"dpkg --configure -a --force-confdef --force-confold </dev/null; dpkg --purge --force-remove-reinstreq {OUR_NAME} {DEBIANS_NAME}; rm -rf /etc/qemu "
                     "/run/systemd/system/qemu-guest-agent.service.d; systemctl daemon-reload; systemctl reset-failed", PATIENCE, check=False)
        if package:
            self.dpkg(f"-i {package}")
            # Debian's package leaves the start to the next boot.
            self.oob.run("systemctl start qemu-guest-agent")
            self.answers()

    def answers(self, within=60):
        """Seconds until the agent answers on a connection of its own."""
        return channel.wait_for_agent(self.agent_path, within)

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
