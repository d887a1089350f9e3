//! Time of each processor: the `cpuN` lines of /proc/stat (proc_stat(5)). Floor 1. guest-get-cpustats calls this.

/// The columns of proc_stat(5), in ticks; `None` for those that the line does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTicks {
    pub(crate) cpu: i64,
    pub(crate) user: u64,
    pub(crate) nice: u64,
    pub(crate) system: u64,
    pub(crate) idle: u64,
    pub(crate) iowait: Option<u64>,
    pub(crate) irq: Option<u64>,
    pub(crate) softirq: Option<u64>,
    pub(crate) steal: Option<u64>,
    /// Included in `user`.
    pub(crate) guest: Option<u64>,
    /// Included in `nice`.
    pub(crate) guest_nice: Option<u64>,
}

/// One entry for each online processor, in file order. The first line, their sum, has no number and is left out.
pub fn parse(text: &str) -> Vec<CpuTicks> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<CpuTicks> {
    // The first word after `cpu` is the number; the line of the sum has two blanks there, so an empty word.
    let mut words = line.strip_prefix("cpu")?.split(' ');
    let cpu = words.next()?.parse().ok()?;
    let mut next = || words.next()?.parse().ok();
    Some(CpuTicks {
        cpu,
        user: next()?,
        nice: next()?,
        system: next()?,
        idle: next()?,
        iowait: next(),
        irq: next(),
        softirq: next(),
        steal: next(),
        guest: next(),
        guest_nice: next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_without_their_sum() {
        let text = "cpu  10 20 30 40 5 6 7 8 9 10\n\
                    cpu0 1 2 3 4 5 6 7 8 9 10\n\
                    cpu12 18446744073709551615 2 3 4\n\
                    cpu2 1 2 3\n\
                    cpux 1 2 3 4\n\
                    intr 1 2 3\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            CpuTicks {
                cpu: 0,
                user: 1,
                nice: 2,
                system: 3,
                idle: 4,
                iowait: Some(5),
                irq: Some(6),
                softirq: Some(7),
                steal: Some(8),
                guest: Some(9),
                guest_nice: Some(10),
            }
        );
        assert_eq!(
            (found[1].cpu, found[1].user, found[1].iowait),
            (12, u64::MAX, None)
        );
    }
}
