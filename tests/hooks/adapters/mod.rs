//! Other systems' scripts, each by its own contract.

mod alibaba;
mod azure;
mod google;
mod huawei;
mod lists;
mod nutanix;
mod places;
mod vmware;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use qemu_ga::hooks::HookRecord;
use qemu_ga::hooks::invoke::MasterReport;

use crate::support::{Place, text};

/// A script that first writes its name and arguments down.
fn script(place: &Place, name: &str, mode: u32, body: &str) -> PathBuf {
    let path = place.path.join(name);
    let calls = place.path.join("calls");
    let content = format!(
        "#!/bin/sh\necho \"{name} $*\" | sed 's/ $//' >>'{}'\n{body}\n",
        calls.display()
    );
    fs::write(&path, content).expect("script");
    set_mode(&path, mode);
    path
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

/// What was called since the last look.
fn calls(place: &Place) -> Vec<String> {
    let path = place.path.join("calls");
    let bytes = fs::read(&path).unwrap_or_default();
    fs::remove_file(&path).ok();
    text(&bytes).lines().map(str::to_owned).collect()
}

fn only(report: &MasterReport) -> &HookRecord {
    assert_eq!(report.hooks.len(), 1, "{:?}", report.hooks);
    &report.hooks[0]
}

fn error(report: &MasterReport) -> Option<&str> {
    only(report).error.as_deref()
}

/// Whether a line of the log has this in it.
fn is_logged(place: &Place, what: &str) -> bool {
    place.log().iter().any(|line| line.contains(what))
}
