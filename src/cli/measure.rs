//! `spanway measure PEER`: what a link carries, and the line for the configuration.

use std::io::{self, Write};

use super::open;
use super::screen::{CliError, Daemon, Style, show};
use super::table::{Table, wrap};
use super::values::millis;
use super::{MeasureArgs, answer_time};
use crate::api::dto::{MeasureReply, MeasureTrain, MeasureWay, Request};

pub(super) fn measure(args: &MeasureArgs) -> Result<(), CliError> {
    let daemon = Daemon::of(&args.target)?;
    let request = Request::Measure {
        peer: args.peer.clone(),
        max_bps: args.max,
        duration_ms: open::millis(args.duration),
    };
    let reply: MeasureReply = daemon.ask_for(answer_time(args.duration), &request)?;
    show(&args.target, &reply, text)
}

fn text(reply: &MeasureReply, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let MeasureReply { peer, took_ms, .. } = reply;
    writeln!(out, "link to {peer}, measured in {}.{} s", took_ms / 1_000, took_ms % 1_000 / 100)?;
    writeln!(out, "there       {}", way_text(&reply.out))?;
    writeln!(out, "back        {}", way_text(&reply.back))?;
    if let Some(rtt) = reply.rtt_p50_us {
        writeln!(out, "round trip  {} ms at the median, probes included", millis(rtt))?;
    }
    let (there, back) = (reply.reserved_out_bps, reply.reserved_back_bps);
    writeln!(out, "reserved    {there} there, {back} back, by channels meanwhile")?;
    let mut table = Table::new()
        .column("WAY")
        .number("SENT AT")
        .number("PROBES")
        .number("LOST")
        .number("CAME AT");
    for (name, way) in [("there", &reply.out), ("back", &reply.back)] {
        for train in &way.trains {
            let came = train.arrived_bps.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
            table.row(vec![
                name.to_owned(),
                train.rate_bps.to_string(),
                train.sent.to_string(),
                lost(train),
                came,
            ]);
        }
    }
    table.write(out, style)?;
    match reply.suggested_bps {
        Some(rate) => writeln!(out, "{}", style.bold(&format!("capacity = \"{rate}\"")))?,
        None => writeln!(out, "no rate was carried, so there is none to suggest")?,
    }
    for warning in &reply.warnings {
        let words: Vec<String> = warning.split(' ').map(str::to_owned).collect();
        writeln!(out, "{} {}", style.red("warning:"), wrap(&words, " ", 9))?;
    }
    Ok(())
}

fn way_text(way: &MeasureWay) -> String {
    let why = match way.limit.as_str() {
        "link" => "the link carries no more",
        "max" => "no more was tried",
        "sender" => "the sending peer cannot send faster",
        _ => "time was up",
    };
    match way.best_bps {
        Some(rate) => format!("{rate}: {why}"),
        None => format!("no rate was carried: {why}"),
    }
}

/// Per cent with one decimal.
fn lost(train: &MeasureTrain) -> String {
    let lost = u64::from(train.sent.saturating_sub(train.arrived));
    let per_mille = (lost * 1_000).checked_div(train.sent.into()).unwrap_or(0);
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Bandwidth;

    #[test]
    fn loss_is_shown_in_per_cent() {
        let train = |sent, arrived| {
            let rate_bps = Bandwidth::from_bps(1);
            lost(&MeasureTrain { rate_bps, sent, arrived, arrived_bps: None, long: false })
        };
        assert_eq!(train(1_000, 995), "0.5 %");
        assert_eq!(train(200, 0), "100.0 %");
        assert_eq!(train(0, 0), "0.0 %");
    }

    #[test]
    fn a_way_says_its_rate_and_what_limits_it() {
        let way = |best_bps, limit: &str| {
            way_text(&MeasureWay { best_bps, limit: limit.to_owned(), trains: Vec::new() })
        };
        let rate = Some(Bandwidth::from_bps(48_000_000));
        assert_eq!(way(rate, "link"), "48 Mbit/s: the link carries no more");
        assert!(way(None, "time").contains("no rate was carried"));
    }
}
