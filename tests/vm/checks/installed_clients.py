"""Clients that others wrote, as their users install them (tests/clients), over the machine's libvirt."""
import hashlib
import json
import os
import subprocess
import time

from lib import clients, paths
from lib.report import check, equal, holds
from .acceptance_users import add_user, logs_in


class Nova:
    """OpenStack Nova's Guest of a libvirt guest."""

    def __init__(self, g):
        self.log = open(g.work / "nova.log", "w")
        command = [clients.PYTHON, str(paths.CLIENTS / "nova_guest.py"), g.daemon.uri, g.name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env=clients.environment("nova"))

    def call(self, method, *arguments):
        """What the method returns; an error of Nova's as {"error": …}."""
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        holds(line, f"Nova answers; see {self.log.name}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


@check("libvirt")
def nova_freezes_thaws_sets_time_and_password(g):
    with Nova(g) as nova:
        for frozen in ("frozen", "thawed"):
            equal(nova.call("freeze_filesystems" if frozen == "frozen" else "thaw_filesystems"), None, "Nova's call")
            equal(g.ask("guest-fsfreeze-status"), frozen, "status")
        # Nova thaws after a failed snapshot too.
        equal(nova.call("thaw_filesystems"), None, "a thaw of what is not frozen")
        nova.call("freeze_filesystems")
        try:
            holds("has been disabled" in nova.call("freeze_filesystems")["error"], "a second freeze is refused")
        finally:
            nova.call("thaw_filesystems")

        g.oob.run("date -s @1700000000")
        # It logs a failure and returns nothing, so the clock shows it.
        nova.call("sync_guest_time")
        holds(abs(int(g.oob.run("date +%s")) - time.time()) < 20, "the guest's clock is the host's")

        add_user(g)
        equal(nova.call("set_user_password", "tu", "of Nova"), None, "set_user_password")
        holds(logs_in(g, "tu", "of Nova"), "the new password lets the user in")
        holds("child process has failed" in nova.call("set_user_password", "nobody-such", "x")["error"], "a user that is not there")


@check("libvirt")
def ansible_runs_commands_and_copies_files(g):
    source, fetched = g.work / "source", g.work / "fetched"
    # Several pieces for guest-file-write, and bytes that no text has.
    source.write_bytes(os.urandom(300_000) + bytes(range(256)))
    inventory = g.work / "inventory.json"
    # systemd gives a service no HOME, so that a shell that an agent starts leaves ~ as it is.
    inventory.write_text(json.dumps({"all": {"hosts": {g.name: {
        "ansible_connection": "community.libvirt.libvirt_qemu", "ansible_libvirt_uri": g.daemon.uri, "ansible_remote_tmp": "/root/.ansible",
        "ansible_python_interpreter": "/usr/bin/python3"}}, "vars": {"source": str(source), "fetched": str(fetched)}}}))
    command = [clients.PYTHON, "-m", "ansible", "playbook", "--inventory", str(inventory), str(paths.CLIENTS / "ansible.yml")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
                          env={**clients.environment("ansible", "ansible-collections"), "ANSIBLE_HOME": str(g.work / "ansible")})
    (g.work / "ansible.log").write_text(done.stdout)
    equal(done.returncode, 0, f"Ansible's exit status: {done.stdout}")
    wanted = hashlib.sha256(source.read_bytes()).hexdigest()
    equal(g.oob.run("sha256sum </root/copied; stat -c %a /root/copied").split(), [wanted, "-", "640"], "the copy in the guest")
    equal(hashlib.sha256(fetched.read_bytes()).hexdigest(), wanted, "the copy of the copy")
    g.oob.run("rm -rf /root/copied /root/.ansible")
