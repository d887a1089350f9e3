"""All checks of the VM tier; importing this registers them in their order."""
from . import clients, freeze, hooks, lifecycle, copies, packaged, channel, upgrade  # noqa: F401
