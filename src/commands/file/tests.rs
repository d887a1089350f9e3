use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn files(dir: &Path) -> Files {
    Files::new(StateDir::new(dir))
}

fn name(dir: &Path, file: &str) -> String {
    dir.join(file).to_str().unwrap().to_owned()
}

#[test]
fn handles_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = name(dir.path(), "f");
    let mut first = files(dir.path());
    assert!(first.open(&path, Some("r")).is_err());
    assert_eq!(first.open(&path, Some("w")).unwrap(), 1000);
    assert_eq!(first.open(&path, None).unwrap(), 1001);
    first.find(1000).unwrap().write(b"kept").unwrap();
    drop(first);
    assert_eq!(fs::read(&path).unwrap(), b"kept");
    let mut second = files(dir.path());
    assert_eq!(
        second.close(1001),
        Err(CommandError::generic("handle '1001' has not been found"))
    );
    assert_eq!(second.open(&path, None).unwrap(), 1002);
}

#[test]
fn no_handle_without_its_successor_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = name(dir.path(), "f");
    let mut files = files(&dir.path().join("gone"));
    assert_eq!(
        files.open(&path, Some("w")),
        Err(CommandError::generic(
            "failed to commit persistent state to disk"
        ))
    );
    assert!(files.open.is_empty());
}

#[test]
fn creation_gives_0666_and_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    let made = name(dir.path(), "made");
    files.open(&made, Some("a+")).unwrap();
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&made), 0o666);
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600)).unwrap();
    files.open(&made, Some("w")).unwrap();
    assert_eq!(mode(&made), 0o600);
    symlink("elsewhere", dir.path().join("link")).unwrap();
    let link = name(dir.path(), "link");
    assert_eq!(
        files.open(&link, Some("w")).unwrap_err().desc,
        format!("failed to open file '{link}' (mode: 'w'): No such file or directory")
    );
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn a_failed_close_frees_the_handle() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    let handle = files.open("/dev/full", Some("w")).unwrap();
    files.find(handle).unwrap().write(b"x").unwrap();
    assert_eq!(
        files.close(handle).unwrap_err().desc,
        "failed to close handle: No space left on device"
    );
    assert_eq!(
        files.close(handle).unwrap_err().desc,
        "handle '1000' has not been found"
    );
}

#[test]
fn a_nul_in_a_path_is_two_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    files.open(&name(dir.path(), "a\0b"), Some("w")).unwrap();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"a\xC0\x80b"));
    assert!(odd.exists());
}
