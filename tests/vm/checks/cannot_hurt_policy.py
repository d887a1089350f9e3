"""What others have frozen, the policy keys, the report over the wire, and a log on a frozen filesystem."""
import contextlib
import json
import time

from lib import harm
from lib.report import check, equal, holds

# A FAT of 720 KiB: its driver knows no freezing.
MAKE_FAT = """
boot = bytearray(512)
boot[0:11] = b"\\xeb\\x3c\\x90MSDOS5.0"
boot[11:36] = (512).to_bytes(2, "little") + bytes([2, 1, 0, 2, 112, 0, 0xA0, 5, 0xF9, 3, 0, 9, 0, 2, 0]) + bytes(10)
boot[38] = 0x29
boot[54:62] = b"FAT12   "
boot[510:512] = b"\\x55\\xaa"
image = bytearray(1440 * 512)
image[0:512] = boot
for fat in (512, 512 * 4):
    image[fat:fat + 3] = b"\\xf9\\xff\\xff"
open("/run/fat.img", "wb").write(image)
"""


@contextlib.contextmanager
def frozen_by_a_stranger(g):
    """/data, frozen by fsfreeze; without the hook that writes there."""
    g.oob.run(f"mv {harm.HOOKS}/20-writes /run/; fsfreeze -f /data")
    try:
        yield
    finally:
        g.oob.run(f"fsfreeze -u /data; mv /run/20-writes {harm.HOOKS}/", timeout=30, check=False)


def still_frozen(g, folder):
    """A write there waits; returns its job."""
    job = g.oob.start(f"echo x >{folder}/waits")
    holds(job.wait(1)[0] is None, f"a write to {folder} waits")
    return job


def outcomes(report):
    return {f["mountpoint"]: f["outcome"] for f in report["filesystems"]}


@check("harm")
def a_stranger_s_freeze_is_told_apart(g):
    harm.only_light_hooks(g)
    harm.settle(g)
    g.oob.run(f"rm -f {harm.STAMPS}")
    with frozen_by_a_stranger(g), g.agent() as agent:
        answer = agent.command("guest-fsfreeze-freeze")
        equal(answer.get("error", {}).get("desc"), "failed to freeze /data: someone else has frozen it already", "the error")
        equal(agent.ask("guest-fsfreeze-status"), "thawed", "status")
        harm.writable(g, "/root")
        harm.hooks_are_paired(g)
        waits = still_frozen(g, "/data")
        g.oob.run("fsfreeze -u /data")
        equal(waits.wait(20)[0], 0, "the write that waited for the stranger")


@check("harm")
def ignore_frozen_and_optional_pass_over_a_stranger_s_freeze(g):
    harm.only_light_hooks(g)
    for key, level in (("fsfreeze_ignore_frozen", "crash"), ("fsfreeze_optional", "application")):
        harm.settle(g, **{key: "/data" if "optional" in key else "true"})
        with frozen_by_a_stranger(g), g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 1, f"filesystems frozen with {key}")
            waits = still_frozen(g, "/data")
            equal(agent.ask("guest-fsfreeze-thaw"), 1, "filesystems thawed")
            holds(waits.wait(1)[0] is None, "the stranger's freeze is left alone")
            newest = agent.ask("x-guest-fsfreeze-report")["reports"][0]
            equal((outcomes(newest), newest["level"]), ({"/": "thawed", "/data": "skipped"}, level), f"the report with {key}")
            g.oob.run("fsfreeze -u /data")
            equal(waits.wait(20)[0], 0, "the write that waited")


@check("harm")
def exclude_include_and_modes_decide_what_is_frozen(g):
    harm.only_light_hooks(g)
    for key, value in (("exclude", "/data"), ("exclude", "type:xfs"), ("include", "dev:/dev/vda")):
        harm.settle(g, **{f"fsfreeze_{key}": value})
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 1, f"filesystems frozen with {key}={value}")
            harm.writable(g, "/data")
            waits = still_frozen(g, "/root")
            equal(agent.ask("guest-fsfreeze-thaw"), 1, "filesystems thawed")
            equal(waits.wait(20)[0], 0, "the write that waited")
    harm.settle(g, fsfreeze_mode="hooks-only")
    g.oob.run(f"rm -f {harm.STAMPS}")
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 0, "filesystems frozen with hooks-only")
        equal(harm.stamps(g), {("freeze", "10-stamp"): 1, ("freeze", "30-stamp"): 1}, "hooks so far")
        harm.writable(g, "/root", "/data")
        equal(agent.ask("guest-fsfreeze-thaw"), 0, "filesystems thawed")
    harm.hooks_are_paired(g)


@check("harm")
def strict_mode_refuses_what_cannot_freeze(g):
    harm.only_light_hooks(g)
    g.oob.run(f"cat >/run/oob/fat.py <<'END_OF_FILE'\n{MAKE_FAT}END_OF_FILE\npython3 /run/oob/fat.py; modprobe loop; modprobe vfat; "
              "mkdir -p /mnt/fat && mount -o loop /run/fat.img /mnt/fat && echo x >/mnt/fat/x")
    try:
        for strict in ("false", "true"):
            harm.settle(g, fsfreeze_strict=strict)
            g.oob.run(f"rm -f {harm.STAMPS}")
            with g.agent() as agent:
                answer = agent.command("guest-fsfreeze-freeze")
                if strict == "false":
                    equal(answer, {"return": 2}, "filesystems frozen beside a FAT")
                    equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
                else:
                    equal(answer.get("error", {}).get("desc"), "failed to freeze /mnt/fat: this type of filesystem cannot be frozen", "the error")
                    harm.writable(g, "/root", "/data", "/mnt/fat")
            harm.hooks_are_paired(g)
    finally:
        g.oob.run("umount /mnt/fat", timeout=30)


@check("harm")
def the_report_tells_what_a_snapshot_is_worth(g):
    harm.only_light_hooks(g)
    harm.settle(g)
    for level, spoiler in (("application", "exit 0"), ("filesystem", "[ $1 = thaw ] || { echo no luck today; exit 3; }")):
        with harm.hook(g, "60-may-fail", spoiler), g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
            time.sleep(0.5)
            frozen = agent.ask("x-guest-fsfreeze-report")["reports"][0]
            equal((frozen["level"], frozen.get("end")), (level, None), "level and end while frozen")
            holds(frozen["stages"]["held"] >= 0.4, f"time held so far: {frozen['stages']}")
            equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
            thawed = agent.ask("x-guest-fsfreeze-report")["reports"][0]
        equal((thawed["id"], thawed["level"], thawed["end"]), (frozen["id"], level, "thaw"), "id, level and end after the thaw")
        equal(outcomes(thawed), {"/": "thawed", "/data": "thawed"}, "outcomes")
        holds(thawed["applications-seconds"] >= thawed["filesystems-seconds"] >= 0.4, f"times: {thawed['stages']}")
        hooks = [(h["path"].rsplit("/")[-1], h["phase"]) for h in thawed["hooks"]]
        names = ["10-stamp", "20-writes", "30-stamp", "60-may-fail"]
        equal(hooks, [(n, "freeze") for n in names] + [(n, "thaw") for n in reversed(names)], "hooks in the order in which they ran")
        if level == "filesystem":
            failed = [h for h in thawed["hooks"] if h["status"] != {"exited": 0}]
            equal([(h["status"], h["output"].strip()) for h in failed], [({"exited": 3}, "no luck today")], "the hook that failed")


@check("harm")
def lines_of_the_frozen_time_are_kept_with_their_own_times(g):
    harm.only_light_hooks(g)
    harm.settle(g)
    # The log, what holds the state directory, and the binary all lie on what is frozen.
    g.oob.run("sed -i 's|^.general.|&\\nlogfile=/var/log/qga-kept.log\\nverbose=true\\nstatedir=/var/lib/qga-state|' /etc/qemu/qemu-ga.conf; "
              "mkdir -p /var/lib/qga-state /run/qga-state; mountpoint -q /var/lib/qga-state || mount --bind /run/qga-state /var/lib/qga-state; "
              "rm -f /var/log/qga-kept.log; systemctl restart qemu-guest-agent")
    try:
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen")
            begin = float(g.oob.run("date +%s.%N"))
            for _ in range(3):
                agent.ask("guest-ping")
                time.sleep(0.4)
            end = float(g.oob.run("date +%s.%N"))
            size = g.oob.run("stat -c %s /var/log/qga-kept.log").strip()
            time.sleep(1.5)
            equal(g.oob.run("stat -c %s /var/log/qga-kept.log").strip(), size, "size of the log while frozen")
            equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
        lines = [line.split(": ", 2) for line in g.oob.run("cat /var/log/qga-kept.log").splitlines()]
        stamps = [float(line[0]) for line in lines]
        equal(stamps, sorted(stamps), "the log's times, in order")
        pings = [float(line[0]) for line in lines if line[2] == "processing command guest-ping"]
        holds(len(pings) == 3 and all(begin < ping < end for ping in pings), f"pings between {begin} and {end}: {pings}")
        g.oob.run("journalctl --sync")
        journal = [json.loads(line) for line in g.oob.run("journalctl -q -o json -n 40 -t qemu-ga").splitlines()]
        at = max(n for n, entry in enumerate(journal) if entry["MESSAGE"] == "info: guest-fsthaw called")
        before = journal[at - 3:at]
        equal([entry["MESSAGE"] for entry in before], ["info: guest-ping called"] * 3, "what the journal has before the thaw")
        # journald notes when it got them; the sender's own time is that of the frozen moment, to the second.
        own = [entry["SYSLOG_TIMESTAMP"].split()[2] for entry in before]
        seconds = {time.strftime("%H:%M:%S", time.gmtime(second)) for second in range(int(begin), int(end) + 1)}
        holds(set(own) <= seconds, f"the journal's lines bear their own times: {own} in {sorted(seconds)}")
    finally:
        harm.settle(g)
        g.oob.run("umount /var/lib/qga-state", timeout=30, check=False)
