"""libvirt's remaining calls of the agent, each through virsh and through python3-libvirt."""
import json
import time

import libvirt

from lib.report import check, equal, holds
from .acceptance_users import KEYS, add_user, crypted, logs_in
from .clients import table


def rows(info, prefix):
    """guestinfo's numbered groups (`disk.0.name`, …) as a list of dictionaries."""
    return [{key[len(f"{prefix}.{i}."):]: value for key, value in info.items() if key.startswith(f"{prefix}.{i}.")}
            for i in range(int(info[f"{prefix}.count"]))]


@check("libvirt", "newest-libvirt")
def virsh_guestinfo_timezone_users_disks_interfaces(g):
    g.oob.run("ip link add dum0 type dummy && ip addr add 192.0.2.7/24 dev dum0 && ip addr add 2001:db8::7/64 dev dum0 && ip link set dum0 up")
    try:
        info = table(g.daemon.virsh("guestinfo", g.name, "--timezone", "--user", "--disk", "--interface").stdout)
        equal((info["timezone.name"], info["timezone.offset"]), ("UTC", "0"), "time zone")
        equal(info["user.count"], "0", "users logged in")
        disks = {disk["name"]: disk for disk in rows(info, "disk")}
        equal({name: (disk["partition"], disk.get("alias")) for name, disk in disks.items()},
              {"/dev/vda": ("no", "vda"), "/dev/vdb": ("no", "vdb")}, "disks, with libvirt's own names found by the PCI address")
        links = {link["name"]: link for link in rows(info, "if")}
        equal(set(links), {"lo", "dum0"}, "interfaces")
        equal(links["dum0"]["hwaddr"], g.oob.run("cat /sys/class/net/dum0/address").strip(), "MAC address of dum0")
        shown = g.virsh("domifaddr", "--source", "agent", "--full")
        for address in ("192.0.2.7/24", "2001:db8::7/64", "127.0.0.1/8", "::1/128"):
            holds(address in shown, f"domifaddr shows {address}: {shown}")
        with g.daemon.domain(g.name) as domain:
            found = domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
            equal({a["addr"] for a in found["lo"]["addrs"]}, {"127.0.0.1", "::1"}, "interfaceAddresses() of lo")
            equal(domain.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_TIMEZONE)["timezone.offset"], 0, "guestInfo()'s offset")
            equal(domain.hostname(libvirt.VIR_DOMAIN_GET_HOSTNAME_AGENT), "freeze-me", "hostname()")
    finally:
        g.oob.run("ip link del dum0")


@check("newest-libvirt")
def virsh_guestinfo_load(g):
    info = table(g.virsh("guestinfo", "--load"))
    for name, kernel in zip(("1m", "5m", "15m"), g.oob.run("cat /proc/loadavg").split()):
        holds(abs(float(info[f"load.{name}"]) - float(kernel)) < 0.5, f"load.{name} is {info[f'load.{name}']}, the kernel's {kernel}")


@check("libvirt", "newest-libvirt")
def virsh_guest_agent_timeout_and_the_late_reply(g):
    pid = g.agent_pid()
    g.virsh("guest-agent-timeout", "--timeout", "2")
    try:
        g.oob.run(f"kill -STOP {pid}")
        done = g.daemon.virsh("domtime", g.name, check=False)
        holds("agent" in done.stderr and done.returncode != 0, f"libvirt gives up: {done.stderr}")
        g.oob.run(f"kill -CONT {pid}")
        g.wait_agent(60)
        # What comes after must be its own reply, not that to what was given up.
        equal(g.virsh("domhostname").strip(), "freeze-me", "domhostname afterwards")
    finally:
        g.oob.run(f"kill -CONT {pid}")
        g.virsh("guest-agent-timeout", "--timeout", "-2")


@check("libvirt", "newest-libvirt")
def virsh_guestvcpus_and_setvcpus(g):
    def online():
        return g.oob.run("cat /sys/devices/system/cpu/online").strip()

    shown = dict(line.split(":") for line in g.virsh("guestvcpus").replace(" ", "").splitlines())
    equal(shown, {"vcpus": "0-1", "online": "0-1", "offlinable": "1"}, "guestvcpus")
    try:
        g.virsh("guestvcpus", "--cpulist", "1", "--disable")
        equal(online(), "0", "processors online after --disable")
        g.virsh("guestvcpus", "--cpulist", "1", "--enable")
        equal(online(), "0-1", "processors online after --enable")
        g.virsh("setvcpus", "1", "--guest")
        equal(online(), "0", "processors online after setvcpus 1")
        equal(g.virsh("vcpucount", "--guest").strip(), "1", "vcpucount --guest")
        g.virsh("setvcpus", "2", "--guest")
        with g.daemon.domain(g.name) as domain:
            domain.setGuestVcpus("1", 0)
            equal(domain.guestVcpus(), {"vcpus": "0-1", "online": "0", "offlinable": "1"}, "guestVcpus()")
            domain.setGuestVcpus("1", 1)
        equal(online(), "0-1", "processors online at the end")
    finally:
        g.oob.run("echo 1 >/sys/devices/system/cpu/cpu1/online", check=False)
    done = g.daemon.virsh("guestvcpus", g.name, "--cpulist", "0", "--disable", check=False)
    holds(done.returncode != 0, "processor 0 cannot be taken off, and virsh says so")


@check("libvirt", "newest-libvirt")
def virsh_domtime_set_and_sync(g):
    def clock():
        return int(g.oob.run("date +%s"))

    now = clock()
    week = now - 7 * 86400
    try:
        g.virsh("domtime", "--time", str(week))
        holds(0 <= clock() - week < 20, f"the guest's clock is a week back: {clock() - now} s")
        holds(0 <= int(g.virsh("domtime").split(":")[1]) - week < 20, "domtime says so too")
        # Written to the hardware clock as well: what comes from there is the same week back.
        g.oob.run(f"date -s @{now}")
        g.virsh("domtime", "--sync")
        holds(0 <= clock() - week < 40, f"--sync takes the hardware clock's time: {clock() - now} s")
        with g.daemon.domain(g.name) as domain:
            domain.setTime({"seconds": now + 1000, "nseconds": 5_000_000})
            holds(0 <= domain.getTime()["seconds"] - now - 1000 < 20, "getTime() after setTime()")
    finally:
        g.virsh("domtime", "--time", str(int(time.time())))
    holds(abs(clock() - time.time()) < 5, "the clock is right again")


@check("libvirt", "newest-libvirt")
def virsh_set_user_password_then_log_in(g):
    add_user(g)
    g.virsh("set-user-password", "tu", "first secret")
    holds(logs_in(g, "tu", "first secret"), "the new password lets the user in")
    g.virsh("set-user-password", "tu", crypted("second"), "--encrypted")
    holds(logs_in(g, "tu", "second"), "the crypted password lets the user in")
    holds(not logs_in(g, "tu", "first secret"), "the old password does not")
    with g.daemon.domain(g.name) as domain:
        domain.setUserPassword("tu", "third")
    holds(logs_in(g, "tu", "third"), "a password of setUserPassword()")
    done = g.daemon.virsh("set-user-password", g.name, "nobody-such", "x", check=False)
    holds("child process has failed to set user password" in done.stderr, f"a user that is not there: {done.stderr}")
    logged = g.oob.run("journalctl --sync; journalctl -q -b -o cat")
    holds("secret" not in logged and "third" not in logged, "no password in the journal")


@check("libvirt", "newest-libvirt")
def virsh_user_sshkeys(g):
    def shown():
        # Some versions of virsh print no line ends between the keys.
        text = g.virsh("get-user-sshkeys", "tu").strip()
        keys = {key for key in KEYS if key in text}
        equal(len(text.replace("\n", "")), sum(map(len, keys)), f"length of {text}")
        return keys

    add_user(g)
    file = g.work / "keys"
    done = g.daemon.virsh("get-user-sshkeys", g.name, "tu", check=False)
    holds("No such file or directory" in done.stderr, f"no key file yet: {done.stderr}")
    file.write_text("\n".join(KEYS[:2]) + "\n")
    g.virsh("set-user-sshkeys", "tu", "--file", str(file))
    equal(shown(), set(KEYS[:2]), "keys after adding two")
    file.write_text(KEYS[2] + "\n")
    g.virsh("set-user-sshkeys", "tu", "--file", str(file), "--reset")
    equal(shown(), {KEYS[2]}, "keys after a reset to one")
    g.virsh("set-user-sshkeys", "tu", "--file", str(file), "--remove")
    equal(shown(), set(), "keys after its removal")
    with g.daemon.domain(g.name) as domain:
        domain.authorizedSSHKeysSet("tu", KEYS[:1])
        equal(domain.authorizedSSHKeysGet("tu"), KEYS[:1], "authorizedSSHKeysGet()")
        domain.authorizedSSHKeysSet("tu", KEYS[:1], libvirt.VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_REMOVE)


@check("libvirt", "newest-libvirt")
def virsh_domfstrim(g):
    g.virsh("domfstrim")
    g.virsh("domfstrim", "--minimum", str(1 << 20))
    with g.daemon.domain(g.name) as domain:
        equal(domain.fSTrim(None, 0), 0, "fSTrim()")
    paths = {entry["path"] for entry in g.ask("guest-fstrim")["paths"]}
    equal(paths, {"/", "/data"}, "what was trimmed")


@check("libvirt", "newest-libvirt")
def virsh_agent_command_runs_a_program(g):
    def run(**arguments):
        pid = g.ask("guest-exec", arguments)["pid"]
        end = time.monotonic() + 30
        while not (status := g.ask("guest-exec-status", {"pid": pid}))["exited"]:
            holds(time.monotonic() < end, f"{arguments} ends")
            time.sleep(0.1)
        return status

    words = {"path": "sh", "arg": ["-c", "echo out; echo err >&2; cat; echo $X; exit 3"], "env": ["X=y", "PATH=/usr/bin:/bin"]}
    equal(run(**words), {"exited": True, "exitcode": 3}, "what is not captured is not reported")
    for mode, wanted in ((True, {"out-data": "b3V0CmluCnkK", "err-data": "ZXJyCg=="}), ("separated", {"out-data": "b3V0CmluCnkK", "err-data": "ZXJyCg=="}),
                         ("stdout", {"out-data": "b3V0CmluCnkK"}), ("stderr", {"err-data": "ZXJyCg=="}),
                         ("merged", {"out-data": "b3V0CmVycgppbgp5Cg=="})):
        status = run(**words, **{"capture-output": mode, "input-data": "aW4K"})
        got = {key: value for key, value in status.items() if not key.endswith("-truncated")}
        equal(got, {"exited": True, "exitcode": 3, **wanted}, f"capture-output {mode}")
    equal(run(path="sh", arg=["-c", "kill -9 $$"])["signal"], 9, "the signal that ended a program")
    done = g.daemon.virsh("qemu-agent-command", g.name, '{"execute":"guest-exec","arguments":{"path":"/no/such"}}', check=False)
    holds("Failed to execute child process" in done.stderr and "No such file or directory" in done.stderr, done.stderr)


@check("libvirt", "newest-libvirt")
def virsh_agent_command_reads_and_writes_files(g):
    handle = g.ask("guest-file-open", {"path": "/root/written", "mode": "w+"})
    equal(g.ask("guest-file-write", {"handle": handle, "buf-b64": "aGVsbG8gd29ybGQ="}), {"count": 11, "eof": False}, "a write")
    equal(g.ask("guest-file-write", {"handle": handle, "buf-b64": "aGVsbG8gd29ybGQ=", "count": 5}), {"count": 5, "eof": False}, "a partial write")
    g.ask("guest-file-flush", {"handle": handle})
    equal(g.oob.run("cat /root/written"), "hello worldhello", "the file after a flush")
    for whence, offset, position in ((0, 3, 3), ("set", 4, 4), (1, 1, 5), ("cur", 1, 6), (2, -1, 15), ("end", -5, 11)):
        equal(g.ask("guest-file-seek", {"handle": handle, "offset": offset, "whence": whence}), {"position": position, "eof": False},
              f"a seek by {offset}, whence {whence}")
    equal(g.ask("guest-file-read", {"handle": handle, "count": 3}), {"count": 3, "buf-b64": "aGVs", "eof": False}, "a read")
    equal(g.ask("guest-file-read", {"handle": handle}), {"count": 2, "buf-b64": "bG8=", "eof": True}, "a read to the end")
    for arguments, text in (({"count": -1}, "value '-1' is invalid for argument count"),
                            ({"count": 10**10}, "value '10000000000' is invalid for argument count")):
        request = {"execute": "guest-file-read", "arguments": {"handle": handle, **arguments}}
        done = g.daemon.virsh("qemu-agent-command", g.name, json.dumps(request), check=False)
        holds(text in done.stderr, f"{text}, not {done.stderr}")
    g.ask("guest-file-close", {"handle": handle})
    # libvirt's own protocol takes strings of up to 4 MiB.
    g.oob.run("head -c 3000000 /dev/zero >/root/large")
    handle = g.ask("guest-file-open", {"path": "/root/large"})
    answer = g.ask("guest-file-read", {"handle": handle, "count": 10_000_000}, timeout=60)
    equal((answer["count"], len(answer["buf-b64"]), answer["eof"]), (3_000_000, 4_000_000, True), "3 MB in one answer")
    g.ask("guest-file-close", {"handle": handle})
    g.oob.run("rm /root/large /root/written")
