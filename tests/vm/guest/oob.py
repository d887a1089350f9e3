"""Runs inside the guest: takes commands from the test over a virtio port of its own, also while all disks are frozen.

One JSON object a line. {"op":"start","sh":"…"} answers {"job":n}; {"op":"wait","job":n,"timeout":s} answers
{"rc":code or null,"out":…,"err":…}: null means that it still runs (it may be asleep on a frozen filesystem).
"""
import json
import os
import select
import subprocess
import threading
import time

PORT = "/dev/virtio-ports/org.qemu-ga-rs.oob"
jobs = {}


class Job:
    def __init__(self, script):
        self.process = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, cwd="/run/oob", start_new_session=True)
        self.out = self.err = b""
        self.done = threading.Event()
        threading.Thread(target=self.collect, daemon=True).start()

    def collect(self):
        self.out, self.err = self.process.communicate()
        self.done.set()


def serve(request):
    if request["op"] == "start":
        number = len(jobs) + 1
        jobs[number] = Job(request["sh"])
        return {"job": number, "pid": jobs[number].process.pid}
    if request["op"] == "wait":
        job = jobs[request["job"]]
        ended = job.done.wait(request.get("timeout", 0))
        return {"rc": job.process.returncode if ended else None,
                "out": job.out.decode("utf-8", "replace"), "err": job.err.decode("utf-8", "replace")}
    return {"error": "unknown op"}


def main():
    while not os.path.exists(PORT):
        time.sleep(0.1)
    port = os.open(PORT, os.O_RDWR)
    pending = b""
    while True:
        select.select([port], [], [])
        data = os.read(port, 65536)
        if not data:
            pending = b""
            time.sleep(0.1)
            continue
        pending += data
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            if not line.strip():
                continue
            try:
                request = json.loads(line)
                answer = {"id": request.get("id"), **serve(request)}
            except Exception as error:
                answer = {"error": repr(error)}
            data = json.dumps(answer).encode() + b"\n"
            while data:
                data = data[os.write(port, data):]


main()
