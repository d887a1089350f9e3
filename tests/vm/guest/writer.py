"""Runs inside the guest: appends small records to a file and reports how long it ever stood still.

    writer.py FILE SECONDS       prints {"writes": n, "worst_ms": gap between two completed writes, "median_ms": …}
Ends early when FILE.stop appears in /run/oob.
"""
import json
import os
import sys
import time


def main():
    path, seconds = sys.argv[1], float(sys.argv[2])
    stop = "/run/oob/writer.stop"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    record = b"x" * 511 + b"\n"
    gaps = []
    last = time.monotonic()
    end = last + seconds
    checked = last
    while last < end:
        os.write(file, record)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        time.sleep(0.002)
        if now - checked > 0.1:
            checked = now
            if os.path.exists(stop):
                break
    gaps.sort()
    print(json.dumps({"writes": len(gaps), "worst_ms": round(gaps[-1] * 1000, 3),
                      "median_ms": round(gaps[len(gaps) // 2] * 1000, 3)}))


main()
