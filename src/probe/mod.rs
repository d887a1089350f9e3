//! Floor 1: what the running system says about itself, read from /proc, /sys, /run/udev and
//! os-release.
//!
//! Each parser is a function of text. Each reader takes the root directory that stands for `/`,
//! so that a captured system is test data. Nothing here forks a process, keeps state or panics on
//! odd input: what can't be understood is left out.
#![forbid(unsafe_code)]

pub mod filesystems;
pub mod mountinfo;
