"""Runs inside the guest: appends numbered lines to files every few milliseconds, one thread a file, until stall.stop appears.

    stall.py FILE…

Prints, by file, how many lines were acknowledged, the longest pause between two of them in seconds, and the acknowledged
lines that the file does not hold in the end.
"""
import json
import os
import sys
import threading
import time

STOP = "/run/oob/stall.stop"


def write(path, result):
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    number, worst, last = 0, 0.0, time.monotonic()
    while not os.path.exists(STOP):
        os.write(file, b"%d\n" % number)
        now = time.monotonic()
        worst, last, number = max(worst, now - last), now, number + 1
        if number % 20 == 0:
            os.fsync(file)
        time.sleep(0.005)
    # The last pause too: it may have been the fsync that waited for the thaw, and stop came before the next line.
    worst = max(worst, time.monotonic() - last)
    os.close(file)
    with open(path) as written:
        missing = set(range(number)) - {int(line) for line in written}
    result[path] = {"lines": number, "worst": round(worst, 3), "lost": len(missing)}


def main():
    result = {}
    threads = [threading.Thread(target=write, args=(path, result)) for path in sys.argv[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(result))


main()
