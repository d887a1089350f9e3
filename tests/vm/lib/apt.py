"""apt's own view of the machine's mirrors, and private configurations made of it.

No mirror is named here: all of it follows from what the machine's apt is configured with.
"""
import os
import pathlib
import subprocess

# Debian's, the oldest first.
RELEASES = ("bookworm", "trixie", "forky", "duke")


def os_release():
    """/etc/os-release as a dictionary."""
    pairs = (line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def run(command, what, **kw):
    """Runs `command` quietly; on failure says `what` was being done and shows the end of its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise SystemExit(f"{what} failed ({' '.join(command[:2])} … ended with {done.returncode}):\n{tail}")
    return done.stdout


def _targets():
    fields = ("CREATED_BY", "REPO_URI", "CODENAME", "SUITE", "RELEASE", "COMPONENT", "SIGNED_BY")
    text = run(["apt-get", "indextargets", "--format", "|".join(f"$({f})" for f in fields)], "reading apt's sources")
    for line in text.splitlines():
        target = dict(zip(fields, line.split("|")))
        if target["CREATED_BY"] == "Packages":
            yield target


def codename():
    """The machine's own release."""
    name = os_release().get("VERSION_CODENAME")
    if not name:
        raise SystemExit("/etc/os-release names no VERSION_CODENAME: a stable Debian or Ubuntu is needed")
    return name


def not_older(wanted):
    """`wanted`, a release of Debian's, or the machine's own if that is newer: what is built here runs with no older C library."""
    own = codename()
    return own if own in RELEASES and RELEASES.index(own) > RELEASES.index(wanted) else wanted


def oldest():
    """The release of the machine's distribution with glibc 2.31."""
    return {"ubuntu": "focal"}.get(os_release().get("ID"), "bullseye")


def sources(wanted=None, backports=False):
    """sources.list lines of the machine's own release (updates and security included), as apt is configured with them.

    With `wanted`, the codename of another release of Debian's or of oldest(), that one's main from the same mirror. With `backports`, Debian's
    backports of that release are added from there too. Third-party sources are left out.
    """
    release, own_name = os_release(), codename()
    wanted = wanted or own_name
    if wanted not in (own_name, oldest()) and release.get("ID") != "debian":
        raise SystemExit(f"Debian's {wanted} cannot be had here: this machine is no Debian, so its apt knows no mirror of Debian's")
    components = {"main", "universe"} if release.get("ID") == "ubuntu" else {"main"}
    own = {own_name, f"{own_name}-updates", f"{own_name}-security"}
    found = {}
    for t in _targets():
        if t["RELEASE"] in own and t["COMPONENT"] in components:
            key = (t["REPO_URI"], t["RELEASE"])
            found.setdefault(key, (set(), t["SIGNED_BY"]))[0].add(t["COMPONENT"])
    main = next((uri for uri, suite in found if suite == own_name), None)
    if main is None:
        raise SystemExit(f"apt has no source for {own_name}: configure one (and run apt-get update) first")
    signed = found[(main, own_name)][1]
    if wanted != own_name:
        found = {(main, wanted): ({"main"}, signed)}
    if backports and release.get("ID") == "debian":
        found[(main, f"{wanted}-backports")] = ({"main"}, signed)
    lines = []
    for (uri, suite), (parts, signed) in found.items():
        keyring = signed if signed.startswith("/") else _archive_keyring(release)
        # sid's lists are valid for a week only, and the mirror may be a snapshot.
        dated = "" if wanted == own_name else " check-valid-until=no"
        lines.append(f"deb [signed-by={keyring}{dated}] {uri} {suite} {' '.join(sorted(parts))}")
    return lines


def _archive_keyring(release):
    for name in (f"{release.get('ID')}-archive-keyring.gpg", f"{release.get('ID')}-archive-keyring.pgp"):
        path = pathlib.Path("/usr/share/keyrings") / name
        if path.exists():
            return path
    raise SystemExit(f"no archive keyring of {release.get('ID')} in /usr/share/keyrings")


def proxy_options():
    """The machine's apt proxy settings as `-o` values, for tools that start from an empty configuration."""
    text = run(["apt-config", "dump", "Acquire"], "reading apt's configuration")
    return [line.rstrip(";").replace(" ", "=", 1).replace('"', "")
            for line in text.splitlines() if "::Proxy" in line and not line.endswith('"";')]


def mmdebstrap(codename, sources, packages, target, variant, *options):
    """Makes the directory or archive `target` of `packages` and their release's packages of that variant."""
    command = ["mmdebstrap", "--mode=root", f"--variant={variant}", "--quiet", f"--include={','.join(packages)}", *options,
               '--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Retries "3"']
    for setting in proxy_options():
        key, value = setting.split("=", 1)
        command.append(f'--aptopt={key} "{value}"')
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    run([*command, codename, str(target), "-"], "mmdebstrap", input="\n".join(sources) + "\n", env=environment)


def private_config(directory, lines):
    """Options that give apt-get sources, lists and cache of its own under `directory`."""
    directory = pathlib.Path(directory)
    for sub in ("lists/partial", "archives/partial"):
        os.makedirs(directory / sub)
    (directory / "sources.list").write_text("\n".join(lines) + "\n")
    settings = {
        "Dir::Etc::sourcelist": directory / "sources.list", "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-", "Dir::Etc::preferencesparts": "-",
        "Dir::State::lists": directory / "lists", "Dir::Cache": directory, "Dir::Cache::archives": directory / "archives",
        "APT::Sandbox::User": "root", "Acquire::Languages": "none", "Acquire::Retries": "3",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def unpack(codename, sources, packages, tree, *options):
    """Unpacks packages, and all that they depend on, into `tree`; nothing of them is run."""
    # An index is valid for days only, and a mirror that stands still has an older one; its signature is checked all the same.
    command = ["mmdebstrap", "--mode=root", "--variant=extract", f"--include={','.join(packages)}", *options,
               '--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Retries "3"', '--aptopt=Acquire::Check-Valid-Until "false"']
    for setting in proxy_options():
        key, value = setting.split("=", 1)
        command.append(f'--aptopt={key} "{value}"')
    run([*command, codename, str(tree), "-"], f"mmdebstrap of {codename}", input="\n".join(sources) + "\n",
        env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (tree / name).exists():
            (tree / name).symlink_to(f"usr/{name}")


def first_error(failure):
    """apt's own reason of a failure of `run`: the first of its errors."""
    lines = str(failure).splitlines()
    return next((line for line in lines if line.startswith("E: ")), lines[0])


def known(package):
    """Whether the machine's apt knows of `package`."""
    return bool(run(["apt-cache", "search", "--names-only", f"^{package}$"], f"looking for {package}").strip())


def newest(options, package):
    """The highest version of `package` that the sources in `options` offer."""
    text = run(["apt-cache", *options, "madison", package], f"looking for {package}")
    versions = [line.split("|")[1].strip() for line in text.splitlines() if line.count("|") >= 2]
    best = None
    for version in versions:
        if best is None or subprocess.run(["dpkg", "--compare-versions", version, "gt", best]).returncode == 0:
            best = version
    if best is None:
        raise SystemExit(f"no {package} in the configured sources")
    return best
