"""Package operations that go wrong: the guest keeps, or gets again, an agent that answers."""
import time

from lib.packages import CONF, DEBIANS, DEBIANS_NAME, HOOK, OUR_NAME, OURS, PATIENCE
from lib.report import check, equal, holds

EDITED = "#!/bin/sh\\n# the administrator's own\\nexit 0\\n"


@check("packages")
def dpkg_killed_half_way_is_mended_by_configure_or_by_doing_it_again(g):
    g.afresh(DEBIANS)
    begun = time.monotonic()
    g.dpkg(f"-i {OURS}")
    whole = time.monotonic() - begun
    for part in (0.1, 0.4):
        g.afresh(DEBIANS)
        job = g.oob.start(f"setsid dpkg -i {OURS} </dev/null >/dev/null 2>&1 & pid=$!; sleep {whole * part:.2f}; kill -9 -$pid; wait")
        job.wait(PATIENCE)
        before = g.state(OUR_NAME)
        g.dpkg("--configure -a", check=False)
        if g.state(OUR_NAME) != "ii ":
            g.apt(OURS, "--force-confold")
        waited = g.answers()
        print(f"    killed after {whole * part:.1f} s of {whole:.1f}: state {before!r}; answers after {waited:.1f} s", flush=True)
        equal((g.state(OUR_NAME), g.owner()), ("ii ", OUR_NAME), f"state after a kill at {part:.0%}")
        holds(g.is_ours(), f"ours runs after a kill at {part:.0%}")


@check("packages")
def a_full_disk_leaves_the_agent_that_was_there(g):
    g.afresh(DEBIANS)
    # Less than the binary needs, more than dpkg's own notes; what is reserved for root is dpkg's too.
    g.oob.run("cd /root; fallocate -l $(( $(stat -f -c '%f * %S' /) - 32000000 )) filler; dd if=/dev/zero of=filler.end bs=64k 2>/dev/null; "
              "truncate -s -900000 filler.end; sync", PATIENCE)
    try:
        status, said = g.dpkg(f"-i {OURS}", check=False)
        holds(status != 0 and "No space left" in said, f"dpkg says why, not {status}: {said}")
        g.answers()
        holds(not g.is_ours(), "Debian's agent runs on")
        equal(g.state(DEBIANS_NAME), "ii ", "state of Debian's package")
    finally:
        g.oob.run("rm -f /root/filler*; sync", PATIENCE)
    g.apt(OURS)
    g.answers()
    holds(g.is_ours(), "with space it is installed")


@check("packages")
def an_edited_hook_master_is_kept_or_asked_about(g):
    g.afresh(DEBIANS)
    g.oob.run(f"printf \"{EDITED}\" >{HOOK}")
    # Nobody is there to answer dpkg's question: it stops, says so, and goes on when it is told how.
    status, said = g.apt(OURS, check=False)
    holds(status != 0 and "conffile prompt" in said, f"dpkg stops at its question, not {status}: {said}")
    g.answers()
    g.dpkg("--configure -a --force-confold")
    g.answers()
    holds(g.is_ours(), "ours runs")
    holds("administrator" in g.oob.run(f"cat {HOOK}"), "the administrator's master is kept")
    holds("qemu-ga" in g.oob.run(f"cat {HOOK}.dpkg-dist"), "ours lies beside it")
    # An upgrade of ours asks no more.
    g.apt(OURS)
    g.answers()
    holds("administrator" in g.oob.run(f"cat {HOOK}"), "the administrator's master is kept by an upgrade")


@check("packages")
def a_missing_hook_directory_or_master_is_one_clear_line(g):
    g.afresh(OURS)
    try:
        g.oob.run("rm -rf /etc/qemu/fsfreeze-hook.d")
        with g.agent() as agent:
            equal(agent.ask("guest-fsfreeze-freeze"), 2, "filesystems frozen without a hook directory")
            equal(agent.ask("guest-fsfreeze-thaw"), 2, "filesystems thawed")
            g.oob.run(f"rm -f {HOOK}")
            answer = agent.command("guest-fsfreeze-freeze")
            print(f"    without the master: {answer}", flush=True)
            agent.ask("guest-fsfreeze-thaw") if "return" in answer else None
    finally:
        g.thaw_anyway()
    g.apt(OURS, "--force-confmiss")
    equal(g.oob.run(f"test -x {HOOK} -a -d /etc/qemu/fsfreeze-hook.d && echo there").strip(), "there", "what a reinstallation brings back")


@check("packages")
def an_old_configuration_with_renamed_keys_is_understood(g):
    g.afresh(DEBIANS)
    g.oob.run(f"printf '[general]\\nblacklist=guest-exec\\nno-such-key=1\\n' >{CONF}")
    g.apt(OURS)
    g.answers()
    with g.agent() as agent:
        off = {c["name"] for c in agent.ask("guest-info")["supported_commands"] if not c["enabled"]}
    equal(off, {"guest-exec"}, "disabled by the old key")


@check("packages")
def both_installed_by_force_leave_one_that_answers(g):
    g.afresh(DEBIANS)
    g.dpkg(f"-i --force-conflicts --force-overwrite --force-confnew --ignore-depends={OUR_NAME} {OURS}")
    g.answers()
    g.oob.run("systemctl restart qemu-guest-agent")
    g.answers()
    holds(g.is_ours(), "the one that was installed last runs")
