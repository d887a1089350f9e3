"""Host tools of qemu-ga-rs: snapshots with a known consistency level, and the state of the agents of many domains.

They need libvirt's Python bindings and nothing else. `agent` and `connection` talk to libvirt, `holder` is the process that freezes and
thaws, `label` is what a snapshot leaves in its domain; `snapshot` and `fleet` are the programs.
"""

import argparse

VERSION = "1.0.0-rc.1"
# In rising order. An agent that gives no report leaves `unknown`, which proves no more than `crash` does.
LEVELS = ("none", "crash", "filesystem", "application")
UNKNOWN = "unknown"


def rank(level):
    """The level as a number from 0 to 3."""
    return LEVELS.index("crash" if level == UNKNOWN else level)


def number_to(most):
    """For argparse: a number from 1 to that one."""
    def number(word):
        value = int(word)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from 1 to {most}")
        return value
    return number
