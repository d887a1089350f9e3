"""What a snapshot leaves in its domain: an element of its own namespace in the domain's metadata, with the last snapshots.

    <qga:snapshots xmlns:qga="https://qemu-ga-rs.invalid/xmlns/snapshots/1">
      <qga:snapshot kind="snapshot" name="…" taken="…" level="application" run="…" agent="…">
        <qga:hook path="…" phase="freeze" status="0"/>
        <qga:reason>…</qga:reason>

The newest is first. Other tools may read and remove it; what is not understood is replaced by the next snapshot.
"""
import xml.etree.ElementTree as tree

import libvirt

NAMESPACE = "https://qemu-ga-rs.invalid/xmlns/snapshots/1"
PREFIX = "qga"
MAX_SNAPSHOTS = 20
ATTRIBUTES = ("kind", "name", "taken", "level", "run", "agent")


def read(domain):
    """The labels as dictionaries, the newest first; an empty list if the domain has none. Raises libvirtError."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return []
        raise
    try:
        root = tree.fromstring(text)
    except tree.ParseError:
        return []
    # libvirt removes the prefix, but not always the namespace.
    return [from_element(element) for element in root if local(element) == "snapshot"]


def local(element):
    """The name without its namespace."""
    return element.tag.rpartition("}")[2]


def from_element(element):
    """One label."""
    found = {name: element.get(name, "") for name in ATTRIBUTES}
    found["hooks"] = [{name: part.get(name, "") for name in ("path", "phase", "status")} for part in element if local(part) == "hook"]
    found["reasons"] = [part.text or "" for part in element if local(part) == "reason"]
    return found


def render(labels):
    """The element for libvirt."""
    root = tree.Element("snapshots")
    for label in labels[:MAX_SNAPSHOTS]:
        element = tree.SubElement(root, "snapshot", {name: label[name] for name in ATTRIBUTES if label.get(name)})
        for hook in label["hooks"]:
            tree.SubElement(element, "hook", {name: hook[name] for name in ("path", "phase", "status")})
        for reason in label["reasons"]:
            tree.SubElement(element, "reason").text = reason
    return tree.tostring(root, encoding="unicode")


def add(domain, label):
    """Puts a label before the others: in the running domain, and in its definition if it has one. Raises libvirtError."""
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE
    if domain.isPersistent():
        flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, render([label, *read(domain)]), PREFIX, NAMESPACE, flags)
