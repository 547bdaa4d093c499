//! `sitepulse simulate consume`: a subscriber that only counts.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::publish::qos;
use super::{BrokerArgs, micros_each, per_second, span, watch};
use crate::cli::run::runtime;
use crate::simulate::load::{Consumed, Consumer, ConsumerOptions, Qos};

/// What to consume.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
        sitepulse simulate consume --for 30s\n  \
        sitepulse simulate consume --messages 1000000 --qos 0 --json\n\n\
        Says `subscribed` on standard error when it is ready.")]
pub(super) struct ConsumeArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Topic filter
    #[arg(long, value_name = "FILTER", default_value = "telemetry/+/+/+/+")]
    topic: String,
    /// Quality of service
    #[arg(long, value_name = "0|1", default_value = "1", value_parser = qos)]
    qos: Qos,
    /// End after this long; without it and --messages at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    duration: Option<Duration>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// End when no message has come for this long, once there was one
    #[arg(long, value_name = "DURATION", value_parser = span)]
    idle: Option<Duration>,
    /// End with one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Counts until it is over.
pub(super) fn run(args: &ConsumeArgs) -> anyhow::Result<()> {
    let options = ConsumerOptions {
        broker: args.broker.broker,
        filter: args.topic.clone(),
        qos: args.qos,
        messages_max: args.messages,
        idle_max: args.idle,
    };
    let consumer = Consumer::start(&options)?;
    writeln!(io::stderr(), "subscribed")?;
    runtime()?.block_on(watch(args.duration, || consumer.is_finished(), || progress(&consumer.consumed())))?;
    let result = consumer.finish()?;
    let text = if args.json { as_json(&result) } else { as_text(&result) };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn progress(consumed: &Consumed) -> String {
    format!("{} messages, {:.0}/s", consumed.messages, per_second(consumed.messages, consumed.elapsed))
}

fn as_text(consumed: &Consumed) -> String {
    format!(
        "{} messages: {:.0}/s from the first to the last, {} bytes, {} acknowledged\n\
         {} reads, {} naps; CPU {:.2} us a message ({:.2} user, {:.2} system)",
        consumed.messages,
        per_second(consumed.messages, consumed.elapsed),
        consumed.bytes,
        consumed.acks,
        consumed.reads,
        consumed.naps,
        micros_each(consumed.cpu.total(), consumed.messages),
        micros_each(consumed.cpu.user, consumed.messages),
        micros_each(consumed.cpu.system, consumed.messages),
    )
}

fn as_json(consumed: &Consumed) -> String {
    json!({
        "messages": consumed.messages,
        "bytes": consumed.bytes,
        "acks": consumed.acks,
        "reads": consumed.reads,
        "naps": consumed.naps,
        "elapsed_s": consumed.elapsed.as_secs_f64(),
        "messages_per_s": per_second(consumed.messages, consumed.elapsed),
        "cpu_user_s": consumed.cpu.user.as_secs_f64(),
        "cpu_system_s": consumed.cpu.system.as_secs_f64(),
        "cpu_us_per_message": micros_each(consumed.cpu.total(), consumed.messages),
    })
    .to_string()
}
