"""Stands for libvirt's daemon and the agents of its domains: threads of the test's own process, so that a test reads and changes their state.

An agent works at one request at a time, and finishes a request whose client has gone, as libvirt's daemon and a guest do.
"""
import json
import socketserver
import threading
import time
import uuid

from qga_host import VERSION

# As in libvirt; the stand-in of the bindings has the names.
INTERNAL, NO_DOMAIN, INVALID, TIMEOUT, UNSUPPORTED, NO_METADATA, UNRESPONSIVE = 1, 42, 55, 68, 74, 80, 86
COMMANDS = ["guest-info", "guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]


class Refused(Exception):
    """libvirt's error: code and text."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Domain:
    """A domain with its agent."""

    def __init__(self, name, **settings):
        self.name, self.uuid = name, str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        self.active, self.persistent = True, True
        # ours, original, none, silent
        self.agent = "ours"
        self.frozen, self.level, self.reports, self.runs = False, "application", [], 0
        self.metadata, self.flags, self.snapshots = None, None, []
        # Seconds of an operation or agent command, by its name; and what it raises or does.
        self.delays, self.faults, self.answers = {}, {}, {}
        # The agent's thaws, and snapshots with the state of the guest at that time.
        self.log = []
        # Operations by their name, when they begin.
        self.begun = []
        self.lock = threading.Lock()
        self.__dict__.update(settings)

    def call(self, command, timeout):
        """An agent command through libvirt."""
        if not self.active:
            raise Refused(INVALID, "Requested operation is not valid: domain is not running")
        if self.agent == "none":
            raise Refused(UNRESPONSIVE, "Guest agent is not responding: QEMU guest agent is not connected")
        if self.agent == "silent":
            time.sleep(timeout)
            raise Refused(UNRESPONSIVE, "Guest agent is not responding: Guest agent not available for now")
        result = {}

        def work():
            with self.lock:
                time.sleep(self.delays.get(command, 0))
                try:
                    result["return"] = self.execute(command)
                except Refused as error:
                    result["error"] = error
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(timeout)
        if not result:
            raise Refused(UNRESPONSIVE, "Guest agent is not responding: guest agent command timed out")
        if "error" in result:
            raise result["error"]
        return json.dumps({"return": result["return"]})

    def execute(self, command):
        """What the agent does."""
        fault = self.faults.get(command)
        if fault:
            found = fault(self)
            if found is not None:
                raise Refused(INTERNAL, f"internal error: unable to execute QEMU agent command '{command}': {found}")
        if command in self.answers:
            return self.answers[command]
        if command == "guest-info":
            names = COMMANDS + (["x-guest-fsfreeze-report"] if self.agent == "ours" else [])
            return {"version": "11.1.3", "supported_commands": [{"name": name, "enabled": True, "success-response": True} for name in names]}
        if command == "guest-fsfreeze-status":
            return "frozen" if self.frozen else "thawed"
        if command == "guest-fsfreeze-freeze":
            self.log.append("freeze")
            self.frozen, self.runs = True, self.runs + 1
            self.reports.insert(0, report(f"run-{self.runs}", self.level))
            del self.reports[20:]
            return 2
        if command == "guest-fsfreeze-thaw":
            self.log.append("thaw")
            self.end("thaw")
            return 2
        if command == "x-guest-fsfreeze-report" and self.agent == "ours":
            return {"agent-version": VERSION, "reports": self.reports}
        raise Refused(INTERNAL, f"internal error: unable to execute QEMU agent command '{command}': The command {command} has not been found")

    def end(self, how):
        """Ends the freeze, if there is one."""
        if self.frozen:
            self.frozen = False
            self.reports[0].update(end=how, level=self.level if how == "thaw" else "crash")
            if how != "thaw":
                self.reports[0]["level-reasons"] = ["ended early: hold limit"]


def report(run, level):
    """A report as x-guest-fsfreeze-report has it."""
    good = level == "application"
    return {
        "id": run, "started": round(time.time(), 6), "level": level, "applications": "quiet" if good else "failed",
        **({} if good else {"level-reasons": ["failed: hook 50-fails"]}),
        "applications-seconds": 0.5, "filesystems-seconds": 0.25, "tags": [], "errors": [], "stages": dict.fromkeys(("flush", "freeze-hooks", "flush-again", "freeze", "held", "thaw", "thaw-hooks"), 0.01),
        "filesystems": [{"mountpoint": "/", "fstype": "ext4", "device": "/dev/vda", "outcome": "thawed", "freeze-seconds": 0.001, "held": "frozen"}],
        "skipped": [], "hooks": [
            {"path": "/etc/qemu/fsfreeze-hook.d/10-db", "phase": "freeze", "status": {"exited": 0}, "elapsed": 0.1},
            {"path": "/etc/qemu/fsfreeze-hook.d/50-fails", "phase": "freeze", "status": {"exited": 0 if good else 3}, "elapsed": 0.1}],
    }


class Daemon:
    """Serves the domains at a socket."""

    def __init__(self, path, domains):
        self.path, self.domains = path, {domain.uuid: domain for domain in domains}
        self.sockets, self.server = set(), None
        self.start()

    def start(self):
        """Listens, again after `drop`."""
        self.path.unlink(missing_ok=True)
        daemon = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                daemon.sockets.add(self.connection)
                try:
                    for line in self.rfile:
                        self.wfile.write(json.dumps(daemon.answer(json.loads(line))).encode() + b"\n")
                except (OSError, ValueError):
                    pass
                finally:
                    daemon.sockets.discard(self.connection)

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Server(str(self.path), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def drop(self):
        """As if the daemon died: its connections end, its guests run on."""
        self.path.unlink(missing_ok=True)
        server, self.server = self.server, None
        if server is None:
            return
        for line in list(self.sockets):
            line.shutdown(2)
        # Also from one of its own threads.
        threading.Thread(target=lambda: (server.shutdown(), server.server_close()), daemon=True).start()

    def answer(self, request):
        """One reply."""
        try:
            return {"return": self.execute(request)}
        except Refused as error:
            return {"error": [error.code, str(error)]}

    def execute(self, request):
        """What a call of the bindings does."""
        op = request["op"]
        if op == "open":
            return None
        if op == "list":
            return [[domain.name, domain.uuid] for domain in self.domains.values()]
        if op == "lookup":
            found = [domain for domain in self.domains.values() if request.get("uuid", domain.uuid) == domain.uuid
                     and request.get("name", domain.name) == domain.name]
            if not found:
                raise Refused(NO_DOMAIN, "Domain not found")
            return [found[0].name, found[0].uuid]
        domain = self.domains[request["uuid"]]
        if op == "agent":
            return domain.call(json.loads(request["command"])["execute"], request["timeout"])
        domain.begun.append(op)
        time.sleep(domain.delays.get(op, 0))
        fault = domain.faults.get(op)
        if fault:
            found = fault(domain)
            if found is not None:
                raise Refused(INTERNAL, found)
        if op in ("snapshot", "backup"):
            domain.log.append(op)
            domain.snapshots.append({"xml": request["xml"], "frozen": domain.frozen})
            return None
        if op == "set-metadata":
            domain.metadata, domain.flags = request["text"], request["flags"]
            return 0
        if op == "metadata":
            if domain.metadata is None:
                raise Refused(NO_METADATA, "metadata not found: Requested metadata element is not present")
            return domain.metadata
        if op == "job":
            return {"type": 3, "success": True} if request["flags"] else {"type": 0}
        return {"active": domain.active, "persistent": domain.persistent}[op]
