"""Connections to libvirt that end when the daemon is gone, and are opened again on demand."""
import threading
import time

import libvirt

# A daemon that is silent this long has lost its connection: seconds between two messages, number of messages.
KEEPALIVE = 5, 3
RETRY_SECONDS = 1
# libvirt's own loop of events, which sends the messages.
LOOP = []


class ConnectionFailure(Exception):
    """libvirt cannot be reached."""


def silence_libvirt():
    """The bindings print every error on standard error besides raising it."""
    libvirt.registerErrorHandler(lambda *_: None, None)


def run_event_loop():
    """Once for each process, before its first connection: without it no keepalive messages are sent."""
    if not LOOP:
        libvirt.virEventRegisterDefaultImpl()

        def turn():
            while True:
                libvirt.virEventRunDefaultImpl()
        # A loop without a timer can sleep forever, which is fine: connections add their own.
        LOOP.append(threading.Thread(target=turn, daemon=True))
        LOOP[0].start()


def open_connection(uri, read_only=False):
    """A connection with keepalive messages; raises ConnectionFailure."""
    run_event_loop()
    try:
        connection = libvirt.openReadOnly(uri) if read_only else libvirt.open(uri)
    except libvirt.libvirtError as error:
        shown = uri or "libvirt's default"
        raise ConnectionFailure(f"cannot connect: to {shown}: {error}; check the URI and that libvirt's daemon runs") from error
    try:
        connection.setKeepAlive(*KEEPALIVE)
    except libvirt.libvirtError:
        # Drivers without a daemon have none.
        pass
    return connection


def is_alive(connection):
    """Whether the daemon is still at the other end."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def find_domain(connection, name):
    """A domain by its name or UUID; raises libvirtError."""
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        try:
            return connection.lookupByUUIDString(name)
        except libvirt.libvirtError:
            raise error from None


class DomainLink:
    """A domain behind a connection that is opened again if it was lost."""

    def __init__(self, uri, name):
        self.uri, self.name, self.connection = uri, name, None

    def domain(self, deadline=0):
        """The domain; tries again until `deadline` (of time.monotonic()) if libvirt cannot be reached."""
        while True:
            try:
                if self.connection is None or not is_alive(self.connection):
                    self.connection = None
                    self.connection = open_connection(self.uri)
                return find_domain(self.connection, self.name)
            except ConnectionFailure:
                if time.monotonic() >= deadline:
                    raise
            except libvirt.libvirtError as error:
                if self.connection is not None and is_alive(self.connection):
                    raise
                self.connection = None
                if time.monotonic() >= deadline:
                    raise ConnectionFailure(f"connection lost: {error}; check libvirt's daemon") from error
            time.sleep(RETRY_SECONDS)

    def is_alive(self):
        """Whether the connection last used is still there."""
        return self.connection is not None and is_alive(self.connection)
