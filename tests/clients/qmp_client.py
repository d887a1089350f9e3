"""Talks to the agent with PyPI's qemu.qmp, QEMU's own client library, whose parts for QMP a guest agent shares: qmp_client.py SOCKET.

The agent sends no greeting and knows no capabilities, as the library's documentation of await_greeting and negotiate expects.
"""
import asyncio
import base64
import os
import sys

from qemu.qmp import ExecuteError, QMPClient
from qemu.qmp.legacy import QEMUMonitorProtocol

SOCKET = sys.argv[1]
FILE = "/run/of-qmp"


async def connected(name):
    client = QMPClient(name)
    client.await_greeting = client.negotiate = False
    await client.connect(SOCKET)
    return client


async def requests_side_by_side():
    """The library gives each request an id, and finds the reply by it."""
    client = await connected("side by side")
    numbers = (*range(50), 2**63 - 1, -2**63)
    answers = await asyncio.gather(*(client.execute("guest-sync", {"id": number}) for number in numbers))
    assert answers == list(numbers), answers
    answers = await asyncio.gather(client.execute("guest-ping"), client.execute("guest-no-such"), client.execute("guest-get-host-name"),
                                   return_exceptions=True)
    assert answers[0] == {} and answers[2] == {"host-name": "guest"}, answers
    assert isinstance(answers[1], ExecuteError) and answers[1].error.error.class_ == "CommandNotFound", answers
    await client.disconnect()


async def files():
    """The largest reply that fits into the library's buffer, in one line."""
    data = os.urandom(6_000_000)
    client = await connected("files")
    handle = await client.execute("guest-file-open", {"path": FILE, "mode": "w+"})
    written = await client.execute("guest-file-write", {"handle": handle, "buf-b64": base64.b64encode(data).decode()})
    assert written == {"count": len(data), "eof": False}, written
    await client.execute("guest-file-seek", {"handle": handle, "offset": 0, "whence": "set"})
    read = await client.execute("guest-file-read", {"handle": handle, "count": len(data)})
    assert base64.b64decode(read["buf-b64"], validate=True) == data
    await client.execute("guest-file-close", {"handle": handle})
    await client.disconnect()


def synchronous():
    """The interface of QEMU's own scripts, with and without ids."""
    with QEMUMonitorProtocol(SOCKET) as client:
        client.connect(negotiate=False)
        assert client.cmd("guest-fsfreeze-freeze") == 2
        assert client.cmd("guest-fsfreeze-status") == "frozen"
        refused = client.cmd_raw("guest-get-time")
        assert refused["error"]["class"] == "CommandNotFound", refused
        assert client.cmd_raw("guest-fsfreeze-thaw") == {"return": 2}
        assert client.cmd_obj({"execute": "guest-sync", "arguments": {"id": 4}, "id": "own"}) == {"return": 4, "id": "own"}


asyncio.run(requests_side_by_side())
asyncio.run(files())
synchronous()
