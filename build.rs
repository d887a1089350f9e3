//! Asks the linker for what makes the binary smaller, where the linker and this system's C library
//! know it: relocations packed (80 KB less), and functions with the same code kept once (20 KB). A release
//! build, which aborts on a panic, has no tables for unwinding (270 KB).
//!
//! Whether they do is tried out. Whoever builds on a system expects the binary to run on that one
//! and later ones, so a cross build goes without.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const FLAGS: [&str; 2] = ["-Wl,-z,pack-relative-relocs", "-Wl,--icf=all"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("HOST") != env::var("TARGET") {
        return;
    }
    let mut flags = FLAGS.map(str::to_owned).to_vec();
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        flags.push("-Wl,--no-eh-frame-hdr".into());
        flags.extend(without_tables());
    }
    for flag in flags {
        if works(&flag).unwrap_or(false) {
            println!("cargo:rustc-link-arg-bins={flag}");
        }
    }
}

/// Has the linker leave out what only unwinding reads, also of the standard library.
fn without_tables() -> Option<String> {
    let script = Path::new(&env::var_os("OUT_DIR")?).join("no-tables.ld");
    let sections = "*(.eh_frame .eh_frame.* .gcc_except_table .gcc_except_table.*)";
    let text = format!("SECTIONS {{ /DISCARD/ : {{ {sections} }} }} INSERT AFTER .text;\n");
    fs::write(&script, text).ok()?;
    Some(format!("-Wl,-T,{}", script.display()))
}

/// Whether a program linked with `flag` runs.
fn works(flag: &str) -> Option<bool> {
    let directory = env::var_os("OUT_DIR")?;
    let source = Path::new(&directory).join("trial.rs");
    let program = Path::new(&directory).join("trial");
    fs::write(&source, "fn main() {}\n").ok()?;
    let linked = Command::new(env::var_os("RUSTC")?)
        .arg("-Clink-arg=".to_owned() + flag)
        .arg("-o")
        .args([&program, &source])
        .stderr(Stdio::null())
        .status();
    Some(linked.ok()?.success() && Command::new(&program).status().ok()?.success())
}
