"""A guest in which rpm installs, upgrades, swaps and removes the agent, and its scripts run under systemd.

Debian's systemd stands for that of RHEL and Fedora: a real one is not to be had here. Dependencies are another
distribution's, so they are not looked at.
"""
import os
import pathlib
import subprocess
import tempfile

from . import packages, paths

SPEC = paths.ROOT / "rpm/qemu-ga-rs.spec"
STAND_IN = paths.VM / "rpm/qemu-guest-agent.spec"
BUILT = paths.LAST_RUN / "rpms"
OURS, NEWER, THEIRS = "/root/ours.rpm", "/root/newer.rpm", "/root/theirs.rpm"
# What each is built of: ours, one of a higher release, and a stand-in for the distribution's.
RECIPES = {OURS: (SPEC, ()), NEWER: (SPEC, ("dist .1",)), THEIRS: (STAND_IN, (f"original {paths.ORIGINAL}",))}
OUR_NAME, THEIR_NAME = "qemu-ga-rs", "qemu-guest-agent"
PATIENCE = packages.PATIENCE
# Debian 12's rpm installs on Debian only with this option; later ones do not know it.
RPM = "rpm $(rpm --help | grep -o -m1 -e --force-debian)"
# What `dnf swap` does: one package comes and one goes in a single transaction, the coming one first.
SWAP = """
import os, sys
import rpm
old, new = sys.argv[1:]
ts = rpm.TransactionSet()
ts.setVSFlags(-1)
ts.addErase(old)
with open(new) as file:
    ts.addInstall(ts.hdrFromFdno(file.fileno()), new, "i")
ts.order()
files = {}
def call(reason, amount, total, key, data):
    if reason == rpm.RPMCALLBACK_INST_OPEN_FILE:
        files[key] = os.open(key, os.O_RDONLY)
        return files[key]
    if reason == rpm.RPMCALLBACK_INST_CLOSE_FILE:
        os.close(files.pop(key))
problems = ts.run(call, "")
sys.exit("; ".join(str(problem) for problem in problems or []) or None)
"""


class RpmGuest(packages.PackageGuest):
    """A guest without a package of an agent at first."""

    PROCESSORS = 1

    @staticmethod
    def build(log):
        """Makes all three, of what cargo has built; returns the status of the last that was tried."""
        # Not below this tree: patterns of %files match nothing where the path has a blank.
        with tempfile.TemporaryDirectory() as scratch:
            return RpmGuest.build_in(scratch, log)

    @staticmethod
    def build_in(scratch, log):
        """The same with a directory for what rpmbuild makes meanwhile."""
        for to, (spec, defines) in RECIPES.items():
            words = ["rpmbuild", "-bb", "--nodeps", "--build-in-place"]
            for define in (f"_topdir {scratch}", f"_rpmdir {BUILT}/{pathlib.Path(to).stem}", *defines):
                words += ["--define", define]
            status = subprocess.run([*words, spec], cwd=paths.ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(paths.target())},
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode
            if status != 0:
                break
        return status

    @staticmethod
    def files(original):
        found = {to: list((BUILT / pathlib.Path(to).stem).glob(f"{os.uname().machine}/*.rpm")) for to in RECIPES}
        missing = [to for to, made in found.items() if len(made) != 1]
        if missing:
            raise SystemExit(f"{', '.join(missing)}: not built")
        return [(made, to, 0o644) for to, (made,) in found.items()]

    def rpm(self, words, check=True):
        """rpm itself. Returns (status, what was said)."""
        return self.say(f"{RPM} --nodeps {words}", check)

    def swap(self, old, new):
        """One package for another, in one transaction. Returns (status, what was said)."""
        self.oob.run(f"cat >/run/oob/swap.py <<'END_OF_FILE'\n{SWAP}END_OF_FILE")
        return self.say(f"python3 /run/oob/swap.py {old} {new}")

    def afresh(self, package):
        """The state with which a check begins: that package alone, as it comes."""
        self.oob.run("systemctl stop qemu-guest-agent", check=False)
        self.oob.run(f"for name in {OUR_NAME} {THEIR_NAME}; do rpm -q $name && {RPM} --noscripts -e $name; done; rm -rf /etc/qemu-ga "
                     "/etc/sysconfig/qemu-ga* /etc/logrotate.d/qemu-guest-agent* /run/systemd/system/qemu-guest-agent.service.d "
                     "/run/qga* /var/log/qemu-ga; systemctl unmask qemu-guest-agent; systemctl daemon-reload; systemctl reset-failed",
                     PATIENCE, check=False)
        if package:
            self.rpm(f"-i {package}")
            # The distribution's leaves the start to the next boot.
            self.oob.run("systemctl start qemu-guest-agent")
            self.answers()

    def restarts(self):
        """How often systemd has started the service again by itself."""
        return int(self.oob.run("systemctl show -p NRestarts --value qemu-guest-agent").strip() or 0)
