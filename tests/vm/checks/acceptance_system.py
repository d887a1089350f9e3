"""Clock, processors, memory, trim and sleep of a guest, seen from inside and from QEMU."""
import time

from lib.report import check, equal, holds
from lib.channel import wait_for_agent
from lib.devices import MIB

WEEK = 7 * 86400


@check("devices")
def the_clock_is_set_to_a_week_back_and_from_the_hardware_clock(g):
    def clock():
        return int(g.oob.run("date +%s"))

    with g.agent() as agent:
        now = clock()
        try:
            equal(agent.ask("guest-set-time", {"time": (now - WEEK) * 10**9}), {}, "set-time")
            holds(0 <= clock() - (now - WEEK) < 20, "the clock is a week back")
            holds(0 <= agent.ask("guest-get-time") // 10**9 - (now - WEEK) < 20, "get-time says so")
            hardware = int(g.oob.run("date -d \"$(hwclock -r)\" +%s"))
            holds(0 <= hardware - (now - WEEK) < 20, f"the hardware clock was set as well: {hardware - now} s")
            g.oob.run(f"date -s @{now}")
            equal(agent.ask("guest-set-time"), {}, "set-time from the hardware clock")
            holds(0 <= clock() - (now - WEEK) < 40, "the clock follows the hardware clock")
            for wrong, text in ((-1, "Failed to set time to guest: Invalid argument"), (3155760000000000000, "Invalid time")):
                answer = agent.command("guest-set-time", {"time": wrong})
                holds(answer["error"]["desc"].startswith(text), f"{text}, not {answer}")
        finally:
            agent.ask("guest-set-time", {"time": int(time.time()) * 10**9})
    holds(abs(clock() - time.time()) < 5, "the clock is right again")


@check("devices")
def the_clocks_are_set_without_hwclock(g):
    # Debian 13 has it in a package of its own. The kernel shows the hardware clock too, in UTC.
    clock = "echo $(date +%s) $(cat /sys/class/rtc/rtc0/since_epoch)"
    place = g.oob.run("readlink -f $(command -v hwclock)").strip()
    g.oob.run(f"mv {place} {place}.away")
    try:
        with g.agent() as agent:
            now = int(time.time())
            equal(agent.ask("guest-set-time", {"time": (now - WEEK) * 10**9}), {}, "set-time")
            system, hardware = map(int, g.oob.run(clock).split())
            holds(0 <= system - (now - WEEK) < 20, f"the system's clock is a week back: {system - now} s")
            holds(abs(hardware - system) <= 1, f"the hardware clock is that of the system: {hardware - system} s")
            g.oob.run(f"date -s @{now}")
            equal(agent.ask("guest-set-time"), {}, "set-time from the hardware clock")
            system, hardware = map(int, g.oob.run(clock).split())
            holds(0 <= system - (now - WEEK) < 40, f"the system's clock is that of the hardware: {system - now} s")
            holds(abs(hardware - system) <= 1, f"the clocks agree: {hardware - system} s")
            g.oob.run("printf '0.0 0 0.0\\n0\\nLOCAL\\n' >/etc/adjtime")
            text = agent.command("guest-set-time").get("error", {}).get("desc", "")
            holds("failed to exec '/sbin/hwclock'" in text and "local time" in text, f"a clock in local time is left alone: {text}")
    finally:
        g.oob.run(f"mv {place}.away {place}; rm -f /etc/adjtime")
        with g.agent() as agent:
            agent.ask("guest-set-time", {"time": int(time.time()) * 10**9})


@check("devices")
def processors_go_off_and_on(g):
    online = "cat /sys/devices/system/cpu/online; nproc"
    with g.agent() as agent:
        def change(*pairs):
            return agent.command("guest-set-vcpus", {"vcpus": [{"logical-id": cpu, "online": on} for cpu, on in pairs]})

        def shown():
            return {cpu["logical-id"]: (cpu["online"], cpu["can-offline"]) for cpu in agent.ask("guest-get-vcpus")}

        try:
            equal(shown(), {0: (True, False), 1: (True, True)}, "processors")
            equal(change((1, False)), {"return": 1}, "off")
            equal((g.oob.run(online), shown()[1]), ("0\n1\n", (False, True)), "processor 1 is off")
            equal(change((0, True), (1, True)), {"return": 2}, "on")
            equal(g.oob.run(online), "0-1\n2\n", "both are on")
            equal(change((0, False))["error"]["desc"], "logical processor #0 can't be offlined", "processor 0")
            equal(change((1, True), (0, False)), {"return": 1}, "an error behind the first is the count so far")
            equal(change((9, True))["error"]["desc"], "Could not open '/sys/devices/system/cpu/cpu9/': No such file or directory", "processor 9")
            equal(change(), {"return": 0}, "none")
        finally:
            g.oob.run("echo 1 >/sys/devices/system/cpu/cpu1/online", check=False)


@check("devices")
def hot_plugged_memory_goes_on_and_off(g):
    with g.agent() as agent:
        def blocks():
            return {block["phys-index"]: block["online"] for block in agent.ask("guest-get-memory-blocks")}

        def change(**wanted):
            blks = [{"phys-index": int(name[1:]), "online": on} for name, on in wanted.items()]
            return agent.ask("guest-set-memory-blocks", {"mem-blks": blks})

        size = agent.ask("guest-get-memory-block-info")["size"]
        equal(size, int(g.oob.run("cat /sys/devices/system/memory/block_size_bytes"), 16), "size of a block")
        before = blocks()
        listed = g.oob.run("cd /sys/devices/system/memory; for b in memory[0-9]*; do echo ${b#memory} $(cat $b/state); done").splitlines()
        equal(before, {int(line.split()[0]): line.split()[1] == "online" for line in listed}, "blocks as sysfs has them")
        g.qmp.ask("object-add", qom_type="memory-backend-ram", id="mem1", size=2 * size)
        g.qmp.ask("device_add", driver="pc-dimm", id="dimm1", memdev="mem1")
        end = time.monotonic() + 30
        while len(new := sorted(set(blocks()) - set(before))) < 2:
            holds(time.monotonic() < end, f"two new blocks appear, not {new}")
            time.sleep(0.2)
        one, two = (f"b{index}" for index in new)
        total = "awk '/^MemTotal/ {print $2 * 1024}' /proc/meminfo"
        start = int(g.oob.run(total)) - size * sum(blocks()[index] for index in new)
        equal([r["response"] for r in change(**{one: True, two: True})], ["success"] * 2, "on")
        holds(all(blocks()[index] for index in new), "both blocks are on")
        equal(int(g.oob.run(total)) - start, 2 * size, "the kernel's memory has grown")
        end = time.monotonic() + 20
        while (answer := change(**{two: False}))[0]["response"] != "success":
            # The kernel may have put something there that does not move at once.
            equal((answer[0]["response"], answer[0]["error-code"] > 0), ("operation-failed", True), "off, not yet possible")
            holds(time.monotonic() < end, "the block goes off")
            time.sleep(0.5)
        holds(not blocks()[new[1]], "the second block is off")
        answer = change(b999999=True, **{two: True})
        equal(sorted((r["phys-index"], r["response"], r.get("error-code")) for r in answer),
              [(new[1], "success", None), (999999, "not-found", 2)], "a block that is not there, and one that is")


@check("devices")
def a_trim_shrinks_the_disk_image(g):
    disk = g.device("trim")
    g.oob.run(f"mkdir -p /mnt/trim; mkfs.ext4 -q {disk} && mount {disk} /mnt/trim")
    try:
        g.oob.run("head -c 150000000 /dev/urandom >/mnt/trim/fill; sync -f /mnt/trim", timeout=120)
        full = g.allocated("trim")
        holds(full > 140 * MIB, f"the image has grown to {full} bytes")
        g.oob.run("rm /mnt/trim/fill; sync -f /mnt/trim")
        holds(g.allocated("trim") > 140 * MIB, "deleting alone frees nothing on the host")
        with g.agent() as agent:
            entries = {entry["path"]: entry for entry in agent.ask("guest-fstrim", timeout=60)["paths"]}
            empty = g.allocated("trim")
            equal(set(entries), {"/", "/data", "/mnt/trim"}, "paths of the trim")
            holds(entries["/mnt/trim"].get("trimmed", 0) > 140 * MIB, f"bytes trimmed: {entries['/mnt/trim']}")
            holds(empty < 40 * MIB, f"the image has shrunk from {full} to {empty} bytes")
            refused = agent.ask("guest-fstrim", {"minimum": -1}, timeout=60)["paths"]
            holds(all(entry.get("error", "").startswith("failed to trim: ") for entry in refused), f"a minimum beyond all: {refused}")
    finally:
        g.oob.run("umount /mnt/trim")


@check("devices")
def suspend_to_ram_and_wake_up(g):
    holds(g.qmp.ask("query-current-machine")["wakeup-suspend-support"], "the machine can wake up")
    g.oob.run("grep -q mem /sys/power/state")
    boot, pid = g.boot_id(), g.agent_pid()
    for turn in range(2):
        g.qmp.forget()
        with g.agent() as agent:
            agent.send(b'{"execute":"guest-suspend-ram"}\n')
            g.qmp.event("SUSPEND", 60)
            equal(g.qmp.ask("query-status")["status"], "suspended", "QEMU's state")
        g.qmp.ask("system_wakeup")
        g.qmp.event("WAKEUP", 30)
        wait_for_agent(g.agent_path, 60)
        g.oob.close()
        g.wait_booted()
        equal((g.boot_id(), g.agent_pid()), (boot, pid), "same boot, same agent")
    with g.agent() as agent:
        equal(agent.ask("guest-fsfreeze-freeze"), 2, "a freeze after the sleep")
        equal(agent.ask("guest-fsfreeze-thaw"), 2, "its thaw")
