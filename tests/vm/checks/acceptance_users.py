"""Passwords and keys as they are used: a login with su, a login with ssh, and what guest-get-users says of it."""
import base64
import json

from lib.report import check, equal, holds

KEYS = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl one@host",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 two@host", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 three@host"]
# sha512-crypt of "second"
SECOND = "$6$accept$KdqwwuoLxoisCsP5spOYiEP7ZaWRUGM34guJp9c1sd/LaG3pHUqxVYaY3p5yNU0X1OE.WsGTs8Ey8JpAY92NV/"

# As a user without rights: su asks for the password on a terminal of its own.
SU = """
import os, pty, sys
user, password = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    os.execv('/bin/su', ['su', user, '-c', 'id -un'])
said, sent = b'', False
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        data = b''
    if not data:
        break
    said += data
    if not sent and b'assword' in said:
        os.write(terminal, password.encode() + b'\\n'); sent = True
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print('in' if status == 0 and said.split()[-1] == user.encode() else 'out' if b'Authentication failure' in said else repr(said))
"""
SSH = "ssh -q -p 2222 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes -i /run/oob/{} tu@127.0.0.1 {}"


def add_user(g):
    """A user whose home has no .ssh and whose password is locked."""
    g.oob.run("id tu >/dev/null 2>&1 || useradd -m -s /bin/sh tu")
    g.oob.run("rm -rf /home/tu/.ssh; passwd -q -l tu")


def crypted(word):
    """A hash of `word`, as operators make it before it leaves their machine."""
    equal(word, "second", "the word of which a hash is known")
    return SECOND


def logs_in(g, user, password):
    """Whether su lets a stranger become `user` with `password`."""
    g.oob.run(f"cat >/run/oob/su.py <<'EOF'\n{SU}\nEOF")
    said = g.oob.run(f"python3 /run/oob/su.py {user} '{password}'", timeout=60).strip()
    holds(said in ("in", "out"), f"su says yes or no, not {said}")
    return said == "in"


def ssh_logs_in(g, key):
    """Whether sshd lets the holder of `key` in as tu."""
    return g.oob.run(SSH.format(key, "id -un") + " || true", timeout=60).strip() == "tu"


def serve_ssh(g):
    """A key pair or two, and an sshd on the guest's loopback."""
    g.oob.run("mkdir -p /run/sshd; cd /run/oob; for k in k1 k2; do [ -e $k ] || ssh-keygen -q -t ed25519 -N '' -C $k@test -f $k; done; "
              "[ -e /run/oob/sshd.pid ] || /usr/sbin/sshd -p 2222 -o ListenAddress=127.0.0.1 -o PidFile=/run/oob/sshd.pid", timeout=60)
    return g.oob.run("cat /run/oob/k1.pub /run/oob/k2.pub").splitlines()


@check("devices")
def passwords_plain_and_crypted_let_in(g):
    def set_password(word, crypt):
        return {"username": "tu", "password": base64.b64encode(word.encode()).decode(), "crypted": crypt}

    add_user(g)
    holds(not logs_in(g, "tu", "Grüße: 1 %"), "the locked user is kept out")
    with g.agent() as agent:
        equal(agent.ask("guest-set-user-password", set_password("Grüße: 1 %", False)), {}, "a plain password")
        holds(logs_in(g, "tu", "Grüße: 1 %"), "the plain password lets in")
        equal(agent.ask("guest-set-user-password", set_password(SECOND, True)), {}, "a crypted password")
        equal(g.oob.run("getent shadow tu").split(":")[1], SECOND, "the hash is stored as it was given")
        holds(logs_in(g, "tu", "second"), "the crypted password lets in")
        for arguments, text in ((set_password("a\nroot:b", False), "forbidden characters in raw password"),
                                ({**set_password("a", False), "username": "no-such"}, "child process has failed to set user password")):
            desc = agent.command("guest-set-user-password", arguments)["error"]["desc"]
            holds(text in desc, f"{text}, not {desc}")
    equal(g.oob.run("getent shadow tu").split(":")[1], SECOND, "the hash after refused changes")


@check("devices")
def ssh_keys_are_added_used_and_removed(g):
    add_user(g)
    one, two = serve_ssh(g)
    # sshd keeps locked accounts out, keys or not.
    g.oob.run("usermod -p '*' tu")
    holds(not ssh_logs_in(g, "k1"), "no key, no login")
    with g.agent() as agent:
        def keys():
            return agent.ask("guest-ssh-get-authorized-keys", {"username": "tu"})["keys"]

        def change(how, *which, **more):
            equal(agent.ask(f"guest-ssh-{how}-authorized-keys", {"username": "tu", "keys": list(which), **more}), {}, how)

        change("remove", one)
        change("add", one)
        holds(ssh_logs_in(g, "k1") and not ssh_logs_in(g, "k2"), "the added key lets in, the other does not")
        equal(g.oob.run("stat -c '%U %a' /home/tu/.ssh /home/tu/.ssh/authorized_keys"), "tu 700\ntu 600\n", "owner and mode")
        change("add", one, two)
        equal(sorted(keys()), sorted([one, two]), "an existing key is not added twice")
        holds(ssh_logs_in(g, "k2"), "the second key lets in")
        change("remove", one, "ssh-rsa AAAA not-there")
        equal(keys(), [two], "keys after a removal, of an absent one too")
        holds(not ssh_logs_in(g, "k1") and ssh_logs_in(g, "k2"), "the removed key keeps out")
        change("add", one, reset=True)
        holds(ssh_logs_in(g, "k1") and not ssh_logs_in(g, "k2"), "after a reset only the new key lets in")
        change("add", reset=True)
        equal(keys(), [], "an empty reset")
        desc = agent.command("guest-ssh-get-authorized-keys", {"username": "no-such"})["error"]["desc"]
        holds("failed to lookup user 'no-such'" in desc, desc)


@check("devices")
def a_login_is_among_the_users(g):
    one, _ = serve_ssh(g)
    add_user(g)
    g.oob.run("usermod -p '*' tu")
    with g.agent() as agent:
        equal(agent.ask("guest-get-users"), [], "users before")
        agent.ask("guest-ssh-add-authorized-keys", {"username": "tu", "keys": [one]})
        before = float(g.oob.run("date +%s.%N"))
        first, second = (g.oob.start(SSH.format("k1", "-tt sleep 60")) for _ in range(2))
        try:
            # Not who(1): without utmp it shows nobody.
            g.oob.run("for i in $(seq 100); do [ $(pgrep -u tu -xfc 'sleep 60') = 2 ] && exit; sleep 0.2; done; ps -u tu; exit 1", timeout=60)
            users = agent.ask("guest-get-users")
            equal([user["user"] for user in users], ["tu"], "users while one is logged in twice")
            holds(before - 1 <= users[0]["login-time"] <= float(g.oob.run("date +%s.%N")), f"time of login: {json.dumps(users)}")
        finally:
            g.oob.run("pkill -u tu; true")
            first.wait(20), second.wait(20)
