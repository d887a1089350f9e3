"""Runs inside the guest: keeps a filesystem's journal busy (create, fsync, rename, delete) until churn.stop appears.

    churn.py DIRECTORY
"""
import os
import sys
import time


def main():
    top = sys.argv[1]
    os.makedirs(top, exist_ok=True)
    turn = 0
    while not os.path.exists("/run/oob/churn.stop"):
        turn += 1
        folder = f"{top}/{turn % 20}"
        os.makedirs(folder, exist_ok=True)
        name = f"{folder}/file-{turn}"
        with open(name + ".new", "wb") as file:
            file.write(os.urandom(4096) * (turn % 16 + 1))
            file.flush()
            if turn % 8 == 0:
                os.fsync(file.fileno())
        os.rename(name + ".new", name)
        # A file lives for seconds, so that some are there before a copy and after it.
        if turn > 600:
            old = turn - 600
            os.unlink(f"{top}/{old % 20}/file-{old}")
        time.sleep(0.01)
    print(turn)


main()
