//! Floor 4: hot-pluggable memory: guest-get-memory-blocks, guest-set-memory-blocks, guest-get-memory-block-info.
//!
//! All of it comes from /sys/devices/system/memory (the kernel's admin-guide/mm/memory-hotplug.rst). Setting has a result
//! for each block; a block that fails does not stop the others. To take a block offline the kernel first moves its pages
//! away, so this runs on a worker thread.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::{Class, Command, CommandFuture, Context, answer, worker};
use crate::probe::System;
use crate::protocol::arguments::{NoArguments, decode};
use crate::protocol::error::CommandError;
use crate::protocol::value::Dict;
use crate::sys::strerror;

pub(super) const COMMANDS: &[Command] = &[
    Command::later(
        28,
        "guest-get-memory-blocks",
        Class::Query,
        |_, arguments| {
            // On a thread: a large machine has tens of thousands of blocks, each with two files to read.
            Box::pin(async move {
                let NoArguments {} = decode(arguments)?;
                answer(
                    worker::run(worker::FILE_COMMAND_TIMEOUT, || {
                        get_memory_blocks(&System::host())
                    })
                    .await?,
                )
            })
        },
    ),
    Command::later(
        29,
        "guest-set-memory-blocks",
        Class::Hardware,
        set_memory_blocks_of_host,
    ),
    Command::now(
        30,
        "guest-get-memory-block-info",
        Class::Query,
        |_, arguments| {
            let NoArguments {} = decode(arguments)?;
            answer(get_memory_block_info(&System::host())?)
        },
    ),
];

const MEMORY: &str = "/sys/devices/system/memory";

/// For a failure without an errno: an empty file.
const NO_ERRNO: i32 = 0;

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct MemoryBlock {
    phys_index: u64,
    online: bool,
    can_offline: bool,
}

/// `can-offline` is accepted, because clients send back what guest-get-memory-blocks returned, and ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WantedBlock {
    phys_index: u64,
    online: bool,
    #[allow(dead_code)]
    can_offline: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SetMemoryBlocks {
    mem_blks: Vec<WantedBlock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum BlockResponseType {
    Success,
    NotFound,
    OperationNotSupported,
    OperationFailed,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct BlockResponse {
    phys_index: u64,
    response: BlockResponseType,
    error_code: Option<i32>,
}

type BlockFailure = (BlockResponseType, Option<i32>);

fn set_memory_blocks_of_host(_: &mut Context, arguments: Dict) -> CommandFuture<'_> {
    Box::pin(async move {
        let SetMemoryBlocks { mem_blks } = decode(arguments)?;
        let all = move || Ok(set_memory_blocks(&System::host(), &mem_blks));
        answer(worker::run(worker::SLOW_COMMAND_TIMEOUT, all).await?)
    })
}

/// In the order of the directory; none if the kernel does not support memory hot-plug.
fn get_memory_blocks(system: &System) -> Result<Vec<MemoryBlock>, CommandError> {
    let names = match system.names(MEMORY.as_ref()) {
        Ok(names) => names,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(error) => {
            let reason = strerror(&error.source);
            return Err(CommandError::generic(format!(
                "Can't open directory\"{MEMORY}/\": {reason}"
            )));
        }
    };
    let index = |name: &std::ffi::OsString| {
        let number = name.to_str()?.strip_prefix("memory")?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse().ok())?
    };
    let blocks = names
        .iter()
        .filter_map(index)
        .map(|index| read_block(system, index));
    let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
    if blocks.is_empty() {
        return Err(CommandError::generic("guest reported zero memory blocks!"));
    }
    Ok(blocks)
}

fn read_block(system: &System, phys_index: u64) -> Result<MemoryBlock, CommandError> {
    let (online, can_offline) = match block_file(system, phys_index, "state", false) {
        Ok(file) => {
            let online =
                is_online(&file).map_err(|error| sysfs_failure("pread", "state", &error))?;
            // A block whose file `removable` cannot be read counts as not removable; the state alone matters.
            let removable = block_file(system, phys_index, "removable", false);
            let can_offline = removable.and_then(|file| Ok(read_start::<1>(&file)? != *b"0"));
            (online, can_offline.unwrap_or(false))
        }
        // No `state`: memory that was there at boot and cannot be unplugged.
        Err(error) if error.kind() == io::ErrorKind::NotFound => (true, false),
        Err(error) => return Err(sysfs_failure("open", "state", &error)),
    };
    Ok(MemoryBlock {
        phys_index,
        online,
        can_offline,
    })
}

fn set_memory_blocks(system: &System, wanted: &[WantedBlock]) -> Vec<BlockResponse> {
    let one = |block: &WantedBlock| {
        let (response, error_code) = match set_block(system, block) {
            Ok(()) => (BlockResponseType::Success, None),
            Err(failure) => failure,
        };
        BlockResponse {
            phys_index: block.phys_index,
            response,
            error_code,
        }
    };
    wanted.iter().map(one).collect()
}

fn set_block(system: &System, wanted: &WantedBlock) -> Result<(), BlockFailure> {
    let &WantedBlock {
        phys_index, online, ..
    } = wanted;
    let fail_with = |response: BlockResponseType| {
        move |error: io::Error| (response, Some(error.raw_os_error().unwrap_or(NO_ERRNO)))
    };
    // In this order, because the schema's results tell these three failures apart.
    let directory = system.path(MEMORY);
    std::fs::read_dir(&directory).map_err(fail_with(BlockResponseType::OperationNotSupported))?;
    std::fs::read_dir(directory.join(format!("memory{phys_index}")))
        .map_err(fail_with(BlockResponseType::NotFound))?;
    let file = match block_file(system, phys_index, "state", true) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if online {
                Ok(())
            } else {
                Err(fail_with(BlockResponseType::OperationNotSupported)(error))
            };
        }
        Err(error) => return Err(fail_with(BlockResponseType::OperationFailed)(error)),
    };
    let failed = fail_with(BlockResponseType::OperationFailed);
    if is_online(&file).map_err(failed)? != online {
        let word: &[u8] = if online { b"online" } else { b"offline" };
        file.write_all_at(word, 0).map_err(failed)?;
    }
    Ok(())
}

fn block_file(
    system: &System,
    phys_index: u64,
    name: &str,
    write: bool,
) -> io::Result<std::fs::File> {
    let path = format!("{MEMORY}/memory{phys_index}/{name}");
    OpenOptions::new()
        .read(true)
        .write(write)
        .open(system.path(path))
}

/// States are `online`, `offline` and `going-offline`: six bytes tell them apart.
fn is_online(state: &std::fs::File) -> io::Result<bool> {
    Ok(read_start::<6>(state)? == *b"online")
}

/// Padded with NULs; an empty file is an error.
fn read_start<const N: usize>(file: &std::fs::File) -> io::Result<[u8; N]> {
    let mut start = [0; N];
    if file.read_at(&mut start, 0)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(start)
}

#[derive(Debug, Serialize)]
struct MemoryBlockInfo {
    size: u64,
}

fn get_memory_block_info(system: &System) -> Result<MemoryBlockInfo, CommandError> {
    const NAME: &str = "block_size_bytes";
    std::fs::read_dir(system.path(MEMORY)).map_err(|error| {
        let reason = strerror(&error);
        CommandError::generic(format!("open(\"{MEMORY}/\"): {reason}"))
    })?;
    let file = OpenOptions::new()
        .read(true)
        .open(system.path(MEMORY).join(NAME))
        .map_err(|error| sysfs_failure("open", NAME, &error))?;
    let text = read_start::<32>(&file).map_err(|error| sysfs_failure("pread", NAME, &error))?;
    let text = String::from_utf8_lossy(&text);
    let digits = text.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace());
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let size = u64::from_str_radix(digits, 16).map_err(|_| {
        CommandError::generic(format!("sysfs file \"{NAME}\": not a number: '{digits}'"))
    })?;
    Ok(MemoryBlockInfo { size })
}

fn sysfs_failure(call: &str, name: &str, error: &io::Error) -> CommandError {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => strerror(error),
    };
    CommandError::generic(format!("{call} sysfs file \"{name}\": {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reply_line;
    use std::fs;

    /// Block 0 is always there, 1 can go, 2 is gone, 3 has no state.
    fn system() -> (tempfile::TempDir, System) {
        let root = tempfile::tempdir().unwrap();
        let memory = root.path().join("sys/devices/system/memory");
        for (index, state, removable) in [
            (0, Some("online\n"), Some("0\n")),
            (1, Some("online\n"), Some("1\n")),
            (2, Some("offline\n"), None),
            (3, None, None),
        ] {
            let block = memory.join(format!("memory{index}"));
            fs::create_dir_all(&block).unwrap();
            for (name, text) in [("state", state), ("removable", removable)] {
                if let Some(text) = text {
                    fs::write(block.join(name), text).unwrap();
                }
            }
        }
        fs::create_dir_all(memory.join("power")).unwrap();
        fs::write(memory.join("block_size_bytes"), "8000000\n").unwrap();
        let system = System::at(root.path()).unwrap();
        (root, system)
    }

    fn set(system: &System, wanted: &[(u64, bool)]) -> Vec<BlockFailure> {
        let one = |&(phys_index, online): &(u64, bool)| WantedBlock {
            phys_index,
            online,
            can_offline: None,
        };
        let wanted: Vec<_> = wanted.iter().map(one).collect();
        let responses = set_memory_blocks(system, &wanted);
        assert!(
            responses
                .iter()
                .zip(&wanted)
                .all(|(t, w)| t.phys_index == w.phys_index)
        );
        responses
            .iter()
            .map(|block| (block.response, block.error_code))
            .collect()
    }

    fn state(system: &System, index: u64) -> String {
        fs::read_to_string(system.path(format!("{MEMORY}/memory{index}/state"))).unwrap()
    }

    #[test]
    fn blocks_and_their_states() {
        let (root, system) = system();
        let mut blocks = get_memory_blocks(&system).unwrap();
        blocks.sort_unstable_by_key(|block| block.phys_index);
        assert_eq!(
            reply_line(blocks),
            "{\"return\": [{\"online\": true, \"can-offline\": false, \"phys-index\": 0}, \
             {\"online\": true, \"can-offline\": true, \"phys-index\": 1}, \
             {\"online\": false, \"can-offline\": false, \"phys-index\": 2}, \
             {\"online\": true, \"can-offline\": false, \"phys-index\": 3}]}\n"
        );
        assert_eq!(
            reply_line(get_memory_block_info(&system).unwrap()),
            "{\"return\": {\"size\": 134217728}}\n"
        );
        let memory = root.path().join("sys/devices/system/memory");
        fs::remove_dir_all(&memory).unwrap();
        assert_eq!(
            reply_line(get_memory_blocks(&system).unwrap()),
            "{\"return\": []}\n"
        );
        fs::create_dir(&memory).unwrap();
        assert_eq!(
            get_memory_blocks(&system).unwrap_err().desc,
            "guest reported zero memory blocks!"
        );
    }

    #[test]
    fn every_block_has_its_own_response() {
        let (root, system) = system();
        assert_eq!(set(&system, &[]), []);
        let wanted = [
            (0, true),
            (1, false),
            (2, true),
            (3, true),
            (3, false),
            (999, true),
        ];
        assert_eq!(
            set(&system, &wanted),
            [
                (BlockResponseType::Success, None),
                (BlockResponseType::Success, None),
                (BlockResponseType::Success, None),
                (BlockResponseType::Success, None),
                (BlockResponseType::OperationNotSupported, Some(2)),
                (BlockResponseType::NotFound, Some(2)),
            ]
        );
        assert_eq!(state(&system, 0), "online\n");
        assert_eq!(state(&system, 1), "offline");
        // Six of the eight bytes that were there; sysfs takes the word as a whole.
        assert_eq!(state(&system, 2), "onlinee\n");
        fs::write(system.path(format!("{MEMORY}/memory1/state")), "").unwrap();
        assert_eq!(
            set(&system, &[(1, true)])[0].0,
            BlockResponseType::OperationFailed
        );
        fs::remove_dir_all(root.path().join("sys")).unwrap();
        assert_eq!(
            set(&system, &[(0, true)]),
            [(BlockResponseType::OperationNotSupported, Some(2))]
        );
        let responses = reply_line(set_memory_blocks(
            &system,
            &[WantedBlock {
                phys_index: u64::MAX,
                online: true,
                can_offline: Some(true),
            }],
        ));
        assert_eq!(
            responses,
            "{\"return\": [{\"response\": \"operation-not-supported\", \"error-code\": 2, \
             \"phys-index\": 18446744073709551615}]}\n"
        );
    }

    #[test]
    fn a_block_size_that_is_not_there_or_none() {
        let (root, system) = system();
        let failure = || get_memory_block_info(&system).unwrap_err().desc;
        let file = root
            .path()
            .join("sys/devices/system/memory/block_size_bytes");
        fs::write(&file, "").unwrap();
        assert_eq!(
            failure(),
            "pread sysfs file \"block_size_bytes\": unexpected EOF"
        );
        fs::write(&file, "many\n").unwrap();
        assert_eq!(
            failure(),
            "sysfs file \"block_size_bytes\": not a number: 'many'"
        );
        fs::remove_file(&file).unwrap();
        assert_eq!(
            failure(),
            "open sysfs file \"block_size_bytes\": No such file or directory"
        );
        fs::remove_dir_all(root.path().join("sys")).unwrap();
        assert_eq!(
            failure(),
            "open(\"/sys/devices/system/memory/\"): No such file or directory"
        );
    }
}
