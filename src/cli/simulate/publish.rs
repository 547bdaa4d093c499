//! `sitepulse simulate`: sends the load and says what that came to.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{BrokerArgs, micros_each, per_second, ratio, span, watch};
use crate::cli::run::runtime;
use crate::document::duration_text;
use crate::model::Timestamp;
use crate::simulate::load::{EventTime, Fleet, Load, LoadOptions, Qos, READINGS_PER_MESSAGE, Sent, Share};

/// What to send.
#[derive(Clone, Debug, Args)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Sites: two of five are base stations, one is a port, the others racks; each message is one site's 13 readings
    #[arg(long, value_name = "N", default_value_t = 75_000, value_parser = sites)]
    sites: usize,
    /// Messages a second; without it as fast as the broker takes them
    #[arg(long, value_name = "MSG/S", value_parser = rate)]
    rate: Option<f64>,
    /// Quality of service
    #[arg(long, value_name = "0|1", default_value = "1", value_parser = qos)]
    qos: Qos,
    /// Connections to the broker, among which the sites are dealt
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Messages of a connection that may wait for their acknowledgement
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=60_000))]
    window: u16,
    /// Share of messages whose time lies --late-by back, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    late: Share,
    /// How late those are
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = span)]
    late_by: Duration,
    /// Share of messages that are sent twice, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    repeat: Share,
    /// End after this long; without it and --messages at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    duration: Option<Duration>,
    /// End after so many messages, repeats included
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Order, values and chances are those of this seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Times of messages: `real`, when they are sent, or from a given time on in step with the messages
    #[arg(long, value_name = "real|TIME", default_value = "real", value_parser = clock)]
    clock: Clock,
    /// With --clock TIME: from a site's message to its next one
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = span)]
    interval: Duration,
    /// End with one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Real,
    From(u64),
}

pub(super) fn sites(text: &str) -> Result<usize, String> {
    let refusal = || "give a number of sites, 3 (one of each kind) to 999999".to_owned();
    text.parse().ok().filter(|sites| (3..=999_999).contains(sites)).ok_or_else(refusal)
}

fn rate(text: &str) -> Result<f64, String> {
    let refusal = || "give messages a second, such as 7500".to_owned();
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or_else(refusal)
}

pub(super) fn qos(text: &str) -> Result<Qos, String> {
    match text {
        "0" => Ok(Qos::AtMostOnce),
        "1" => Ok(Qos::AtLeastOnce),
        _ => Err("give 0 or 1".to_owned()),
    }
}

fn share(text: &str) -> Result<Share, String> {
    Share::new(text.parse().map_err(|_| "give a share from 0 to 1, such as 0.01".to_owned())?)
}

fn clock(text: &str) -> Result<Clock, String> {
    if text == "real" {
        return Ok(Clock::Real);
    }
    let refusal = |_| "give `real`, or a time such as 2026-03-01T08:00:00+08:00".to_owned();
    let at = Timestamp::parse(text).map_err(refusal)?;
    u64::try_from(at.as_millis()).map(Clock::From).map_err(|_| "give a time after 1970".to_owned())
}

/// Sends until it is over.
pub(super) fn run(args: &PublishArgs) -> anyhow::Result<()> {
    let interval_ms = u64::try_from(args.interval.as_millis()).unwrap_or(u64::MAX);
    let options = LoadOptions {
        broker: args.broker.broker,
        fleet: Fleet { sites: args.sites },
        rate: args.rate,
        qos: args.qos,
        connections: args.connections.into(),
        window: args.window.into(),
        late: args.late,
        late_by: args.late_by,
        repeat: args.repeat,
        time: match args.clock {
            Clock::Real => EventTime::Real,
            Clock::From(start_ms) => EventTime::From { start_ms, interval_ms },
        },
        duration: args.duration,
        messages_max: args.messages,
        seed: args.seed,
    };
    let load = Load::start(options)?;
    runtime()?.block_on(watch(None, || load.is_finished(), || progress(args, &load.sent())))?;
    let sent = load.finish();
    let text = if args.json { as_json(&sent) } else { as_text(&sent) };
    writeln!(io::stdout(), "{text}")?;
    if sent.waiting > 0 {
        anyhow::bail!("the broker did not acknowledge {} messages", sent.waiting);
    }
    Ok(())
}

/// A bar where the end is known, and what was sent.
fn progress(args: &PublishArgs, sent: &Sent) -> String {
    const WIDTH: usize = 24;
    let by_time = args.duration.map(|span| sent.elapsed.as_secs_f64() / span.as_secs_f64());
    let by_count = args.messages.map(|most| ratio(sent.published) / ratio(most.max(1)));
    let bar = by_time.into_iter().chain(by_count).reduce(f64::max).map(|done| {
        let filled = (0..WIDTH).filter(|&cell| ratio(cell as u64) < done * ratio(WIDTH as u64)).count();
        format!("[{}{}] {:3.0} %  ", "#".repeat(filled), "-".repeat(WIDTH - filled), done.min(1.0) * 100.0)
    });
    format!(
        "{}{} messages, {:.0}/s, {} waiting, {} behind, {} resent",
        bar.unwrap_or_default(),
        sent.published,
        per_second(sent.published, sent.elapsed),
        sent.waiting,
        sent.behind,
        sent.resent
    )
}

fn as_text(sent: &Sent) -> String {
    format!(
        "{} messages in {}: {:.0}/s, {:.0} readings/s\n\
         {} distinct, of them {} late; {} repeats\n\
         {} acknowledged, {} waiting, {} sent again over {} broken connections, {} behind the rate\n\
         CPU {:.2} us a message ({:.2} user, {:.2} system)",
        sent.published,
        duration_text(sent.elapsed),
        per_second(sent.published, sent.elapsed),
        per_second(sent.published * READINGS_PER_MESSAGE, sent.elapsed),
        sent.distinct,
        sent.late,
        sent.repeated,
        sent.acked,
        sent.waiting,
        sent.resent,
        sent.breaks,
        sent.behind,
        micros_each(sent.cpu.total(), sent.published),
        micros_each(sent.cpu.user, sent.published),
        micros_each(sent.cpu.system, sent.published),
    )
}

fn as_json(sent: &Sent) -> String {
    json!({
        "messages": sent.published,
        "readings": sent.published * READINGS_PER_MESSAGE,
        "distinct": sent.distinct,
        "late": sent.late,
        "repeats": sent.repeated,
        "acked": sent.acked,
        "waiting": sent.waiting,
        "resent": sent.resent,
        "breaks": sent.breaks,
        "behind": sent.behind,
        "elapsed_s": sent.elapsed.as_secs_f64(),
        "messages_per_s": per_second(sent.published, sent.elapsed),
        "cpu_user_s": sent.cpu.user.as_secs_f64(),
        "cpu_system_s": sent.cpu.system.as_secs_f64(),
        "cpu_us_per_message": micros_each(sent.cpu.total(), sent.published),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_numbers_are_refused_with_what_would_be_right() {
        assert!(sites("2").is_err() && sites("1000000").is_err() && sites("75000").is_ok());
        assert!(rate("0").is_err() && rate("inf").is_err() && rate("0.5").is_ok());
        assert!(qos("2").is_err() && share("1.1").is_err() && share("-0").is_ok());
        assert_eq!(clock("2026-03-01T08:00:00+08:00"), Ok(Clock::From(1_772_323_200_000)));
        assert!(clock("yesterday").expect_err("no time").contains("real"));
    }

    #[test]
    fn the_summary_is_one_line_of_json() {
        let sent = Sent { published: 2_000, elapsed: Duration::from_secs(4), ..Sent::default() };
        let text = as_json(&sent);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((value["messages_per_s"].as_f64(), value["readings"].as_u64()), (Some(500.0), Some(26_000)));
        assert!(!text.contains('\n'));
    }
}
