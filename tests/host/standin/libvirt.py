"""Stands for libvirt's bindings: the calls that the host tools make, of the daemon in ../daemon.py at the socket QGA_STANDIN."""
import json
import os
import socket
import threading

VIR_ERR_INTERNAL_ERROR = 1
VIR_ERR_SYSTEM_ERROR = 38
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_OPERATION_INVALID = 55
VIR_ERR_CONFIG_UNSUPPORTED = 67
VIR_ERR_OPERATION_TIMEOUT = 68
VIR_ERR_ARGUMENT_UNSUPPORTED = 74
VIR_ERR_NO_DOMAIN_METADATA = 80
VIR_ERR_OPERATION_DENIED = 29
VIR_ERR_AGENT_UNRESPONSIVE = 86
VIR_ERR_AGENT_UNSYNCED = 97
VIR_DOMAIN_METADATA_ELEMENT = 2
VIR_DOMAIN_AFFECT_LIVE = 1
VIR_DOMAIN_AFFECT_CONFIG = 2
VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY = 16
VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC = 128
VIR_DOMAIN_JOB_NONE = 0
VIR_DOMAIN_JOB_COMPLETED = 3
VIR_DOMAIN_JOB_STATS_COMPLETED = 1


class libvirtError(Exception):  # noqa: N801 (its name in the bindings)
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code

    def get_error_code(self):
        return self.code


def registerErrorHandler(*_):
    pass


def virEventRegisterDefaultImpl():
    pass


def virEventRunDefaultImpl():
    threading.Event().wait()


class Connection:
    """One socket for each thread, since a request waits for its answer."""

    def __init__(self):
        self.local, self.lost = threading.local(), False
        self.call("open")

    def call(self, op, **members):
        try:
            if self.lost:
                raise OSError("client socket is closed")
            if not hasattr(self.local, "line"):
                line = socket.socket(socket.AF_UNIX)
                line.connect(os.environ["QGA_STANDIN"])
                # Only for reading: Python 3.13 complains at the end about a lost connection with something unsent.
                self.local.line, self.local.answers = line, line.makefile()
            self.local.line.sendall((json.dumps({"op": op, **members}) + "\n").encode())
            answer = self.local.answers.readline()
            if not answer:
                raise OSError("End of file while reading data")
        except OSError as error:
            self.lost = True
            raise libvirtError(f"Cannot recv data: {error}", VIR_ERR_SYSTEM_ERROR) from error
        answer = json.loads(answer)
        if "error" in answer:
            raise libvirtError(answer["error"][1], answer["error"][0])
        return answer["return"]

    def isAlive(self):
        return not self.lost

    def setKeepAlive(self, *_):
        raise libvirtError("this function is not supported by the connection driver", 3)

    def lookupByName(self, name):
        return Domain(self, *self.call("lookup", name=name))

    def lookupByUUIDString(self, uuid):
        return Domain(self, *self.call("lookup", uuid=uuid))

    def listAllDomains(self, _):
        return [Domain(self, *found) for found in self.call("list")]


class Domain:
    def __init__(self, connection, name, uuid):
        self.connection, self._name, self._uuid = connection, name, uuid

    def name(self):
        return self._name

    def UUIDString(self):
        return self._uuid

    def connect(self):
        return self.connection

    def call(self, op, **members):
        return self.connection.call(op, uuid=self._uuid, **members)

    def isActive(self):
        return self.call("active")

    def isPersistent(self):
        return self.call("persistent")

    def metadata(self, _, uri, __):
        return self.call("metadata", uri=uri)

    def setMetadata(self, _, text, key, uri, flags):
        return self.call("set-metadata", text=text, key=key, uri=uri, flags=flags)

    def snapshotCreateXML(self, xml, flags):
        return self.call("snapshot", xml=xml, flags=flags)

    def backupBegin(self, xml, _, __):
        return self.call("backup", xml=xml)

    def jobStats(self, flags):
        return self.call("job", flags=flags)


def open(uri):  # noqa: A001 (its name in the bindings)
    return Connection()
