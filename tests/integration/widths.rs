//! The tools' output follows the width of the terminal: on pseudo terminals of 40, 80 and 200 columns.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use nix::pty::{Winsize, openpty};

use crate::rig::{Rig, with_rig};
use crate::support::{binary, returned};

/// What the tool prints on a terminal; its colors are left out.
fn on_terminal(columns: u16, args: &[&str]) -> String {
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(&size, None).expect("a pseudo terminal");
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    command.env_remove("NO_COLOR").env_remove("QGA_CONF");
    let mut child = command.stdout(terminal.slave).spawn().expect("runs");
    // Its copy of the terminal's other side would keep the read below from ending.
    drop(command);
    let mut bytes = Vec::new();
    // The end is EIO once the tool has closed its side.
    File::from(terminal.master).read_to_end(&mut bytes).ok();
    child.wait().expect("ended");
    let text = String::from_utf8(bytes).expect("text").replace('\r', "");
    let mut plain = String::new();
    for (number, part) in text.split('\x1b').enumerate() {
        let end = part.find('m').filter(|_| number > 0).map_or(0, |at| at + 1);
        plain += &part[end..];
    }
    plain
}

/// Whether a line may be longer: one word that can be copied, or a hook's own output.
fn may_be_long(line: &str) -> bool {
    let words = line.split_whitespace().count();
    words <= 1 || line.trim_start().starts_with("| ")
}

/// The longest line of the tool's output, which must fit.
fn longest(columns: u16, args: &[&str]) -> usize {
    let text = on_terminal(columns, args);
    let lines = text.lines().filter(|line| !may_be_long(line));
    let longest = lines.max_by_key(|line| line.chars().count());
    let longest = longest.unwrap_or_default();
    let length = longest.chars().count();
    assert!(
        length <= columns.into(),
        "{args:?} in {columns} columns: {longest:?} in:\n{text}"
    );
    length
}

fn check_widths(rig: &Rig, tools: &[&[&str]]) {
    let conf = rig.place.name("conf");
    let mut wide = 0;
    for tool in tools {
        let args = match tool[0] {
            "hook" => tool.to_vec(),
            _ => [*tool, &["-c", &conf]].concat(),
        };
        longest(40, &args);
        longest(80, &args);
        wide = wide.max(longest(200, &args));
    }
    assert!(wide > 100, "all of the width is used: {wide}");
}

#[test]
fn every_tool_fits_the_terminal_and_uses_its_width() {
    with_rig(|rig| {
        let dir = rig.place.name("etc/fsfreeze-hook.d");
        rig.hook("30-user", "# qga-hook: user = nobody-of-the-test\nexit 1");
        let agent = rig.frozen();
        check_widths(
            rig,
            &[
                &["plan"],
                &["plan", "--all"],
                &["check"],
                &["status"],
                &["thaw"],
                &["report"],
            ],
        );
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        agent.call("x-guest-fsfreeze-report");
        check_widths(
            rig,
            &[
                &["status"],
                &["report", "--all"],
                &["report", "--list"],
                &["report", "--require", "application"],
                &["hook", "check", "--dir", &dir],
                &["hook", "list", "--dir", &dir],
            ],
        );
    });
}
