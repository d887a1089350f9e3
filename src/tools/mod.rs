//! Floor 5: the subcommands for operators.
//!
//! Each tool is a file with an [`args::Tool`], which is an entry in [`crate::app`]'s table. All but `selftest`,
//! `thaw --now`, `hook try` and `hook dismiss` only read, and all print JSON with `--json` (`docs/json.md`). [`args`] parses
//! the command lines, [`context`] finds the configuration, [`output`] prints.

pub mod args;
pub mod check;
mod context;
mod grace_periods;
pub mod hook;
mod live;
pub mod log;
mod output;
pub mod plan;
pub mod report;
pub mod selftest;
pub mod status;
mod systemd_unit;
pub mod thaw;
mod time;

#[cfg(test)]
#[path = "../../tests/support/json_page.rs"]
mod json_page;

#[cfg(test)]
mod tests {
    use super::*;

    /// The samples have every member, so a new member is a compile error there and a fault here.
    #[test]
    fn docs_json_md_has_every_member_and_no_other() {
        let mut samples = vec![
            ("qemu-ga plan", plan::sample()),
            ("qemu-ga check", check::sample()),
            ("qemu-ga log", log::sample()),
            ("qemu-ga status", status::sample()),
            ("qemu-ga thaw --now", thaw::sample()),
            ("qemu-ga selftest", selftest::sample()),
        ];
        samples.extend(report::samples());
        samples.extend(hook::samples());
        let mut page = json_page::Page::read();
        for (heading, object) in samples {
            let faults = page.check(heading, &output::with_version(object));
            assert!(faults.is_empty(), "{faults:#?}");
        }
        assert_eq!(page.unseen(), [""; 0]);
    }
}
