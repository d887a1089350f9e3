"""All checks of the VM tier; importing this registers them in their order."""
import sys

from lib import paths
from . import clients, acceptance_replies, acceptance_clients, freeze, hooks, lifecycle, copies, packaged, hardening  # noqa: F401
from . import cannot_hurt_hold, cannot_hurt_limits, cannot_hurt_stack, cannot_hurt_kills, cannot_hurt_policy  # noqa: F401
from . import installed_clients  # noqa: F401
from . import channel  # noqa: F401
sys.path.insert(0, str(paths.CLIENTS))
import replayed  # noqa: E402,F401
# After what needs hooks: the agents that upgrade.py puts in place have none.
from . import restored, upgrade  # noqa: E402,F401
from . import hidden  # noqa: F401
from . import fleet  # noqa: F401
from . import packages, package_through_agent, packages_harm, rpm, guests  # noqa: F401
from . import acceptance_devices, acceptance_users, acceptance_system, acceptance_field  # noqa: F401
from . import stop_while_frozen  # noqa: F401
from . import databases, containers, mysql, uefi  # noqa: F401
from . import acceptance_power  # noqa: F401  (the last: its guests end)
