//! Pressure stall figures: /proc/pressure, of the kernel's Documentation/accounting/psi.rst. Floor 1.
//!
//! A kernel without them (built without PSI, or started with psi=0) has no such files or refuses to open them; before 5.13
//! there is no `full` line for the processors. x-guest-get-memory calls this.

use std::path::Path;

use serde::Serialize;

use super::System;

/// How long tasks have waited for one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Option<Stall>,
    /// Every task that was not idle waited.
    pub full: Option<Stall>,
}

/// Times of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stall {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds since boot.
    pub total: u64,
}

/// `resource` is `memory`, `io` or `cpu`; `None` if the kernel has no figures for it.
pub(crate) fn read(system: &System, resource: &str) -> Option<Pressure> {
    let text = system
        .text(Path::new("/proc/pressure").join(resource))
        .ok()?;
    let pressure = parse(&text);
    (pressure != Pressure::default()).then_some(pressure)
}

/// A line that lacks a figure is left out.
pub fn parse(text: &str) -> Pressure {
    let line = |name| {
        text.lines()
            .find_map(|line| parse_line(line.strip_prefix(name)?))
    };
    Pressure {
        some: line("some "),
        full: line("full "),
    }
}

fn parse_line(figures: &str) -> Option<Stall> {
    let value = |name: &str| {
        let mut words = figures.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let percent = |name| {
        let percent: f64 = value(name)?.parse().ok()?;
        // The kernel writes digits and a point; a parser of numbers accepts "inf", too.
        (0.0..=f64::MAX).contains(&percent).then_some(percent)
    };
    Some(Stall {
        avg10: percent("avg10")?,
        avg60: percent("avg60")?,
        avg300: percent("avg300")?,
        total: value("total")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_of_a_kernel() {
        let text = "some avg10=1.50 avg60=0.20 avg300=100.00 total=18446744073709551615\n\
                    full avg10=0.00 avg60=0.01 avg300=0.00 total=7\n";
        let stall = |avg10, avg60, avg300, total| {
            Some(Stall {
                avg10,
                avg60,
                avg300,
                total,
            })
        };
        let both = Pressure {
            some: stall(1.5, 0.2, 100.0, u64::MAX),
            full: stall(0.0, 0.01, 0.0, 7),
        };
        assert_eq!(parse(text), both);
        // Without a line for the processors, and with figures that a later kernel may add.
        let text = "some avg10=0.00 avg3600=9.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(parse(text).some, stall(0.0, 0.0, 0.0, 1));
        assert_eq!(parse(text).full, None);
    }

    #[test]
    fn a_line_that_lacks_a_figure_is_left_out() {
        for text in [
            "",
            "some\n",
            "some avg10=0.00 avg60=0.00 avg300=0.00\n",
            "some avg10=inf avg60=0.00 avg300=0.00 total=1\n",
            "some avg10=0.00 avg60=NaN avg300=0.00 total=1\n",
            "some avg10=0.00 avg60=0.00 avg300=-1.00 total=1\n",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=-1\n",
            "none avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
        ] {
            assert_eq!(parse(text), Pressure::default(), "{text}");
        }
    }
}
