"""All checks of the VM tier; importing this registers them in their order."""
from . import clients, freeze, hooks, lifecycle, copies  # noqa: F401
from . import cannot_hurt_hold, cannot_hurt_limits, cannot_hurt_stack, cannot_hurt_kills, cannot_hurt_policy  # noqa: F401
from . import channel, upgrade  # noqa: F401
