//! Time that each processor spent: the `cpuN` lines of /proc/stat (proc_stat(5)). Floor 1.

/// Ticks of one processor by what it did. Members that an old kernel does not tell are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTicks {
    /// Number of the processor.
    pub cpu: i64,
    /// Programs.
    pub user: u64,
    /// Programs of low priority.
    pub nice: u64,
    /// The kernel.
    pub system: u64,
    /// Nothing.
    pub idle: u64,
    /// Nothing, while a disk was awaited.
    pub iowait: Option<u64>,
    /// Interrupts.
    pub irq: Option<u64>,
    /// Deferred work of interrupts.
    pub softirq: Option<u64>,
    /// Other guests of the same host ran.
    pub steal: Option<u64>,
    /// Guests of this guest; counted in `user`, too.
    pub guest: Option<u64>,
    /// Guests of low priority; counted in `nice`, too.
    pub guest_nice: Option<u64>,
}

/// One entry for each processor that is online, in file order. The sum over all is left out.
pub fn parse(text: &str) -> Vec<CpuTicks> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<CpuTicks> {
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
