"""What libvirt's own clients (virsh, python3-libvirt as OpenStack Nova uses it) get from the agent."""
import json

from lib.report import check, equal, holds

ISSUE_COMMANDS = {
    "guest-sync", "guest-sync-delimited", "guest-ping", "guest-info", "guest-fsfreeze-status", "guest-fsfreeze-freeze",
    "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw", "guest-get-time", "guest-get-host-name", "guest-get-osinfo",
    "guest-get-fsinfo"}


def table(text):
    """virsh guestinfo's `key : value` lines as a dictionary."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def file_systems(info, wanted=frozenset({("/", "ext4", "vda"), ("/data", "xfs", "vdb")})):
    """Compares guestinfo's fs.* with what the guest is made of."""
    count = int(info["fs.count"])
    got = {(info[f"fs.{i}.mountpoint"], info[f"fs.{i}.fstype"], info[f"fs.{i}.name"]) for i in range(count)}
    equal(got, set(wanted), "filesystems of guestinfo")


@check("libvirt", "newest-libvirt")
def virsh_ping_info_sync(g):
    equal(g.ask("guest-ping"), {}, "guest-ping")
    info = g.ask("guest-info")
    enabled = {c["name"] for c in info["supported_commands"] if c["enabled"]}
    equal(ISSUE_COMMANDS - enabled, set(), "commands missing from guest-info")
    holds(len(info["version"].split(".")) == 3, f"a version of the shape x.y.z, not {info['version']}")
    for number in (0, -1, 1700000000123, 2**63 - 1, -2**63):
        equal(g.ask("guest-sync", {"id": number}), number, "guest-sync's echo")


@check("libvirt", "newest-libvirt")
def virsh_unknown_command_is_an_error_and_the_channel_lives_on(g):
    text = g.refused("guest-no-such-command")
    holds("guest-no-such-command has not been found" in text, f"CommandNotFound's text, not: {text}")
    equal(g.ask("guest-ping"), {}, "guest-ping afterwards")


@check("libvirt", "newest-libvirt")
def virsh_domfsinfo(g):
    rows = {tuple(line.split()) for line in g.virsh("domfsinfo").splitlines() if line.strip()}
    equal(rows, {("/", "vda", "ext4", "vda"), ("/data", "vdb", "xfs", "vdb")}, "domfsinfo")


@check("libvirt", "newest-libvirt")
def virsh_guestinfo_by_parts(g):
    info = table(g.virsh("guestinfo", "--os", "--hostname", "--filesystem"))
    release = dict(line.split("=", 1) for line in g.oob.run("cat /etc/os-release").splitlines() if "=" in line)
    for key, name in (("os.id", "ID"), ("os.name", "NAME"), ("os.pretty-name", "PRETTY_NAME"), ("os.version-id", "VERSION_ID")):
        equal(info.get(key), release[name].strip('"'), key)
    equal(info.get("os.kernel-release"), g.oob.run("uname -r").strip(), "os.kernel-release")
    equal(info.get("hostname"), "freeze-me", "hostname")
    file_systems(info)
    used, total = g.oob.run("df -B1 --output=used,size /data | tail -n 1").split()
    data = next(i for i in range(2) if info[f"fs.{i}.mountpoint"] == "/data")
    equal(info[f"fs.{data}.total-bytes"], total, "total-bytes of /data")
    equal(info[f"fs.{data}.used-bytes"], used, "used-bytes of /data")
    equal(info[f"fs.{data}.disk.0.alias"], "vdb", "libvirt's own name of /data's disk, found by its PCI address")


@check("libvirt", "newest-libvirt")
def virsh_guestinfo_bare(g):
    info = table(g.virsh("guestinfo"))
    equal(info.get("hostname"), "freeze-me", "hostname")
    holds("os.id" in info, "os.id is reported")
    file_systems(info)


@check("libvirt", "newest-libvirt")
def virsh_domtime_and_domhostname(g):
    seconds = int(g.virsh("domtime").split(":")[1])
    inside = int(g.oob.run("date +%s"))
    holds(abs(seconds - inside) <= 3, f"domtime says {seconds}, the guest's clock {inside}")
    equal(g.virsh("domhostname").strip(), "freeze-me", "domhostname")


@check("libvirt", "newest-libvirt")
def virsh_domfsfreeze_domfsthaw(g):
    equal(g.daemon.virsh("domfsfreeze", g.name, quiet=False).stdout.strip(), "Froze 2 filesystem(s)", "domfsfreeze")
    equal(g.ask("guest-fsfreeze-status"), "frozen", "status")
    equal(g.daemon.virsh("domfsthaw", g.name, quiet=False).stdout.strip(), "Thawed 2 filesystem(s)", "domfsthaw")
    equal(g.ask("guest-fsfreeze-status"), "thawed", "status")


@check("libvirt", "newest-libvirt")
def virsh_domfsfreeze_one_mountpoint(g):
    g.oob.run("rm -f /root/free /data/held")
    shown = g.daemon.virsh("domfsfreeze", g.name, "--mountpoint", "/data", quiet=False).stdout.strip()
    equal(shown, "Froze 1 filesystem(s)", "domfsfreeze --mountpoint /data")
    equal(g.oob.run("echo x >/root/free && echo written", timeout=10), "written\n", "a write to / while only /data is frozen")
    held = g.oob.start("echo x >/data/held")
    holds(held.wait(1)[0] is None, "a write to /data waits")
    equal(g.daemon.virsh("domfsthaw", g.name, quiet=False).stdout.strip(), "Thawed 1 filesystem(s)", "domfsthaw")
    equal(held.wait(20)[0], 0, "the held write's status")


@check("libvirt", "newest-libvirt")
def virsh_domfsthaw_when_not_frozen(g):
    equal(g.ask("guest-fsfreeze-thaw"), 0, "a thaw of what is not frozen")
    equal(g.ask("guest-fsfreeze-freeze-list", {"mountpoints": []}), 0, "a freeze of an empty list")
    equal(g.ask("guest-fsfreeze-freeze-list", {"mountpoints": ["/no/such"]}), 0, "a freeze of an unknown mountpoint")
    equal(g.ask("guest-fsfreeze-status"), "thawed", "status")


@check("libvirt", "newest-libvirt")
def python_libvirt_fsfreeze_as_nova(g):
    with g.daemon.domain(g.name) as domain:
        equal(domain.fsFreeze(), 2, "fsFreeze()")
        equal(json.loads(g.virsh("qemu-agent-command", '{"execute":"guest-fsfreeze-status"}'))["return"], "frozen", "status")
        equal(domain.fsThaw(), 2, "fsThaw()")
        got = {(fs[0], fs[1], fs[2], tuple(fs[3])) for fs in domain.fsInfo()}
        equal(got, {("/", "vda", "ext4", ("vda",)), ("/data", "vdb", "xfs", ("vdb",))}, "fsInfo()")
        equal(domain.fsFreeze(["/data"]), 1, "fsFreeze(['/data'])")
        equal(domain.fsThaw(), 1, "fsThaw()")
