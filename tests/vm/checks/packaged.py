"""The service files that packages install, with what administrators write beside them."""
import base64
import pathlib

from lib.report import check, equal, holds

ROOT = pathlib.Path(__file__).resolve().parents[3]
# What RHEL's own package refuses unless told otherwise: programs and files.
REFUSED = {"guest-exec", "guest-exec-status", *(f"guest-file-{what}" for what in ("open", "close", "read", "write", "seek", "flush"))}
UNIT = "/run/systemd/system/qemu-guest-agent-rhel.service"


def put(g, text, to):
    g.oob.run(f"mkdir -p $(dirname {to}); echo {base64.b64encode(text.encode()).decode()} | base64 -d >{to}")


@check("libvirt")
def rhel_unit_honours_the_variables_of_every_release(g):
    put(g, (ROOT / "rpm/qemu-guest-agent.service").read_text(), UNIT)
    g.oob.run("cp /usr/sbin/qemu-ga /usr/bin/qemu-ga; systemctl daemon-reload; systemctl stop qemu-guest-agent")
    cases = (
        ("BLACKLIST_RPC=guest-exec,guest-exec-status\n", {"guest-exec", "guest-exec-status"}),
        ("BLOCK_RPCS=guest-file-open\nFSFREEZE_HOOK_PATHNAME=/dev/null\n", {"guest-file-open"}),
        ('FILTER_RPC_ARGS="--block-rpcs=guest-exec"\nQEMU_GA_ARGS=-bguest-set-time\n', {"guest-exec", "guest-set-time"}),
        ((ROOT / "rpm/qemu-ga.sysconfig").read_text(), REFUSED),
        (None, set()),
    )
    try:
        for text, disabled in cases:
            if text is None:
                g.oob.run("rm /etc/sysconfig/qemu-ga")
            else:
                put(g, text, "/etc/sysconfig/qemu-ga")
            g.oob.run("systemctl restart qemu-guest-agent-rhel")
            g.wait_agent(20)
            listed = g.ask("guest-info")["supported_commands"]
            equal({c["name"] for c in listed if not c["enabled"]}, disabled, f"disabled with {text!r}")
            noise = g.oob.run("journalctl -q -o cat -p warning -u qemu-guest-agent-rhel", check=False).strip()
            holds("unset environment variable" not in noise, f"no warning of systemd's: {noise}")
    finally:
        g.oob.run(f"systemctl stop qemu-guest-agent-rhel; rm -f {UNIT} /usr/bin/qemu-ga /etc/sysconfig/qemu-ga; "
                  "systemctl daemon-reload; systemctl reset-failed; systemctl start qemu-guest-agent")
        g.wait_agent(20)
