"""Clients in Python that others wrote, from PyPI: fetched once, and kept under .cache/clients.

tests/clients/requirements pins each by version and hash, with those of its dependencies that it imports. A wheel is unpacked and not
installed, so that PYTHONPATH is all that a client needs.

For another version: have pip resolve it, keep of its dependencies what an import of the client loads, and take the hashes of the wheels
for Python 3.11 to 3.14 (`pip download --python-version`, `pip hash`).
"""
import hashlib
import os
import shutil
import subprocess
import zipfile

from . import paths

# What needs libvirt and a guest.
OVER_LIBVIRT = ("nova", "ansible", "ansible-collections")
# All that is used of what would be 500 MB.
ONLY = {"ansible-collections": "ansible_collections/community/libvirt/"}
CACHE = paths.ROOT / ".cache" / "clients"
PYTHON = "/usr/bin/python3"

# By name: why it could not be fetched.
_failed = {}


def fetch(name):
    """Downloads and unpacks the client, unless it is cached. Outside of the sandbox, where the network is."""
    made = _directory(name)
    if made.exists():
        return
    for old in made.parent.glob(f"{name}-{'?' * 16}"):
        shutil.rmtree(old)
    print(f"clients: fetching {name}", flush=True)
    unfinished = made.with_name(f"unfinished-{name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    wheels = unfinished / "wheels"
    command = [PYTHON, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes",
               "--only-binary", ":all:", "--dest", str(wheels), "--requirement", str(_requirements(name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        _failed[name] = f"pip cannot download {name}: {done.stdout.strip()}"
        return
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unfinished, [member for member in archive.namelist() if member.startswith(ONLY.get(name, ""))])
    shutil.rmtree(wheels)
    unfinished.rename(made)


def unpacked(name):
    """The client's directory, after `fetch`."""
    if name in _failed:
        raise RuntimeError(_failed[name])
    return _directory(name)


def environment(*names):
    """What a program of these clients runs with."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(unpacked(name)) for name in names), "LC_ALL": "C.UTF-8"}


def _requirements(name):
    return paths.CLIENTS / "requirements" / f"{name}.txt"


def _directory(name):
    # Some wheels are of one version of Python.
    key = hashlib.sha256(_requirements(name).read_bytes() + _python_version().encode()).hexdigest()[:16]
    return CACHE / f"{name}-{key}"


def _python_version():
    return subprocess.run([PYTHON, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
