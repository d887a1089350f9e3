"""Requests to a domain's guest agent, and what its reports say.

A report is an object of x-guest-fsfreeze-report (qemu-ga-ref(7), docs/json.md). It comes from the guest, so nothing in it is trusted to have
the documented type.
"""
import json

import libvirt
import libvirt_qemu

from . import LEVELS, UNKNOWN

REPORT = "x-guest-fsfreeze-report"

# Why a request has no answer.
MISSING, SILENT, REFUSED, STOPPED, LOST = "no-agent", "silent", "refused", "not-running", "connection-lost"
KINDS = {
    "VIR_ERR_AGENT_UNRESPONSIVE": SILENT,
    "VIR_ERR_AGENT_UNSYNCED": SILENT,
    "VIR_ERR_AGENT_COMMAND_TIMEOUT": SILENT,
    # Another request holds the agent.
    "VIR_ERR_OPERATION_TIMEOUT": SILENT,
    "VIR_ERR_ARGUMENT_UNSUPPORTED": MISSING,
    "VIR_ERR_OPERATION_INVALID": STOPPED,
    "VIR_ERR_NO_DOMAIN": STOPPED,
}
BY_CODE = {getattr(libvirt, name): kind for name, kind in KINDS.items() if hasattr(libvirt, name)}


class AgentFailure(Exception):
    """A request without an answer: `kind` is one of the constants above, the text says why."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


def failure(error, is_connected):
    """What libvirt's error means."""
    text = str(error)
    kind = BY_CODE.get(error.get_error_code(), REFUSED)
    if not is_connected:
        kind = LOST
    elif kind == SILENT and "not connected" in text:
        kind = MISSING
    # "internal error: unable to execute QEMU agent command 'guest-…': TEXT OF THE AGENT"
    _, found, shown = text.partition("unable to execute QEMU agent command ")
    return AgentFailure(kind, shown.partition(": ")[2] or text if found else text)


def ask(domain, command, timeout, arguments=None):
    """The value that the agent returns; raises AgentFailure. `timeout` in whole seconds."""
    request = {"execute": command}
    if arguments is not None:
        request["arguments"] = arguments
    try:
        answer = libvirt_qemu.qemuAgentCommand(domain, json.dumps(request), max(1, int(timeout)), 0)
    except libvirt.libvirtError as error:
        connection = domain.connect()
        try:
            is_connected = bool(connection.isAlive())
        except libvirt.libvirtError:
            is_connected = False
        raise failure(error, is_connected) from error
    try:
        return json.loads(answer)["return"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AgentFailure(REFUSED, f"the answer to {command} has no value") from error


def members(value):
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value):
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value):
    """A text of the guest in one line, without control characters."""
    plain = "".join(c if c.isprintable() else " " for c in value) if isinstance(value, str) else ""
    return plain[:500]


def number(value):
    """A number of the guest; None if it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and -1e18 < value < 1e18 else None


class Info:
    """What guest-info says."""

    def __init__(self, answer):
        answer = members(answer)
        self.version = text(answer.get("version"))
        commands = (members(command) for command in items(answer.get("supported_commands")))
        self.commands = {text(command.get("name")): command.get("enabled") is True for command in commands}

    def has_reports(self):
        """It is this project's agent, and the command is not blocked."""
        return self.commands.get(REPORT, False)

    def is_ours(self):
        """It is this project's agent."""
        return REPORT in self.commands


def read_info(domain, timeout):
    """Raises AgentFailure."""
    return Info(ask(domain, "guest-info", timeout))


def read_status(domain, timeout):
    """`frozen` or `thawed`; raises AgentFailure."""
    return text(ask(domain, "guest-fsfreeze-status", timeout))


def read_reports(domain, timeout):
    """The agent's own version, and its reports, the newest first; raises AgentFailure."""
    answer = members(ask(domain, REPORT, timeout))
    return text(answer.get("agent-version")), [members(report) for report in items(answer.get("reports"))]


def level(report):
    """One of LEVELS, or `unknown`."""
    found = report.get("level")
    return found if found in LEVELS else UNKNOWN


def status_of(hook):
    """How a hook ended, as one word: `0`, `timed-out`, `signal 9`, `skipped`, `not run`."""
    status = hook.get("status")
    if isinstance(status, str):
        return text(status)
    status = members(status)
    if "exited" in status:
        return str(number(status["exited"]))
    if "signaled" in status:
        return f"signal {number(status['signaled'])}"
    return "skipped" if "skipped" in status else "not run"


def is_failed(hook):
    """By the hook's verdict, or where it has none by its status."""
    verdict = hook.get("verdict")
    if hook.get("lost") is True or verdict == "failure":
        return True
    return verdict is None and status_of(hook) not in ("0", "skipped")


def hooks(report):
    """The hooks of a report, in the order of running: path, phase, status and whether it failed."""
    found = (members(hook) for hook in items(report.get("hooks")))
    return [{"path": text(hook.get("path")), "phase": text(hook.get("phase")), "status": status_of(hook), "failed": is_failed(hook),
             "seconds": number(hook.get("elapsed"))} for hook in found]


def reasons(report):
    """What keeps the level below `application`."""
    return [text(reason) for reason in items(report.get("level-reasons"))]
