//! Floor 5: the subcommands for operators. Each is a file with an [`args::Tool`], an entry of [`crate::app`]'s table.
//! All but `selftest`, `thaw --now`, `hook try` and `hook dismiss` only read; all print JSON with `--json`
//! (`docs/json.md`).

pub mod args;
pub(crate) mod check;
mod context;
mod grace_periods;
pub(crate) mod hook;
pub(crate) mod inspect;
mod live;
pub mod log;
mod output;
pub(crate) mod plan;
pub mod report;
pub(crate) mod selftest;
pub(crate) mod status;
mod systemd_unit;
pub(crate) mod thaw;
mod time;

#[cfg(test)]
#[path = "../../tests/support/json_page.rs"]
mod json_page;

#[cfg(test)]
mod tests {
    use super::*;

    /// The samples have every member, so a new member is a compile error there and a failure here.
    #[test]
    fn docs_json_md_has_every_member_and_no_other() {
        let mut samples = vec![
            ("qemu-ga plan", plan::sample()),
            ("qemu-ga check", check::sample()),
            ("qemu-ga log", log::sample()),
            ("qemu-ga status", status::sample()),
            ("qemu-ga thaw --now", thaw::sample()),
            ("qemu-ga selftest", selftest::sample()),
            ("qemu-ga inspect", inspect::sample()),
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
