"""What each measure of tests/bench/run means to a reader and how it is taken: the texts of FIGURES.md and the rows of the plot."""
import dataclasses


@dataclasses.dataclass
class Measure:
    """One row of the page. `name` is that of the row in parts.py, commands.py or hooks.py."""

    name: str
    label: str
    means: str
    how: str


@dataclasses.dataclass
class Group:
    """One table of the page, under its title."""

    title: str
    about: str
    measures: list


DIRTY = ("A program in the guest appends one line at a time to a file and records the longest gap. The host freezes and thaws at once. "
         "Before each freeze {size} MB are written and not flushed, with the kernel's own writeback deferred{where}.")
SLOW = DIRTY.format(size=300, where=", on a disk that QEMU limits to 100 MB a second")
LOOP = DIRTY.format(size=600, where=", on ext4 in an image in the guest's memory")
CLEAN = "The same with nothing to write back: everything is flushed first."
TWENTY = ("The same with 17 more ext4 filesystems on images in memory, 20 in all. 300 MB are dirty on the slow disk; the writer is on another "
          "filesystem.")
COMMAND = "The time from the request guest-fsfreeze-freeze to its answer, in the same freezes."
HUNDRED = "The same for 100 ext4 filesystems on images in memory, in addition to the guest's own, after a sync."
WAKEUPS = ("Voluntary context switches of all threads during 5 seconds, read inside the guest, in a fresh agent that has answered ten "
           "pings over virtio-serial. First with the host's connection open, then one second after it was closed.")
MEMORY = "The agent's smaps_rollup and status at the end of the same idle time."
GROWTH = "Rss after 10,000 more requests (seven queries, file reads and sometimes a program), less the Rss after the first 1,000."
SIZE = "Size of the program after strip; size of the libraries that ldd names, without libc and its parts."
PING_UNIX = "3,000 guest-ping over a unix socket on the machine itself, each from request to answer, after 300 to warm up."
PING_VIRTIO = "1,000 guest-ping over virtio-serial into the guest. The guest is emulated: most of this time is the emulator's."
PROGRAMS = "On the machine itself: guest-exec of /bin/true, then guest-exec-status until the program has ended, 500 times."
INTERFACES = ("On the machine itself, in a network namespace with 1,000 veth interfaces, each with an address: the best of five requests, "
              "from request to the last byte of the answer.")
STORAGE = "In the guest, over a unix socket: the best of 15 requests, from request to the last byte of the answer."
FILES = "On the machine itself, 64 requests of 1 MiB each over a unix socket; the file is in memory."
HOOKS = "The installed hook master is called with freeze, as the agent calls it, for {what}. The thaw afterwards is not included."

GROUPS = [
    Group("Freeze", "A backup freezes the filesystems for a moment. Data that is not on the disk yet must be written first. The question is how long "
          "writers are blocked meanwhile.", [
              Measure("worst write stall, slow disk, 300 MB dirty", "write stall, slow disk, 300 MB dirty",
                      "how long a database waits for its write while a backup begins on a busy disk", SLOW),
              Measure("worst write stall, 20 filesystems, 300 MB dirty on one", "write stall, 20 filesystems, 300 MB dirty on one",
                      "the same if one busy filesystem delays all others", TWENTY),
              Measure("worst write stall, fast loop mount, 600 MB dirty", "write stall, fast disk, 600 MB dirty",
                      "the same with more to write and a disk as fast as memory", LOOP),
              Measure("worst write stall, slow disk, nothing dirty", "write stall, slow disk, nothing dirty",
                      "what a freeze of a quiet machine costs its writers", CLEAN),
              Measure("worst write stall, fast loop mount, nothing dirty", "write stall, fast disk, nothing dirty",
                      "the same on the fast disk", CLEAN),
              Measure("freeze command, slow disk, 300 MB dirty", "freeze command, slow disk, 300 MB dirty",
                      "how long the backup waits until it may begin; the data must be written in any case", COMMAND),
              Measure("freeze command, fast loop mount, 600 MB dirty", "freeze command, fast disk, 600 MB dirty",
                      "the same on the fast disk", COMMAND),
              Measure("freeze command, 20 filesystems", "freeze command, 20 filesystems, 300 MB dirty on one",
                      "the same with many filesystems", COMMAND),
              Measure("freeze command, 100 clean loop filesystems", "freeze command, 100 clean filesystems",
                      "the cost of the freeze itself, with nothing to write", HUNDRED),
          ]),
    Group("Idle", "An agent is idle nearly all the time, in every guest of a host.", [
        Measure("wakeups, host gone", "wakeups per second, no host connected",
                "each wakeup ends a processor's sleep, and a thousand guests add up", WAKEUPS),
        Measure("wakeups, host silent", "wakeups per second, host connected and silent",
                "the same if the host has the channel open, as libvirt does", WAKEUPS),
        Measure("threads", "threads", "fewer stacks, fewer wakeups", MEMORY),
    ]),
    Group("Memory and size", "What the agent needs in every guest, and in every image.", [
        Measure("resident (Rss), idle", "memory, resident (Rss)", "all pages in memory, those shared with other programs too", MEMORY),
        Measure("shared out (Pss), idle", "memory, shared pages by their share (Pss)", "roughly what the guest would gain without the agent; "
                "depends on which other programs use glib or libc", MEMORY),
        Measure("private dirty, idle", "memory, its own (private dirty)",
                "pages that no one else can use and that cannot be read again from disk", MEMORY),
        Measure("growth of Rss over 10000 mixed commands", "growth over 10,000 requests",
                "an agent that runs for years must not grow", GROWTH),
        Measure("binary, stripped", "program on disk", "what the program needs in an image", SIZE),
        Measure("libraries besides libc", "libraries other than libc",
                "what an image needs in addition, unless other programs need it, too", SIZE),
    ]),
    Group("Latency", "How soon a request is answered.", [
        Measure("ping, unix socket, p50", "guest-ping, unix socket, median",
                "the agent's own share of every request; Proxmox VE pings before nearly each", PING_UNIX),
        Measure("ping, unix socket, p99", "guest-ping, unix socket, 99th of 100", "the slow ones among them", PING_UNIX),
        Measure("ping, virtio-serial, p50", "guest-ping, virtio-serial, median",
                "the path that hosts use, through the guest's kernel", PING_VIRTIO),
        Measure("ping, virtio-serial, p99", "guest-ping, virtio-serial, 99th of 100", "the slow ones among them", PING_VIRTIO),
        Measure("exec of /bin/true with status, 500 times", "guest-exec with its status, 500 programs",
                "tools that configure or monitor a guest by running programs in it", PROGRAMS),
    ]),
    Group("Large replies", "Guests with many containers, disks or interfaces, and files through the agent.", [
        Measure("get-interfaces, 1000 of them", "guest-network-get-interfaces, 1,000 of them",
                "polled by management tools; a container host "
                "has hundreds", INTERFACES),
        Measure("get-fsinfo, 300 filesystems", "guest-get-fsinfo, 300 filesystems", "polled by KubeVirt; `virsh domfsinfo`", STORAGE),
        Measure("get-disks, 100 loop devices", "guest-get-disks, 100 loop devices", "`virsh guestinfo`, inventories", STORAGE),
        Measure("file-read, 64 MiB in 1 MiB pieces", "guest-file-read, 64 MiB", "reading files from the guest", FILES),
        Measure("file-write, 64 MiB in 1 MiB pieces", "guest-file-write, 64 MiB", "writing files to the guest", FILES),
    ]),
    Group("Freeze hooks", "The hook master, and the shell script of QEMU's package. Applications are quiesced while hooks run.", [
        Measure("hook master, each of 100 hooks that do nothing", "cost of one hook", "what the master itself adds to each hook",
                HOOKS.format(what="100 copies of /bin/true")),
        Measure("50 hooks of 100 ms, parallel", "50 hooks of 100 ms", "the script can only run them one after another; ours has the setting "
                "`parallel = yes`", HOOKS.format(what="50 hooks that sleep 100 ms")),
        Measure("5 hooks of 100 ms, serial", "5 hooks of 100 ms, one after another", "without settings, in the same way as the script",
                HOOKS.format(what="5 hooks that sleep 100 ms")),
    ]),
]


@dataclasses.dataclass
class Panel:
    """One panel of the plot: what less means, and pairs of (name of the row, label)."""

    title: str
    less: str
    pairs: list


PANELS = [
    Panel("A freeze blocks writers for", "less: applications do not notice a backup", [
        ("worst write stall, slow disk, 300 MB dirty", "slow disk, 300 MB not yet written"),
        ("worst write stall, 20 filesystems, 300 MB dirty on one", "20 filesystems, 300 MB on one of them"),
    ]),
    Panel("The freeze command takes", "less: the snapshot begins sooner", [
        ("freeze command, slow disk, 300 MB dirty", "slow disk, 300 MB not yet written"),
        ("freeze command, 100 clean loop filesystems", "100 filesystems, nothing to write"),
    ]),
    Panel("Wakeups per second, idle", "less: the guest's processor can sleep", [
        ("wakeups, host gone", "no host connected"),
        ("wakeups, host silent", "host connected, silent"),
    ]),
    Panel("Memory and size", "less: more guests fit on a host", [
        ("resident (Rss), idle", "memory, resident, idle"),
        ("binary, stripped", "program on disk"),
    ]),
    Panel("Requests take", "less: management tools wait less", [
        ("ping, virtio-serial, p50", "guest-ping over virtio-serial"),
        ("exec of /bin/true with status, 500 times", "guest-exec of 500 programs"),
    ]),
    Panel("Large replies take", "less: inventories and backups wait less", [
        ("get-interfaces, 1000 of them", "1,000 network interfaces"),
        ("get-fsinfo, 300 filesystems", "300 mounted filesystems"),
    ]),
]

MATRIX = """Every combination of 1, 4, 20 and 100 filesystems, clean or dirty, and three setups of hooks: the time of both commands, and how
long a writer is blocked. A ratio above 1 is in bold. How it was taken:

- *Where:* on the machine itself, not in the emulated guest, in a mount namespace whose root is ext4 on a loop device. With one filesystem
  that is the root alone; the others are ext4 on loop devices, too. All images are in memory, so the speed of a disk has no effect.
- *Rounds:* {rounds} of each agent, in turn: ours, the original, ours, …. Each agent has frozen once before.
- *Priority:* the agents, the programs and the measuring program have a nice value of -10 or less, so other work on the machine disturbs them less.
- *Commands:* from the request guest-fsfreeze-freeze to its answer over a unix socket; right after that the same with guest-fsfreeze-thaw.
- *Write stall:* a program repeatedly appends 512 bytes and sleeps for 1 ms. The stall is the longest time between two completed writes, so it is
  never below 1 ms. Such programs run at the same time on the root, and on the first and the last frozen filesystem other than the root.
- *Clean:* everything is flushed before, except the writers' own few records. *Dirty:* 200 MB are written and not flushed on the filesystem that
  is frozen first (the last mounted), with the kernel's own writeback deferred.
- *Hooks:* no `--fsfreeze-hook`; each agent's own hook master with an empty directory; the same with 5 copies of /bin/true.
"""
MEMORY_AFTER = """Of a fresh agent with 4 clean filesystems and without hooks, 2 seconds after its tenth and its hundredth thaw. Before the first freeze it
answers ten pings. Its children are included, if it has any. *Private dirty:* pages that no other process can use and that cannot be read
again from disk.
"""
