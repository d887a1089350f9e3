//! A host's side of the conversation.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest that any answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to the agent.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects as soon as the agent listens.
    pub fn connect(path: &Path) -> anyhow::Result<Self> {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if start.elapsed() < RESPONSE_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("the agent does not listen at {}", path.display())
                    });
                }
            }
        };
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a command and returns what it returned.
    pub fn call(&mut self, command: &str) -> anyhow::Result<Value> {
        let reply = self.exchange(command)?;
        match reply.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("{command} answered {reply}"),
        }
    }

    /// Sends a command that must be refused and returns the error's text.
    pub fn refused(&mut self, command: &str) -> anyhow::Result<String> {
        let reply = self.exchange(command)?;
        match reply.pointer("/error/desc").and_then(Value::as_str) {
            Some(text) => Ok(text.to_owned()),
            None => bail!("{command} was not refused but answered {reply}"),
        }
    }

    fn exchange(&mut self, command: &str) -> anyhow::Result<Value> {
        let request = json!({ "execute": command });
        writeln!(self.stream.get_mut(), "{request}")?;
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).with_context(|| {
            format!(
                "no answer to {command} within {} s",
                RESPONSE_TIMEOUT.as_secs()
            )
        })?;
        if count == 0 {
            bail!("the agent closed the connection instead of answering {command}");
        }
        serde_json::from_slice(line.as_bytes())
            .with_context(|| format!("{command} was answered by {line:?}"))
    }
}
