"""Writes to the file named from memory that nobody ever fills (userfaultfd(2)), as from a mapping of a dead server: whoever freezes its
filesystem waits for the end of the write, and a flush does not."""
import ctypes
import fcntl
import mmap
import os
import struct
import sys

# linux/userfaultfd.h, asm/unistd.h
UFFD, UFFDIO_API, UFFDIO_REGISTER = 0xAA, 0xC018AA3F, 0xC020AA00
MODE_MISSING = 1
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[os.uname().machine]

faults = ctypes.CDLL(None, use_errno=True).syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
if faults < 0:
    sys.exit(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
fcntl.ioctl(faults, UFFDIO_API, struct.pack("QQQ", UFFD, 0, 0))
memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(faults, UFFDIO_REGISTER, struct.pack("QQQQ", address, mmap.PAGESIZE, MODE_MISSING, 0))
os.write(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), memory)
