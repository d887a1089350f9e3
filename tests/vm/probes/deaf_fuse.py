"""Runs inside the guest: mounts a FUSE filesystem that is there and never answers, by the kernel's raw protocol.

    deaf_fuse.py MOUNTPOINT     answers the kernel's greeting, then nothing, until it is killed
"""
import ctypes
import os
import struct
import sys
import time

FUSE_INIT = 26


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"deaf", sys.argv[1].encode(), b"fuse.deaf", 0, options) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    request = os.read(device, 1 << 17)
    _, opcode, unique = struct.unpack_from("<IIQ", request)
    if opcode != FUSE_INIT:
        sys.exit(f"the kernel began with {opcode}")
    # struct fuse_init_out of linux/fuse.h, version 7.31: only major, minor and max_write matter here.
    answer = struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, 0, 0, 0, 4096, 1, 1, 0, 0, *[0] * 7)
    os.write(device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)
    while True:
        time.sleep(1000)


main()
