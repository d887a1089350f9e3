//! Keys of an account that needs no entry in the user database: another user where the tests run
//! as root, our own otherwise.

use super::*;
use crate::commands::reply_line;
use nix::unistd::{Gid, Uid, geteuid};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

struct Home {
    directory: tempfile::TempDir,
    account: Account,
}

const ELSE: u32 = 54_321;

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (uid, gid, groups) = if geteuid().is_root() {
            let gid = Gid::from_raw(ELSE);
            chown(directory.path(), Some(ELSE), Some(ELSE)).unwrap();
            (Uid::from_raw(ELSE), gid, vec![gid])
        } else {
            (
                geteuid(),
                nix::unistd::getegid(),
                nix::unistd::getgroups().unwrap(),
            )
        };
        let account = Account {
            name: "tu".into(),
            home: directory.path().to_owned(),
            identity: Identity { uid, gid, groups },
        };
        Self { directory, account }
    }

    fn with_keys(content: &str) -> Self {
        let home = Self::new();
        fs::create_dir(home.path(".ssh")).unwrap();
        fs::write(home.keys(), content).unwrap();
        for path in [home.path(".ssh"), home.keys()] {
            let Identity { uid, gid, .. } = home.account.identity;
            chown(path, Some(uid.as_raw()), Some(gid.as_raw())).unwrap();
        }
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn keys(&self) -> PathBuf {
        self.path(".ssh/authorized_keys")
    }

    fn content(&self) -> String {
        fs::read_to_string(self.keys()).unwrap()
    }

    fn get(&self) -> Result<Vec<String>, String> {
        get(&self.account)
            .map(|found| found.keys)
            .map_err(|error| error.desc)
    }

    fn add(&self, keys: &[&str], reset: bool) -> Result<(), String> {
        add(&self.account, &bytes(keys), reset).map_err(|error| error.desc)
    }

    fn remove(&self, keys: &[&str]) -> Result<(), String> {
        remove(&self.account, &bytes(keys)).map_err(|error| error.desc)
    }

    fn read_failure(&self, reason: &str) -> String {
        let path = self.keys();
        let path = path.display();
        format!("failed to read '{path}': Failed to open file \u{201C}{path}\u{201D}: {reason}")
    }

    fn in_the_way(&self) -> String {
        let path = self.path(".ssh");
        format!(
            "failed to create directory '{}': File exists",
            path.display()
        )
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path(".ssh")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

fn bytes(keys: &[&str]) -> Vec<Vec<u8>> {
    keys.iter().map(|key| key.as_bytes().to_vec()).collect()
}

#[test]
fn a_new_user_s_first_keys() {
    let home = Home::new();
    assert_eq!(
        home.get(),
        Err(home.read_failure("No such file or directory"))
    );
    assert_eq!(home.remove(&["a"]), Ok(()));
    assert!(!home.path(".ssh").exists());
    home.add(
        &["ssh-rsa AAA one", "ssh-rsa BBB two", "ssh-rsa AAA one"],
        false,
    )
    .unwrap();
    assert_eq!(home.content(), "ssh-rsa AAA one\nssh-rsa BBB two");
    assert_eq!(
        reply_line(get(&home.account).unwrap()),
        "{\"return\": {\"keys\": [\"ssh-rsa BBB two\", \"ssh-rsa AAA one\"]}}\n"
    );
    for (path, mode) in [(home.path(".ssh"), 0o700), (home.keys(), 0o600)] {
        let found = fs::metadata(path).unwrap();
        assert_eq!(found.mode() & 0o7777, mode);
        assert_eq!(found.uid(), home.account.identity.uid.as_raw());
        assert_eq!(found.gid(), home.account.identity.gid.as_raw());
    }
    home.add(&[], true).unwrap();
    assert_eq!(home.get(), Ok(vec![]));
    assert_eq!(home.names(), ["authorized_keys"]);
}

#[test]
fn lines_are_kept_verbatim() {
    let home = Home::with_keys("# comment\n\n  ssh-a x  \r\nssh-b y\nssh-b y\n");
    assert_eq!(home.get().unwrap(), ["ssh-b y", "ssh-b y", "ssh-a x"]);
    home.add(&["ssh-b y", "ssh-c z"], false).unwrap();
    assert_eq!(
        home.content(),
        "# comment\n\n  ssh-a x  \r\nssh-b y\nssh-b y\n\nssh-c z"
    );
    home.remove(&["ssh-b y", "ssh-a x", "none"]).unwrap();
    assert_eq!(home.content(), "# comment\n\n  ssh-a x  \r\n\nssh-c z");
    home.add(&["only"], true).unwrap();
    assert_eq!(home.content(), "only");
    home.remove(&["only"]).unwrap();
    assert_eq!(home.content(), "");
    home.add(&["again"], false).unwrap();
    assert_eq!(home.content(), "again");
}

#[test]
fn bytes_that_are_no_text_survive() {
    let home = Home::with_keys("");
    fs::write(home.keys(), b"ssh-a \xFF\nssh-b").unwrap();
    assert_eq!(home.get().unwrap(), ["ssh-b", "ssh-a \u{FFFD}"]);
    home.remove(&["ssh-b"]).unwrap();
    assert_eq!(fs::read(home.keys()).unwrap(), b"ssh-a \xFF");
}

#[test]
fn a_key_file_that_is_a_link_is_left_alone() {
    let home = Home::with_keys("");
    let target = home.path("target");
    fs::write(&target, "secret").unwrap();
    fs::remove_file(home.keys()).unwrap();
    symlink(&target, home.keys()).unwrap();
    let failure = home.read_failure("Too many levels of symbolic links");
    assert_eq!(home.get(), Err(failure.clone()));
    assert_eq!(home.add(&["a"], false), Err(failure.clone()));
    assert_eq!(home.add(&["a"], true), Err(failure.clone()));
    assert_eq!(home.remove(&["secret"]), Err(failure));
    assert_eq!(fs::read_to_string(&target).unwrap(), "secret");
    assert!(home.keys().is_symlink());
}

#[test]
fn a_directory_that_is_a_link_is_left_alone() {
    let home = Home::new();
    let target = home.path("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("authorized_keys"), "secret").unwrap();
    symlink(&target, home.path(".ssh")).unwrap();
    let failure = home.read_failure("Too many levels of symbolic links");
    assert_eq!(home.get(), Err(failure.clone()));
    assert_eq!(home.add(&["a"], true), Err(home.in_the_way()));
    assert_eq!(home.remove(&["secret"]), Err(failure));
    assert_eq!(
        fs::read_to_string(target.join("authorized_keys")).unwrap(),
        "secret"
    );
}

#[test]
fn what_is_no_file_does_not_stop_us() {
    let home = Home::with_keys("");
    fs::remove_file(home.keys()).unwrap();
    nix::unistd::mkfifo(&home.keys(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let Identity { uid, gid, .. } = home.account.identity;
    chown(home.keys(), Some(uid.as_raw()), Some(gid.as_raw())).unwrap();
    assert_eq!(home.get(), Err(home.read_failure("Not a regular file")));
    assert_eq!(
        home.add(&["a"], false),
        Err(home.read_failure("Not a regular file"))
    );
    let flat = Home::new();
    fs::write(flat.path(".ssh"), "").unwrap();
    assert_eq!(flat.add(&["a"], false), Err(flat.in_the_way()));
    assert_eq!(flat.get(), Err(flat.read_failure("Not a directory")));
    assert_eq!(fs::read(flat.path(".ssh")).unwrap(), b"");
}

#[test]
fn a_file_too_big_is_refused() {
    let home = Home::with_keys("");
    let refused = |action: &str, what: &str| {
        let path = home.keys();
        let text = format!(
            "failed to {action} '{}': {what}; remove keys that nobody needs",
            path.display()
        );
        Err(text)
    };
    let (size, lines) = ("larger than 1 MiB", "more than 10000 lines");
    for (content, what) in [
        ("k".repeat((1 << 20) + 1), size),
        ("k\n".repeat(10_001), lines),
        ("\n".repeat(1 << 20), lines),
    ] {
        fs::write(home.keys(), &content).unwrap();
        assert_eq!(home.get().map(drop), refused("read", what));
        assert_eq!(home.add(&["a"], false), refused("read", what));
        assert_eq!(home.remove(&["k"]), refused("read", what));
        assert!(home.content() == content, "it is as it was");
    }
    for (content, what) in [
        ("k".repeat(1 << 20), size),
        ("k\n".repeat(9_999) + "k", lines),
    ] {
        fs::write(home.keys(), &content).unwrap();
        assert!(home.get().is_ok());
        // What could not be read any more is not written.
        assert_eq!(home.add(&["a"], false), refused("write to", what));
        assert!(home.content() == content, "it is as it was");
        assert_eq!(home.add(&["a"], true), Ok(()));
    }
    // Sparse, and more than any memory.
    fs::File::options()
        .write(true)
        .open(home.keys())
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert_eq!(home.get().map(drop), refused("read", size));
}

#[test]
fn only_what_the_user_may() {
    if crate::left_out::needs_root() {
        return;
    }
    let home = Home::with_keys("mine");
    // Root's file is not read to the user's profit.
    chown(home.keys(), Some(0), Some(0)).unwrap();
    fs::set_permissions(home.keys(), Permissions::from_mode(0o600)).unwrap();
    let denied = home.read_failure("Permission denied");
    assert_eq!(home.get(), Err(denied.clone()));
    assert_eq!(home.add(&["a"], false), Err(denied));
    assert_eq!(home.content(), "mine");
    // Root's directory is not written to.
    fs::set_permissions(home.keys(), Permissions::from_mode(0o644)).unwrap();
    chown(home.path(".ssh"), Some(0), Some(0)).unwrap();
    let path = home.keys();
    let path = path.display();
    assert_eq!(
        home.add(&["a"], false),
        Err(format!(
            "failed to write to '{path}': Failed to create file \u{201C}{path}\u{201D}: \
             Permission denied"
        ))
    );
    let other = Home::new();
    chown(other.directory.path(), Some(0), Some(0)).unwrap();
    fs::set_permissions(other.directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = other.path(".ssh");
    assert_eq!(
        other.add(&["a"], false),
        Err(format!(
            "failed to create directory '{}': Permission denied",
            path.display()
        ))
    );
}

#[test]
fn no_home() {
    let mut home = Home::new();
    home.account.home = Path::new("/nonexistent").to_owned();
    assert_eq!(
        home.add(&["a"], false),
        Err("failed to create directory '/nonexistent/.ssh': No such file or directory".into())
    );
    assert_eq!(home.remove(&["a"]), Ok(()));
}

#[test]
fn keys_are_checked_before_the_user() {
    let failure = |key: &str| {
        validate_keys(&["fine".into(), key.into()])
            .unwrap_err()
            .desc
    };
    assert_eq!(failure("#bad"), "invalid OpenSSH public key: '#bad'");
    assert_eq!(failure("a\nb"), "invalid OpenSSH public key: 'a\nb'");
    assert_eq!(validate_keys(&["".into(), " #\r".into()]).unwrap().len(), 2);
}

#[test]
fn accounts() {
    let failure = |name: &str| Account::find(name).unwrap_err().desc;
    assert_eq!(
        failure("no-such-user-here"),
        "failed to lookup user 'no-such-user-here': Success"
    );
    assert_eq!(failure("a\0b"), "failed to lookup user 'a\0b': Success");
    let root = Account::find("root").unwrap();
    assert!(root.identity.uid.is_root() && root.identity.groups.contains(&root.identity.gid));
}

#[test]
fn reset_replaces_a_file_that_cannot_be_read() {
    let home = Home::with_keys("old\n");
    fs::set_permissions(home.keys(), Permissions::from_mode(0o0)).unwrap();
    home.add(&["new"], true).unwrap();
    assert_eq!(home.content(), "new");
    // Nor is one that is too long to be read.
    fs::write(home.keys(), "x\n".repeat(20_000)).unwrap();
    assert!(home.add(&["new"], false).is_err());
    home.add(&["new"], true).unwrap();
    assert_eq!(home.content(), "new");
}
