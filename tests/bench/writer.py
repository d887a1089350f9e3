"""Appends small records to a file and reports the longest time between two completed writes.

    writer.py FILE

A byte on standard input starts it, and it prints "writing" after the first writes; the next byte stops it, and it prints the
number of writes and the longest gap in milliseconds. It ends with its standard input. Between stop and start FILE is empty.
"""
import gc
import os
import select
import sys
import time

INTERVAL = 0.001
RECORD = b"x" * 511 + b"\n"
WARM_UP_WRITES = 5


def main():
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    # Its own pauses would be counted as stalls.
    gc.disable()
    os.nice(-5)
    while os.read(0, 1):
        for _ in range(WARM_UP_WRITES):
            os.write(file, RECORD)
        os.write(1, b"writing\n")
        writes, worst, last = 0, 0, time.monotonic()
        while not select.select([0], [], [], INTERVAL)[0]:
            os.write(file, RECORD)
            now = time.monotonic()
            writes, worst, last = writes + 1, max(worst, now - last), now
        os.read(0, 1)
        os.ftruncate(file, 0)
        os.write(1, f"{writes} {worst * 1000:.3f}\n".encode())


main()
