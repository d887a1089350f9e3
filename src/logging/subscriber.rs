//! The receiver of `tracing`'s events: renders them and passes them to the [`LogWriter`].
//!
//! Whether a call site logs depends on its level and target alone and is fixed at the start, so `tracing` caches it: a
//! debug event costs one load if the agent is not verbose. There are no spans, so their callbacks are empty.

use std::error::Error;
use std::fmt::{self, Write};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::line::Level;
use super::writer::LogWriter;

pub(super) struct LogSubscriber {
    writer: Arc<LogWriter>,
    limit: LevelFilter,
}

impl LogSubscriber {
    /// Passes everything if `verbose`, else warnings, errors and audit lines.
    pub fn new(writer: Arc<LogWriter>, verbose: bool) -> Self {
        let limit = if verbose {
            LevelFilter::TRACE
        } else {
            LevelFilter::WARN
        };
        LogSubscriber { writer, limit }
    }
}

fn level(level: &tracing::Level) -> Level {
    match *level {
        tracing::Level::ERROR => Level::Critical,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

impl Subscriber for LogSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && (*metadata.level() <= self.limit || metadata.target() == crate::AUDIT)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Audit lines have the level info.
        Some(self.limit.max(LevelFilter::INFO))
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        text.message += &text.fields;
        if event.metadata().target() == crate::AUDIT {
            return self.writer.audit(&text.message, &text.journal);
        }
        self.writer.log(
            level(event.metadata().level()),
            text.message.trim_start(),
            &text.journal,
        );
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, then ` key=value` for each other field. Fields in capitals are not part of the line, but fields of the
/// journal: `KEY=value` and a line end each, once for each line of the value.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
    journal: String,
}

fn is_for_journal(field: &Field) -> bool {
    field.name().starts_with(|c: char| c.is_ascii_uppercase())
}

impl Text {
    fn append(&mut self, field: &Field, value: &dyn fmt::Display) {
        // Writing to memory does not fail; a value whose Display fails stays incomplete.
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name if is_for_journal(field) => {
                let lines = value.to_string();
                let mut lines = lines.lines();
                lines.try_for_each(|line| writeln!(self.journal, "{name}={line}"))
            }
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.append(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let plain = field.name() == "message"
            || is_for_journal(field)
            || !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"');
        if plain {
            self.append(field, &value);
        } else {
            self.append(field, &format_args!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.append(field, &value);
    }
}
