//! What tells one machine from another, and one execution of a machine from the next that its host starts from a copy.
//!
//! Linux does not show the VM generation id to programs: its driver vmgenid feeds it to the random number generator and
//! sends a uevent. QEMU also offers the id as a file of its firmware configuration device, which the module
//! qemu_fw_cfg shows (QEMU's docs/specs/vmgenid.rst: a page with the id at offset 40).

use super::System;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The identities of a machine; `None`: the platform has none, or the agent may not read it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MachineIds {
    /// machine-id(5): of the installation, so a copy of the disk has it too unless it was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The UUID of the virtual hardware: another one for each machine that a host defines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_uuid: Option<String>,
    /// cloud-init's: another one for each machine of a cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Changes whenever the host starts the machine from a copy, also in its own place; stays the same at a reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<String>,
}

const GENERATION: &str = "sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw";
const GENERATION_OFFSET: usize = 40;
const GENERATION_BYTES: usize = 16;

impl MachineIds {
    pub(crate) fn read(system: &System) -> Self {
        Self {
            machine_id: word(system, "etc/machine-id"),
            product_uuid: [
                "sys/class/dmi/id/product_uuid",
                "proc/device-tree/vm,uuid",
                "sys/hypervisor/uuid",
            ]
            .iter()
            .find_map(|path| word(system, path)),
            instance_id: word(system, "run/cloud-init/.instance-id"),
            generation_id: system
                .bytes(GENERATION)
                .ok()
                .and_then(|page| generation(&page)),
        }
    }

    /// The first identity that both have and that differs, as the subject of a sentence.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        let pairs = [
            (
                "VM generation id",
                &self.generation_id,
                &other.generation_id,
            ),
            ("product UUID", &self.product_uuid, &other.product_uuid),
            ("cloud instance id", &self.instance_id, &other.instance_id),
            ("machine id", &self.machine_id, &other.machine_id),
        ];
        let differs = |(_, own, theirs): &(_, &Option<String>, &Option<String>)| {
            own.is_some() && theirs.is_some() && own != theirs
        };
        Some(pairs.into_iter().find(differs)?.0)
    }

    /// Whether both run in the same generation: then neither was started from a copy of the other.
    pub(crate) fn is_same_generation(&self, other: &Self) -> bool {
        self.generation_id.is_some() && self.generation_id == other.generation_id
    }
}

/// A file with one word; `None` if it is missing or empty.
fn word(system: &System, path: &str) -> Option<String> {
    let text = system.text(Path::new(path)).ok()?;
    // The device tree's end with a NUL.
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_ascii_lowercase())
}

/// As hexadecimal digits in the order of the bytes: it is only compared.
fn generation(page: &[u8]) -> Option<String> {
    let id = page.get(GENERATION_OFFSET..GENERATION_OFFSET + GENERATION_BYTES)?;
    let is_set = id.iter().any(|&byte| byte != 0);
    is_set.then(|| id.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn identities_come_from_their_files() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path()).unwrap();
        assert_eq!(MachineIds::read(&system), MachineIds::default());
        let mut page = vec![0; 4096];
        page[40..56].copy_from_slice(&[0xa5; 16]);
        for (path, content) in [
            ("etc/machine-id", &b"0123\n"[..]),
            ("proc/device-tree/vm,uuid", b"ABCD-01\0"),
            ("run/cloud-init/.instance-id", b"\n"),
            (GENERATION, &page),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let ids = MachineIds::read(&system);
        assert_eq!(ids.machine_id.as_deref(), Some("0123"));
        assert_eq!(ids.product_uuid.as_deref(), Some("abcd-01"));
        assert_eq!(ids.instance_id, None);
        assert_eq!(ids.generation_id, Some("a5".repeat(16)));
        assert_eq!(generation(&[0; 4096]), None);
        assert_eq!(generation(&[1; 50]), None);
    }

    #[test]
    fn only_what_both_know_can_differ() {
        let ids = |product: &str, generation: Option<&str>| MachineIds {
            product_uuid: Some(product.to_owned()),
            generation_id: generation.map(str::to_owned),
            ..MachineIds::default()
        };
        let (first, second) = (ids("a", Some("1")), ids("b", None));
        assert_eq!(first.difference(&second), Some("product UUID"));
        assert_eq!(first.difference(&ids("a", None)), None);
        assert!(!first.is_same_generation(&ids("a", None)));
        assert!(first.is_same_generation(&ids("b", Some("1"))));
        assert!(!second.is_same_generation(&second));
        assert_eq!(
            first.difference(&ids("b", Some("2"))),
            Some("VM generation id")
        );
    }
}
