//! Partitions of a disk image, and what kind of filesystem begins at an offset: for a tool that mounts an image
//! read-only. A damaged table has no partitions. Formats: UEFI specification, chapter GUID Partition Table; the kernel's
//! Documentation/filesystems/ext4/super.rst; fs/xfs/libxfs/xfs_format.h and fs/btrfs for the magic numbers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the image.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A type of filesystem that can be mounted without a change to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFilesystem {
    /// ext2 to ext4. `needs_recovery`: its journal would be replayed at a mount, so it was not frozen when it was copied.
    Ext {
        /// By the superblock.
        needs_recovery: bool,
    },
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

const SECTOR: u64 = 512;
const SECTOR_SIZES: [u64; 2] = [SECTOR, 4096];
const MAX_PARTITIONS: usize = 128;
const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
const MBR_TABLE: usize = 446;
const MBR_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const MBR_PROTECTIVE: u8 = 0xee;
const GPT_SIGNATURE: &[u8] = b"EFI PART";
const GPT_ENTRY_MIN_BYTES: usize = 128;
const EXT_SUPERBLOCK: u64 = 1024;
const EXT_MAGIC: [u8; 2] = [0x53, 0xef];
const EXT_NEEDS_RECOVERY: u32 = 4;
const BTRFS_MAGIC_OFFSET: u64 = 65536 + 64;

/// The image as a whole, then its partitions in the order of the table.
pub fn extents(image: &File, length: u64) -> Vec<Extent> {
    let mut extents = vec![Extent { start: 0, length }];
    let partitions = SECTOR_SIZES.iter().find_map(|&size| gpt(image, size));
    extents.extend(partitions.unwrap_or_else(|| mbr(image)));
    extents.retain(|extent| extent.length > 0 && extent.start < length);
    extents
}

/// `None`: none of these, or it cannot be read.
pub fn filesystem_at(image: &File, start: u64) -> Option<ImageFilesystem> {
    let bytes = |offset| read::<4>(image, start.checked_add(offset)?).ok();
    if bytes(0)? == *b"XFSB" {
        return Some(ImageFilesystem::Xfs);
    }
    if bytes(EXT_SUPERBLOCK + 0x38)?[..2] == EXT_MAGIC {
        let incompatible = u32::from_le_bytes(bytes(EXT_SUPERBLOCK + 0x60)?);
        let needs_recovery = incompatible & EXT_NEEDS_RECOVERY != 0;
        return Some(ImageFilesystem::Ext { needs_recovery });
    }
    let magic = read::<8>(image, start.checked_add(BTRFS_MAGIC_OFFSET)?).ok()?;
    (magic == *b"_BHRfS_M").then_some(ImageFilesystem::Btrfs)
}

fn read<const N: usize>(image: &File, offset: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    image.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut number = [0; 8];
    number[..N].copy_from_slice(bytes.get(at..at + N)?);
    Some(u64::from_le_bytes(number))
}

fn extent(first: u64, count: u64, sector: u64) -> Option<Extent> {
    Some(Extent {
        start: first.checked_mul(sector)?,
        length: count.checked_mul(sector)?,
    })
}

/// `None`: there is no such table.
fn gpt(image: &File, sector: u64) -> Option<Vec<Extent>> {
    let header = read::<92>(image, sector).ok()?;
    if !header.starts_with(GPT_SIGNATURE) {
        return None;
    }
    let table = number::<8>(&header, 72)?.checked_mul(sector)?;
    let count = usize::try_from(number::<4>(&header, 80)?).ok()?;
    let size = number::<4>(&header, 84)?;
    if size < GPT_ENTRY_MIN_BYTES as u64 {
        return None;
    }
    let mut found = Vec::new();
    for index in 0..count.min(MAX_PARTITIONS) as u64 {
        let offset = table.checked_add(index.checked_mul(size)?)?;
        let Ok(entry) = read::<GPT_ENTRY_MIN_BYTES>(image, offset) else {
            break;
        };
        let (first, last) = (number::<8>(&entry, 32)?, number::<8>(&entry, 40)?);
        let is_used = entry[..16].iter().any(|&byte| byte != 0);
        let count = last
            .checked_sub(first)
            .and_then(|count| count.checked_add(1));
        if let (true, Some(count)) = (is_used, count) {
            found.extend(extent(first, count, sector));
        }
    }
    Some(found)
}

/// The entries of one table: type, first sector, number of sectors.
fn mbr_entries(image: &File, at: u64) -> Vec<(u8, u64, u64)> {
    let Some(offset) = at.checked_mul(SECTOR) else {
        return Vec::new();
    };
    let Ok(table) = read::<512>(image, offset) else {
        return Vec::new();
    };
    if !table.ends_with(&MBR_SIGNATURE) {
        return Vec::new();
    }
    let entries = table[MBR_TABLE..510].chunks_exact(16);
    let entries = entries.filter_map(|entry| {
        let (first, count) = (number::<4>(entry, 8)?, number::<4>(entry, 12)?);
        (entry[4] != 0 && count > 0).then_some((entry[4], first, count))
    });
    entries.collect()
}

fn mbr(image: &File) -> Vec<Extent> {
    let mut found = Vec::new();
    for (kind, first, count) in mbr_entries(image, 0) {
        if MBR_EXTENDED.contains(&kind) {
            found.extend(logical(image, first));
        } else if kind != MBR_PROTECTIVE {
            found.extend(extent(first, count, SECTOR));
        }
    }
    found
}

/// The tables within an extended partition: each has one partition and the place of the next table, both relative.
fn logical(image: &File, base: u64) -> Vec<Extent> {
    let (mut found, mut at) = (Vec::new(), Some(base));
    while let Some(table) = at.take().filter(|_| found.len() < MAX_PARTITIONS) {
        for (kind, first, count) in mbr_entries(image, table) {
            if MBR_EXTENDED.contains(&kind) {
                // Only forward: a table that leads back would never end.
                at = base.checked_add(first).filter(|&next| next > table);
            } else {
                let first = table.checked_add(first);
                found.extend(first.and_then(|first| extent(first, count, SECTOR)));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        file
    }

    fn entry(kind: u8, first: u32, count: u32) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
        entry
    }

    fn write_mbr(file: &File, at: u64, entries: &[[u8; 16]]) {
        file.write_all_at(&entries.concat(), at * SECTOR + 446)
            .unwrap();
        file.write_all_at(&MBR_SIGNATURE, at * SECTOR + 510)
            .unwrap();
    }

    fn found(file: &File, length: u64) -> Vec<(u64, u64)> {
        let extents = extents(file, length).into_iter();
        extents
            .map(|e| (e.start / SECTOR, e.length / SECTOR))
            .collect()
    }

    #[test]
    fn an_image_without_a_table_is_one_filesystem() {
        assert_eq!(found(&image(1 << 20), 1 << 20), [(0, 2048)]);
        assert_eq!(found(&image(100), 100), [(0, 0)]);
        assert!(extents(&image(0), 0).is_empty());
    }

    #[test]
    fn primary_and_logical_partitions_and_a_chain_that_leads_back() {
        let file = image(1 << 20);
        write_mbr(
            &file,
            0,
            &[entry(0x83, 8, 16), entry(5, 100, 500), entry(0, 1, 1)],
        );
        write_mbr(&file, 100, &[entry(0x83, 2, 20), entry(5, 50, 100)]);
        write_mbr(&file, 150, &[entry(0x83, 3, 30), entry(5, 0, 100)]);
        assert_eq!(
            found(&file, 1 << 20),
            [(0, 2048), (8, 16), (102, 20), (153, 30)]
        );
    }

    #[test]
    fn a_guid_table_with_both_sizes_of_sectors() {
        for sector in SECTOR_SIZES {
            let file = image(1 << 20);
            write_mbr(&file, 0, &[entry(MBR_PROTECTIVE, 1, 2047)]);
            let mut header = [0; 92];
            header[..8].copy_from_slice(GPT_SIGNATURE);
            header[72..80].copy_from_slice(&2_u64.to_le_bytes());
            header[80..84].copy_from_slice(&3_u32.to_le_bytes());
            header[84..88].copy_from_slice(&128_u32.to_le_bytes());
            file.write_all_at(&header, sector).unwrap();
            let mut entry = [0; 128];
            entry[..16].fill(1);
            entry[32..40].copy_from_slice(&10_u64.to_le_bytes());
            entry[40..48].copy_from_slice(&19_u64.to_le_bytes());
            file.write_all_at(&entry, 2 * sector + 128).unwrap();
            let scale = sector / SECTOR;
            assert_eq!(found(&file, 1 << 20), [(0, 2048), (10 * scale, 10 * scale)]);
            // Nonsense in the header must not end in an overflow or an endless list.
            file.write_all_at(&[0xff; 20], sector + 72).unwrap();
            extents(&file, 1 << 20);
        }
    }

    #[test]
    fn filesystems_by_their_magic() {
        let file = image(1 << 20);
        assert_eq!(filesystem_at(&file, 512), None);
        assert_eq!(filesystem_at(&file, u64::MAX - 10), None);
        file.write_all_at(b"XFSB", 512).unwrap();
        assert_eq!(filesystem_at(&file, 512), Some(ImageFilesystem::Xfs));
        for (flags, needs_recovery) in [(2, false), (6, true)] {
            file.write_all_at(&EXT_MAGIC, 4096 + 1024 + 0x38).unwrap();
            file.write_all_at(&[flags], 4096 + 1024 + 0x60).unwrap();
            let ext = ImageFilesystem::Ext { needs_recovery };
            assert_eq!(filesystem_at(&file, 4096), Some(ext));
        }
        file.write_all_at(b"_BHRfS_M", 8192 + 65536 + 64).unwrap();
        assert_eq!(filesystem_at(&file, 8192), Some(ImageFilesystem::Btrfs));
    }
}
