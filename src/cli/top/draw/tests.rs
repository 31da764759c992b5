//! The screen of `top` at three sizes, with names as long as they may be and large numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::api::dto::{ChannelRow, Distribution, RelayTimes};
use crate::cli::fixtures;
use crate::cli::top::model::{Key, Reading, Sort};
use crate::types::Bandwidth;

fn channel(name: &str, tx_frames: u64, policed: u64) -> ChannelRow {
    let dropped = BTreeMap::from([("policed".to_owned(), policed)]);
    let peer = "p".repeat(63).parse().expect("a name");
    ChannelRow { tx_frames, dropped, peer, ..fixtures::channel(name) }
}

fn link(number: usize) -> LinkRow {
    LinkRow {
        peer: format!("{}{number:02}", "n".repeat(61)).parse().expect("a name"),
        capacity_bps: Bandwidth::from_bps(95_000_000),
        free_out_bps: Bandwidth::from_bps(20_000_000),
        free_in_bps: Bandwidth::from_bps(95_000_000),
        rtt_us: Some(1_234),
        ..fixtures::link(if number == 0 { "down" } else { "up" })
    }
}

fn reading(second: u64, channels: Vec<ChannelRow>) -> Reading {
    let inside_ns = Distribution { p99: Some(45_600), ..Distribution::default() };
    let lane = |lane: &str| LaneTimes { lane: lane.to_owned(), inside_ns: inside_ns.clone() };
    Reading {
        at: Duration::from_secs(second),
        status: fixtures::status(),
        latencies: BTreeMap::from([("b-film".to_owned(), (Some(900), Some(12_340)))]),
        links: (0..3).map(link).collect(),
        times: RelayTimes {
            peer: "a".parse().expect("a name"),
            lanes: vec![lane("data"), lane("control")],
            hops: Vec::new(),
            workers: Vec::new(),
        },
        channels,
    }
}

/// Two readings two seconds apart: 1,000 and 3,000,000 frames a second, and drops in one.
fn model() -> Model {
    let mut model = Model::new(true);
    let first = vec![channel("a-camera", 5_000, 0), channel("b-film", 10, 4)];
    model.update(Ok(reading(1, first)));
    let second = vec![channel("a-camera", 7_000, 0), channel("b-film", 6_000_010, 24)];
    model.update(Ok(reading(3, second)));
    model
}

fn screen(model: &mut Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, model)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
}

#[test]
fn every_size_of_terminal_shows_channels_links_and_keys() {
    for (width, height) in [(80, 24), (40, 10), (200, 60)] {
        let lines = screen(&mut model(), width, height);
        let text = lines.join("\n");
        assert_eq!(lines.len(), usize::from(height));
        assert!(lines[0].starts_with("a  up 0:00:01  links 1/1"), "{text}");
        for word in
            ["CHANNEL", "a-camera", "b-film", "1000", "3000k", "LINK", "FREE OUT", "20 Mbit/s"]
        {
            assert!(text.contains(word), "{width}x{height}, {word}:\n{text}");
        }
        assert!(lines[usize::from(height) - 1].starts_with("q quit  s sort: name"), "{text}");
        let whole = height >= LOW;
        assert_eq!(text.contains("DROPPED") && text.contains("policed"), whole, "{text}");
        assert_eq!(text.contains("LANE") && text.contains("45.6"), whole, "{text}");
    }
    let wide = screen(&mut model(), 200, 60).join("\n");
    for word in ["123.456 Gbit/s", "75 Mbit/s", "12.34", "0.90", "127.0.0.1:7016", "RTT ms"] {
        assert!(wide.contains(word), "{word}:\n{wide}");
    }
}

#[test]
fn a_terminal_of_any_size_is_drawn_on_without_a_panic() {
    for width in [1, 2, 9, 39, 79, 81, 300] {
        for height in [1, 2, 3, 5, 15, 16, 90] {
            assert_eq!(screen(&mut model(), width, height).len(), usize::from(height));
            assert_eq!(screen(&mut Model::new(false), width, height).len(), usize::from(height));
        }
    }
}

#[test]
fn keys_sort_turn_and_scroll_the_channels() {
    let mut model = model();
    let first = |model: &Model| model.channels()[0].name.clone();
    assert_eq!(first(&model), "a-camera");
    model.key(Key::Sort);
    assert_eq!((model.sort, first(&model)), (Sort::Out, "b-film".to_owned()));
    model.key(Key::Reverse);
    assert_eq!(first(&model), "a-camera");
    assert!(screen(&mut model, 80, 24)[23].contains("s sort: out, reversed"));
    for _ in 0..99 {
        model.key(Key::Down);
    }
    let lines = screen(&mut model, 40, 8);
    assert!(model.scroll <= 1, "no further than the last: {}", model.scroll);
    assert!(lines.join("\n").contains("above") || model.scroll == 0, "{lines:?}");
    model.key(Key::Up);
    assert_eq!(model.scroll, 0);
    for sort in [Sort::In, Sort::Drops, Sort::P99, Sort::Name] {
        model.key(Key::Sort);
        assert_eq!(model.sort, sort);
    }
}

#[test]
fn a_daemon_that_is_gone_is_waited_for_and_one_that_is_new_has_no_rates_yet() {
    let mut model = model();
    model.update(Err("no daemon is running".to_owned()));
    let lines = screen(&mut model, 80, 24);
    assert!(lines[0].contains("waiting for the daemon: no daemon"), "{}", lines[0]);
    assert!(lines.join("\n").contains("b-film"), "what was last seen stays");
    let mut new = reading(9, vec![channel("b-film", 77, 1)]);
    new.status.pid += 1;
    model.update(Ok(new));
    assert_eq!((model.channels()[0].out, model.drops()[0].rate), (0, 0));
    assert!(!screen(&mut model, 80, 24)[0].contains("waiting"));
}
