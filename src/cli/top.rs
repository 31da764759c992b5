//! `top`: channels, links, drops and latency of a daemon on the whole terminal, once a second.
//!
//! A thread asks the daemon and leaves what it said in one place; this one draws it and takes keys.
//! [`model`] turns two readings into rates, [`draw`] puts them on a screen of any size; both are pure.
//! The terminal is put back as it was at the end, on a panic, on signals and on errors. A daemon that
//! goes away is waited for.

mod draw;
mod model;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::model::{Key, Model, Reading};
use super::interrupt::{INTERRUPTED, on_interrupt};
use super::screen::{CliError, Daemon, Fail, Style};
use super::{Target, TopArgs, clock};
use crate::api::dto::{Latency, Request};

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a key before the screen is drawn again.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Channels whose latency is asked for in one reading.
const LATENCIES_MAX: usize = 32;

/// The last thing the daemon said, or why it did not.
type Slot = Arc<Mutex<Option<Result<Reading, String>>>>;

pub(super) fn top(args: &TopArgs) -> Result<(), CliError> {
    if !io::stdout().is_terminal() {
        let text = "`top` draws on a terminal, and standard output is none; for programs there are \
                    `spanway channels --json`, `links --json` and `events --json`";
        return Err(CliError::new(Fail::Usage, text));
    }
    let daemon = Daemon::of(&Target { config: args.config.clone(), json: false, wide: false })?;
    let slot = Slot::default();
    let filled = Arc::clone(&slot);
    let broken = |error: io::Error| CliError::failure(format!("the terminal: {error}"));
    thread::Builder::new()
        .name("top".to_owned())
        .spawn(move || keep_reading(&daemon, &filled))
        .map_err(broken)?;
    let mut terminal = ratatui::try_init().map_err(broken)?;
    on_interrupt(|| {
        ratatui::restore();
        std::process::exit(INTERRUPTED);
    });
    let result = watch(&mut terminal, &slot);
    ratatui::restore();
    result.map_err(broken)
}

fn watch(terminal: &mut ratatui::DefaultTerminal, slot: &Slot) -> io::Result<()> {
    let mut model = Model::new(Style::of(&io::stdout()).colour);
    loop {
        if let Some(said) = slot.lock().take() {
            model.update(said);
        }
        terminal.draw(|frame| draw::draw(frame, &mut model))?;
        if !event::poll(DRAW_INTERVAL)? {
            continue;
        }
        // A resize needs no more than the next drawing.
        let Event::Key(key) = event::read()? else { continue };
        match key_of(key) {
            Some(Key::Quit) => return Ok(()),
            Some(key) => model.key(key),
            None => {}
        }
    }
}

fn key_of(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    // A terminal that is drawn on hands Ctrl-C over as a key.
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return (event.code == KeyCode::Char('c')).then_some(Key::Quit);
    }
    KEYS.iter().find(|(code, _)| *code == event.code).map(|(_, key)| *key)
}

const KEYS: [(KeyCode, Key); 8] = [
    (KeyCode::Char('q'), Key::Quit),
    (KeyCode::Esc, Key::Quit),
    (KeyCode::Char('s'), Key::Sort),
    (KeyCode::Char('r'), Key::Reverse),
    (KeyCode::Char('j'), Key::Down),
    (KeyCode::Down, Key::Down),
    (KeyCode::Char('k'), Key::Up),
    (KeyCode::Up, Key::Up),
];

/// For as long as the process lives.
#[expect(clippy::infinite_loop, reason = "its thread ends with the process")]
fn keep_reading(daemon: &Daemon, slot: &Slot) {
    let start = clock::now();
    loop {
        let began = clock::now();
        let said = read(daemon, start).map_err(|error| error.text);
        *slot.lock() = Some(said);
        clock::sleep(INTERVAL.saturating_sub(clock::now() - began));
    }
}

fn read(daemon: &Daemon, start: Instant) -> Result<Reading, CliError> {
    let channels: Vec<crate::api::dto::ChannelRow> = daemon.ask(&Request::Channels)?;
    let mut latencies = BTreeMap::new();
    for row in channels.iter().filter(|row| row.role != "relay").take(LATENCIES_MAX) {
        let request = Request::Latency { channel: row.id.clone(), watch: None };
        // It may have been closed since.
        if let Ok(Latency { one_way_us, .. }) = daemon.ask(&request) {
            latencies.insert(row.id.clone(), (one_way_us.p50, one_way_us.p99));
        }
    }
    Ok(Reading {
        at: clock::now() - start,
        status: daemon.ask(&Request::Status)?,
        links: daemon.ask(&Request::Links)?,
        times: daemon.ask(&Request::RelayTimes)?,
        channels,
        latencies,
    })
}
