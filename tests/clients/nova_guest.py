"""Drives OpenStack Nova's own class for a guest: nova_guest.py URI DOMAIN. PYTHONPATH has nova, and libvirt's binding is the machine's.

Each line of the input is a JSON array, a method's name and its arguments; each line of the output is what the method returned, or
{"error": …}. The import takes seconds, so one process makes all calls.
"""
import json
import sys

import libvirt
from nova.virt.libvirt.guest import Guest

guest = Guest(libvirt.open(sys.argv[1]).lookupByName(sys.argv[2]))
for line in sys.stdin:
    method, *arguments = json.loads(line)
    try:
        answer = getattr(guest, method)(*arguments)
    except Exception as error:  # whatever Nova would meet
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
