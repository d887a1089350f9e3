//! The SMART log page of NVMe (NVM Express Base Specification, log page 02h), read by [`crate::sys::nvme`]. Floor 1.

/// In the order of the page, without the reserved members. Spares are in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmartLog {
    /// A bit for each kind of fault.
    pub critical_warning: u8,
    /// In kelvin.
    pub temperature: u16,
    pub available_spare: u8,
    pub available_spare_threshold: u8,
    /// In percent of the device's life; may exceed 100.
    pub percentage_used: u8,
    /// In units of 512,000 bytes, as `data_units_written`.
    pub data_units_read: u128,
    pub data_units_written: u128,
    pub host_read_commands: u128,
    pub host_write_commands: u128,
    /// In minutes.
    pub controller_busy_time: u128,
    pub power_cycles: u128,
    pub power_on_hours: u128,
    pub unsafe_shutdowns: u128,
    pub media_errors: u128,
    pub error_log_entries: u128,
}

const KNOWN_SIZE: usize = 192;

pub fn parse(page: &[u8]) -> Option<SmartLog> {
    let &[warning, cold, warm, spare, threshold, used, ..] = page.get(..KNOWN_SIZE)? else {
        return None;
    };
    let counter = |offset: usize| {
        let bytes = page.get(offset..offset + 16)?;
        Some(u128::from_le_bytes(bytes.try_into().ok()?))
    };
    Some(SmartLog {
        critical_warning: warning,
        temperature: u16::from_le_bytes([cold, warm]),
        available_spare: spare,
        available_spare_threshold: threshold,
        percentage_used: used,
        data_units_read: counter(32)?,
        data_units_written: counter(48)?,
        host_read_commands: counter(64)?,
        host_write_commands: counter(80)?,
        controller_busy_time: counter(96)?,
        power_cycles: counter(112)?,
        power_on_hours: counter(128)?,
        unsafe_shutdowns: counter(144)?,
        media_errors: counter(160)?,
        error_log_entries: counter(176)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_has_its_place() {
        let mut page = [0_u8; 512];
        page[..6].copy_from_slice(&[1, 0x42, 0x01, 100, 10, 255]);
        for counter in 0..10_u8 {
            page[32 + 16 * usize::from(counter)] = counter + 1;
            page[32 + 16 * usize::from(counter) + 8] = 1;
        }
        let log = parse(&page).unwrap();
        assert_eq!((log.critical_warning, log.temperature), (1, 0x142));
        assert_eq!(
            (log.available_spare, log.available_spare_threshold),
            (100, 10)
        );
        assert_eq!(log.percentage_used, 255);
        let counters = [
            log.data_units_read,
            log.data_units_written,
            log.host_read_commands,
            log.host_write_commands,
            log.controller_busy_time,
            log.power_cycles,
            log.power_on_hours,
            log.unsafe_shutdowns,
            log.media_errors,
            log.error_log_entries,
        ];
        for (counter, expected) in counters.into_iter().zip(1_u128..) {
            assert_eq!(counter, expected | (1 << 64));
        }
        assert_eq!(parse(&page[..191]), None);
    }
}
