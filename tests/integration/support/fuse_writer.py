"""Writes to the file named, as user 1000, from a page of a FUSE filesystem of that user which never answers: whoever freezes the file's
filesystem waits for the end of the write. Prints the writer's process id once it waits. It ends with the server, which is this process."""
import ctypes
import errno
import mmap
import os
import struct
import sys

USER = 1000
# linux/fuse.h
IN, OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
LOOKUP, GETATTR, OPEN, READ, INIT = 1, 3, 14, 15, 26
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")


def attributes(node):
    mode, size = (0o40755, 0) if node == 1 else (0o100644, mmap.PAGESIZE)
    return ATTR.pack(node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, USER, USER, 0, mmap.PAGESIZE, 0)


def serve(fuse):
    while True:
        request = os.read(fuse, 1 << 20)
        _, opcode, unique, node, *_ = IN.unpack_from(request)
        if opcode == INIT:
            reply = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 1 << 16, 1, 32, 0, 0)
        elif opcode == LOOKUP:
            reply = struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + attributes(2)
        elif opcode == GETATTR:
            reply = struct.pack("<QII", 3600, 0, 0) + attributes(node)
        elif opcode == OPEN:
            reply = struct.pack("<QII", 0, 0, 0)
        elif opcode == READ:
            print(writer, flush=True)
            continue
        else:
            os.write(fuse, OUT.pack(OUT.size, -errno.ENOSYS, unique))
            continue
        os.write(fuse, OUT.pack(OUT.size + len(reply), 0, unique) + reply)


fuse = os.open("/dev/fuse", os.O_RDWR)
mountpoint = sys.argv[2]
options = f"fd={fuse},rootmode=40000,user_id={USER},group_id={USER}"
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(1, 9)  # PR_SET_PDEATHSIG: nothing waits longer than its test
if libc.mount(b"fuse", mountpoint.encode(), b"fuse", 0, options.encode()) != 0:
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
writer = os.fork()
if writer != 0:
    os.close(file)
    try:
        serve(fuse)
    except OSError as error:
        assert error.errno == errno.ENODEV, error
        sys.exit()
os.close(fuse)
os.setgid(USER)
os.setuid(USER)
memory = mmap.mmap(os.open(mountpoint + "/page", os.O_RDONLY), mmap.PAGESIZE, prot=mmap.PROT_READ)
try:
    os.write(file, memory)
except OSError as error:
    assert error.errno == errno.EFAULT, error
