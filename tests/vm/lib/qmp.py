"""QEMU's own control connection."""
import json
import time

from .channel import ChannelError, Lines


class Qmp(Lines):
    """The connection; events that come in between are kept."""

    def __init__(self, path):
        super().__init__(path)
        self.events = []
        json.loads(self.line(20))
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        """The value a QMP command returns; underscores of argument names stand for dashes."""
        request = {"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        self.post(request)
        while True:
            answer = json.loads(self.line(30))
            if "event" in answer:
                self.events.append(answer)
            elif "return" in answer:
                return answer["return"]
            else:
                raise ChannelError(f"QMP {command}: {answer}")

    def event(self, name, timeout):
        """Waits for an event that came since the last `forget`."""
        end = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            try:
                self.events.append(json.loads(self.line(max(0.01, end - time.monotonic()))))
            except ChannelError as error:
                raise ChannelError(f"QEMU sent no {name} within {timeout} s, only {[e['event'] for e in self.events]}") from error

    def forget(self):
        """Drops what events there were."""
        self.ask("query-status")
        self.events.clear()

    def unplug(self, device):
        """Takes a device out and waits until the guest has let go of it. A guest that is still busy with an earlier event of its
        slot loses the request, so it is repeated."""
        self.forget()
        for attempt in range(4):
            self.ask("device_del", id=device)
            try:
                self.event("DEVICE_DELETED", 20)
                return
            except ChannelError:
                if attempt == 3:
                    raise
