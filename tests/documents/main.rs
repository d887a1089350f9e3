//! What the documents show is what happens: every fenced block is run, or held against what runs it;
//! every `qemu-ga` in the text is understood; every link leads somewhere. A block that nothing here
//! claims is a failure. The examples of hooks/README.md are run by `tests/hooks/guide.rs`.
//!
//! It needs the namespace of tests/run, as the integration tests do.

#![allow(clippy::expect_used, clippy::panic)] // helpers of tests, outside of #[test] itself

mod architecture;
mod blocks;
mod commands;
mod consistency;
mod json;
mod outputs;
mod settings;
mod text;

#[path = "../support/json_page.rs"]
mod json_page;
#[allow(dead_code, unused_imports)]
#[path = "../integration/support/mod.rs"]
mod support;

use blocks::{Block, every_block};

const HOOK_GUIDE: &str = "hooks/README.md";
const CLOUDS_GUIDE: &str = "docs/clouds.md";

/// What a block is run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    /// `tests/hooks/guide.rs` and `tests/hooks/clouds.rs`.
    Guide,
    /// The agent's parser, or the hook master's.
    Settings,
    /// The definition of the guest in the VM tier.
    Domain,
    /// The reader of the hook log.
    Log,
    /// The names in the code of what it draws.
    Drawing,
    /// The tool whose output it is.
    Output,
    /// A shell.
    Commands,
}

fn runner(block: &Block) -> Option<Runner> {
    Some(match (block.file.as_str(), block.language.as_str()) {
        (HOOK_GUIDE, "sh" | "ini" | "text") | (CLOUDS_GUIDE, "sh") => Runner::Guide,
        ("docs/architecture.md", "text") => Runner::Drawing,
        (_, "ini") => Runner::Settings,
        (_, "xml") => Runner::Domain,
        (_, "log") => Runner::Log,
        (_, "text") => Runner::Output,
        (_, "sh") => Runner::Commands,
        _ => return None,
    })
}

/// The blocks of one runner; there are some.
fn blocks_of(wanted: Runner) -> Vec<Block> {
    let mut found = every_block();
    found.retain(|block| runner(block) == Some(wanted));
    assert!(!found.is_empty(), "{wanted:?}");
    found
}

#[test]
fn every_block_is_claimed() {
    let all = every_block();
    assert!(all.len() > 25, "{}", all.len());
    let unclaimed: Vec<String> = all
        .iter()
        .filter(|block| runner(block).is_none())
        .map(|block| {
            format!(
                "{}: what runs a block of '{}'?",
                block.place(),
                block.language
            )
        })
        .collect();
    assert!(unclaimed.is_empty(), "{unclaimed:#?}");
    let guide = include_str!("../hooks/guide.rs");
    assert!(guide.contains("include_str!(\"../../hooks/README.md\")"));
    let clouds = include_str!("../hooks/clouds.rs");
    assert!(clouds.contains("include_str!(\"../../docs/clouds.md\")"));
}
