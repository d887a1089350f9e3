//! The command line in the agent's systemd unit, read from the unit's files, as systemctl(1) may be missing or block.
//! Of the syntax only what packages use is understood: drop-ins, environment files, quotes and `$VARIABLES`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

const NAME: &str = "qemu-guest-agent.service";
/// The most important place first (systemd.unit(5)).
const PLACES: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

pub(super) fn file(root: &Path) -> Option<PathBuf> {
    let paths = PLACES.map(|place| root.join(place).join(NAME));
    paths.into_iter().find(|path| path.is_file())
}

/// The unit file, and the arguments of the program that it starts.
pub(super) fn command_line(root: &Path) -> Option<(PathBuf, Vec<OsString>)> {
    let file = file(root)?;
    let mut texts = vec![fs::read_to_string(&file).ok()?];
    texts.extend(drop_ins(root));
    let mut command: Option<String> = None;
    let mut variables = Vec::new();
    let joined = texts.join("\n").replace("\\\n", " ");
    for line in joined.lines().map(str::trim) {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        match (key.trim_end(), value.trim()) {
            ("ExecStart", "") => command = None,
            ("ExecStart", value) => command = Some(value.to_owned()),
            ("EnvironmentFile", value) => {
                let path = value.trim_start_matches('-').trim_start_matches('/');
                let text = fs::read_to_string(root.join(path)).unwrap_or_default();
                variables.extend(text.lines().filter_map(assignment));
            }
            ("Environment", value) => {
                variables.extend(words(value).iter().filter_map(|word| assignment(word)));
            }
            _ => {}
        }
    }
    let mut args = Vec::new();
    for word in words(&command?).iter().skip(1) {
        match word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            // systemd.service(5): a variable without braces is split into words.
            Some(name) => args.extend(words(value_of(name, &variables))),
            None => args.push(expand(word, &variables)),
        }
    }
    Some((file, args.into_iter().map(OsString::from).collect()))
}

/// In the order of their names; of the same name only the most important counts (systemd.unit(5)).
fn drop_ins(root: &Path) -> Vec<String> {
    let dirs = PLACES.map(|place| root.join(place).join(format!("{NAME}.d")));
    let entries = dirs.iter().rev().filter_map(|dir| fs::read_dir(dir).ok());
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in entries.flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|kind| kind == "conf") {
            let name = path.file_name();
            found.retain(|other| other.file_name() != name);
            let at = found.partition_point(|other| other.file_name() < name);
            found.insert(at, path);
        }
    }
    let text = |path: &PathBuf| fs::read_to_string(path).ok();
    found.iter().filter_map(text).collect()
}

fn value_of<'a>(name: &str, variables: &'a [(String, String)]) -> &'a str {
    let found = variables.iter().rev().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value)
}

fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().split_once('=')?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!name.starts_with('#')).then(|| (name.to_owned(), value.to_owned()))
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => (quote, begun) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (_, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// An unknown `${NAME}` is replaced by nothing.
fn expand(word: &str, variables: &[(String, String)]) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').unwrap_or((after, ""));
        text += before;
        text += value_of(name, variables);
        rest = tail;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_drop_ins_and_quotes() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(command_line(root), None);
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        write(
            "usr/lib/systemd/system/qemu-guest-agent.service",
            "[Service]\nEnvironmentFile=-/etc/sysconfig/qemu-ga\nExecStart=-/usr/bin/qemu-ga \
             --path=/dev/x \\\n  --block-rpcs=${BLOCK} -F${HOOK} $MORE\n",
        );
        write(
            "etc/sysconfig/qemu-ga",
            "# no\nBLOCK=a,b\nHOOK=\"/etc/h\"\nMORE=-v -t /s\n",
        );
        let (path, args) = command_line(root).unwrap();
        assert!(path.starts_with(root.join("usr/lib")));
        let expected = [
            "--path=/dev/x",
            "--block-rpcs=a,b",
            "-F/etc/h",
            "-v",
            "-t",
            "/s",
        ];
        assert_eq!(args, expected);
        write(
            "etc/systemd/system/qemu-guest-agent.service.d/hooks.conf",
            "[Service]\nExecStart=\nExecStart=/usr/sbin/qemu-ga -F '-l/a b' \"\"\n",
        );
        assert_eq!(command_line(root).unwrap().1, ["-F", "-l/a b", ""]);
        // A drop-in of the same name in a less important place is ignored, one with a later name is used.
        let cases: [(&str, &str, &[&str]); 2] = [
            ("hooks", "-x", &["-F", "-l/a b", ""]),
            ("later", "-y", &["-y"]),
        ];
        for (name, args, expected) in cases {
            write(
                &format!("usr/lib/systemd/system/qemu-guest-agent.service.d/{name}.conf"),
                &format!("[Service]\nExecStart=\nExecStart=/usr/sbin/qemu-ga {args}\n"),
            );
            assert_eq!(command_line(root).unwrap().1, expected);
        }
    }
}
