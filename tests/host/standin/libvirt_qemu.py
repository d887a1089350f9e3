"""Stands for libvirt's bindings to the guest agent."""


def qemuAgentCommand(domain, command, timeout, _):
    return domain.call("agent", command=command, timeout=timeout)
