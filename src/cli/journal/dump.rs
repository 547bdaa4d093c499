//! `sitepulse journal dump`: records as lines, for jq or for the eye.

use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::text::{base64, matches, printable, printable_json};
use super::{DumpArgs, Format};
use crate::journal::{Scope, Sight, Storage, inspect};
use crate::model::{Frame, FrameKind, Timestamp};

#[derive(Serialize)]
struct Line<'a> {
    position: u64,
    arrival: Timestamp,
    source: &'a str,
    kind: &'static str,
    topic: &'a str,
    payload_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// Prints the records that are asked for.
pub(super) fn dump(storage: &dyn Storage, scope: Scope, args: &DumpArgs, out: &mut dyn Write) -> io::Result<()> {
    let scope = Scope { positions: args.from..args.to, ..scope };
    let mut failure = None;
    inspect(storage, &scope, &mut |sight| {
        let printed = match sight {
            Sight::Record(position, frame) if is_wanted(&frame, args) => record(position.0, &frame, args, out),
            Sight::Lost { from, records } => lost(from.0, records, args, out),
            Sight::Record(..) | Sight::Segment(_) | Sight::Twin(_) | Sight::Gone(_) => Ok(()),
        };
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(cause) => {
                failure = Some(cause);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(()), Err)
}

fn is_wanted(frame: &Frame, args: &DumpArgs) -> bool {
    args.source.as_deref().is_none_or(|source| source == &*frame.source)
        && args.topic.as_deref().is_none_or(|filter| matches(filter, &frame.topic))
}

fn record(position: u64, frame: &Frame, args: &DumpArgs, out: &mut dyn Write) -> io::Result<()> {
    let text = std::str::from_utf8(&frame.payload).ok();
    let binary = if text.is_none() { Some(base64(&frame.payload)) } else { None };
    let (arrival, kind, payload_bytes) = (frame.arrival, label(frame.kind), frame.payload.len());
    match args.format {
        Format::Json => {
            let (payload, payload_base64) = if args.payload { (text, binary) } else { (None, None) };
            let (source, topic) = (&*frame.source, &*frame.topic);
            let line = Line { position, arrival, source, kind, topic, payload_bytes, payload, payload_base64 };
            let json = serde_json::to_string(&line).map_err(io::Error::other)?;
            writeln!(out, "{}", printable_json(&json))
        }
        Format::Text => {
            let (source, topic) = (printable(&frame.source), printable(&frame.topic));
            let arrival = arrival.to_string();
            write!(out, "{position:>12}  {arrival:<24}  {source:<12}  {kind:<11}  {topic}  {payload_bytes}")?;
            match (args.payload, text) {
                (false, _) => writeln!(out),
                (true, Some(text)) => writeln!(out, "  {}", printable(text)),
                (true, None) => writeln!(out, "  base64 {}", binary.unwrap_or_default()),
            }
        }
    }
}

fn lost(position: u64, records: u64, args: &DumpArgs, out: &mut dyn Write) -> io::Result<()> {
    match args.format {
        Format::Json => writeln!(out, "{{\"position\":{position},\"lost\":{records}}}"),
        Format::Text => writeln!(out, "{position:>12}  {records} records lost"),
    }
}

fn label(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::NativeJson => "native_json",
        FrameKind::ModbusPoll => "modbus_poll",
        FrameKind::Oversize => "oversize",
    }
}
