//! The host's side of the channel. Every reply has a timeout, so that a selftest always ends.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(super) fn connect(path: &Path) -> anyhow::Result<Self> {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if start.elapsed() < RESPONSE_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot connect to the agent at {}", path.display())
                    });
                }
            }
        };
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub(super) fn call(&mut self, command: &str) -> anyhow::Result<Value> {
        let reply = self.exchange(command)?;
        match reply.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("{command} returned {reply}"),
        }
    }

    pub(super) fn refused(&mut self, command: &str) -> anyhow::Result<String> {
        let reply = self.exchange(command)?;
        match reply.pointer("/error/desc").and_then(Value::as_str) {
            Some(text) => Ok(text.to_owned()),
            None => bail!("{command} did not fail but returned {reply}"),
        }
    }

    fn exchange(&mut self, command: &str) -> anyhow::Result<Value> {
        let request = json!({ "execute": command });
        writeln!(self.stream.get_mut(), "{request}")?;
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).with_context(|| {
            format!(
                "no reply to {command} within {} s",
                RESPONSE_TIMEOUT.as_secs()
            )
        })?;
        if count == 0 {
            bail!("the agent closed the connection without a reply to {command}");
        }
        serde_json::from_slice(line.as_bytes())
            .with_context(|| format!("the reply to {command} is not JSON: {line:?}"))
    }
}
