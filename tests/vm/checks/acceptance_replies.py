"""Every query command's live reply against its declared shape: mandatory members, no unknown ones, integers as integers."""
from lib.report import check, equal, holds

U64 = range(0, 2**64)
I64 = range(-2**63, 2**63)
NUMBER = float
PCI = {"domain": I64, "bus": I64, "slot": I64, "function": I64}
CCW = {"cssid": I64, "ssid": I64, "subchno": I64, "devno": I64}
BUS = ("ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd", "unknown", "ieee1394", "ssa", "fibre", "raid", "iscsi",
       "sas", "mmc", "virtual", "file-backed-virtual", "nvme")
ADDRESS = {"pci-controller": PCI, "bus-type": BUS, "bus": I64, "target": I64, "unit": I64, "serial?": str, "dev?": str, "ccw-address?": CCW}
COUNTERS = "data-units-read data-units-written host-read-commands host-write-commands controller-busy-time power-cycles " \
           "power-on-hours unsafe-shutdowns media-errors number-of-error-log-entries".split()
SMART = {"type": ("nvme",), "critical-warning": I64, "temperature": I64, "available-spare": I64, "available-spare-threshold": I64,
         "percentage-used": I64, **{f"{name}-{half}": U64 for name in COUNTERS for half in ("lo", "hi")}}
STATISTICS = {f"{way}-{what}": U64 for way in ("rx", "tx") for what in ("bytes", "packets", "errs", "dropped")}
DISK_STATS = "read-sectors read-ios read-merges write-sectors write-ios write-merges discard-sectors discard-ios discard-merges " \
             "flush-ios read-ticks write-ticks discard-ticks flush-ticks ios-pgr total-ticks weight-ticks".split()
OS = "kernel-release kernel-version machine id name pretty-name version version-id variant variant-id".split()

# A member with a question mark may be missing; a one-element list is an array of such elements; a tuple is an enumeration.
SHAPES = {
    "guest-ping": {},
    "guest-info": {"version": str, "supported_commands": [{"name": str, "enabled": bool, "success-response": bool}]},
    "guest-get-time": U64,
    "guest-get-host-name": {"host-name": str},
    "guest-get-timezone": {"zone?": str, "offset": I64},
    "guest-get-load": {"load1m": NUMBER, "load5m": NUMBER, "load15m": NUMBER},
    "guest-get-osinfo": {f"{name}?": str for name in OS},
    "guest-get-users": [{"user": str, "login-time": NUMBER, "domain?": str}],
    "guest-get-vcpus": [{"logical-id": U64, "online": bool, "can-offline?": bool}],
    "guest-get-memory-blocks": [{"phys-index": U64, "online": bool, "can-offline?": bool}],
    "guest-get-memory-block-info": {"size": U64},
    "guest-fsfreeze-status": ("thawed", "frozen"),
    "guest-get-fsinfo": [{"name": str, "mountpoint": str, "type": str, "used-bytes?": U64, "total-bytes?": U64,
                          "total-bytes-privileged?": U64, "disk": [ADDRESS]}],
    "guest-get-disks": [{"name": str, "partition": bool, "dependencies?": [str], "address?": ADDRESS, "alias?": str, "smart?": SMART}],
    "guest-get-diskstats": [{"name": str, "major": U64, "minor": U64, "stats": {f"{name}?": U64 for name in DISK_STATS}}],
    "guest-get-cpustats": [{"type": ("linux",), "cpu": I64, "user": U64, "nice": U64, "system": U64, "idle": U64, "iowait?": U64,
                            "irq?": U64, "softirq?": U64, "steal?": U64, "guest?": U64, "guestnice?": U64}],
    "guest-network-get-interfaces": [{"name": str, "hardware-address?": str, "statistics?": STATISTICS, "ip-addresses?": [
        {"ip-address": str, "ip-address-type": ("ipv4", "ipv6"), "prefix": range(129)}]}],
    "guest-network-get-route": [{"iface": str, "destination": str, "metric": I64, "version": (4, 6), "gateway?": str, "mask?": str,
                                 "flags?": U64, "refcnt?": I64, "use?": I64, "mtu?": I64, "window?": I64, "irtt?": I64,
                                 "desprefixlen?": str, "source?": str, "srcprefixlen?": str, "nexthop?": str}],
}


def fits(value, shape, where):
    """Fails, naming the place, when `value` has not the shape."""
    if isinstance(shape, dict):
        holds(type(value) is dict, f"{where} is an object, not {value!r}")
        known = {name.rstrip("?"): (inner, name.endswith("?")) for name, inner in shape.items()}
        for name, inner in value.items():
            holds(name in known, f"{where} has the unknown member {name}")
            fits(inner, known[name][0], f"{where}.{name}")
        for name, (_, optional) in known.items():
            holds(optional or name in value, f"{where} lacks {name}: {value!r}")
    elif isinstance(shape, list):
        holds(type(value) is list, f"{where} is an array, not {value!r}")
        for number, inner in enumerate(value):
            fits(inner, shape[0], f"{where}[{number}]")
    elif isinstance(shape, range):
        holds(type(value) is int and value in shape, f"{where} is an integer from {shape.start} to {shape.stop - 1}, not {value!r}")
    elif isinstance(shape, tuple):
        holds(any(type(value) is type(one) and value == one for one in shape), f"{where} is one of {shape}, not {value!r}")
    elif shape is NUMBER:
        holds(type(value) in (int, float), f"{where} is a number, not {value!r}")
    else:
        holds(type(value) is shape, f"{where} is of type {shape.__name__}, not {value!r}")


# May be empty, as nobody is logged in.
MAY_BE_EMPTY = {"guest-get-users"}


def validate(ask):
    """All query commands through `ask`."""
    for command, shape in SHAPES.items():
        value = ask(command)
        fits(value, shape, command)
        if isinstance(shape, list) and command not in MAY_BE_EMPTY:
            holds(value, f"{command} lists something")


@check("libvirt")
def every_query_reply_has_its_declared_shape(g):
    validate(g.ask)


@check("devices")
def every_query_reply_has_its_declared_shape_with_many_devices(g):
    with g.agent() as agent:
        validate(agent.ask)
        info = agent.ask("guest-info")["supported_commands"]
        silent = {c["name"] for c in info if not c["success-response"]}
        equal(silent, {"guest-shutdown", "guest-suspend-disk", "guest-suspend-ram", "guest-suspend-hybrid"}, "commands without an answer")
        holds("guest-get-devices" not in {c["name"] for c in info}, "guest-get-devices is not advertised on Linux")


@check("libvirt")
def statistics_are_those_of_the_kernel(g):
    disks = {d["name"]: d for d in g.ask("guest-get-diskstats")}
    lines = [line.split() for line in g.oob.run("cat /proc/diskstats").splitlines()]
    equal(sorted(disks), sorted(line[2] for line in lines), "names of diskstats")
    for line in lines:
        disk = disks[line[2]]
        equal([disk["major"], disk["minor"]], [int(line[0]), int(line[1])], f"device number of {line[2]}")
        for column, name in ((3, "read-ios"), (5, "read-sectors"), (7, "write-ios"), (9, "write-sectors")):
            holds(disk["stats"][name] <= int(line[column]), f"{name} of {line[2]}: {disk['stats'][name]}, a moment later {line[column]}")
        holds(line[2] not in ("vda", "vdb") or disk["stats"]["read-ios"] > 0, f"{line[2]} was read from")
    stats = g.ask("guest-get-cpustats")
    cpus = [line.split() for line in g.oob.run("grep '^cpu[0-9]' /proc/stat").splitlines()]
    equal([f"cpu{one['cpu']}" for one in stats], [line[0] for line in cpus], "processors of cpustats")
    for one, line in zip(stats, cpus):
        # In milliseconds, the kernel's in hundredths of a second.
        holds(0 <= int(line[4]) * 10 - one["idle"] < 60_000, f"idle of {line[0]}: {one['idle']}, a moment later {line[4]} ticks")
    loads, kernels = g.ask("guest-get-load"), g.oob.run("cat /proc/loadavg").split()
    for name, kernel in zip(("load1m", "load5m", "load15m"), kernels):
        holds(abs(loads[name] - float(kernel)) < 0.5, f"{name}: {loads[name]}, the kernel's {kernel}")
