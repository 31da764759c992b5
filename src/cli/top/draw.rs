//! The screen of `top`, at any size: what has no room is left out, least important first. Pure.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::model::{ChannelLine, Model};
use crate::api::dto::{LaneTimes, LinkRow};
use crate::cli::table::cut;

/// Screens lower than this show channels and links only.
const LOW: u16 = 16;
/// Screens narrower than this show drops above lanes, not beside them.
const NARROW: u16 = 80;

/// A column: the first of a table takes what the others leave.
struct Column<T> {
    title: &'static str,
    width: usize,
    /// Shown from this width of the screen on.
    from: u16,
    right: bool,
    cell: fn(&T) -> String,
}

const fn words<T>(
    title: &'static str,
    width: usize,
    from: u16,
    cell: fn(&T) -> String,
) -> Column<T> {
    Column { title, width, from, right: false, cell }
}

const fn number<T>(
    title: &'static str,
    width: usize,
    from: u16,
    cell: fn(&T) -> String,
) -> Column<T> {
    Column { title, width, from, right: true, cell }
}

const CHANNELS: &[Column<ChannelLine>] = &[
    words("CHANNEL", 0, 0, |line| line.name.clone()),
    words("TO", 30, 110, |line| line.to.clone()),
    words("ROLE", 7, 90, |line| line.role.clone()),
    words("STATE", 7, 64, |line| line.state.clone()),
    number("RATE", 14, 76, |line| line.bandwidth.to_string()),
    number("OUT/s", 8, 0, |line| count(line.out)),
    number("IN/s", 8, 0, |line| count(line.inward)),
    number("DROP/s", 8, 0, |line| count(line.drops)),
    number("P50 ms", 8, 100, |line| millis(line.p50_us)),
    number("P99 ms", 8, 76, |line| millis(line.p99_us)),
];

const LINKS: &[Column<LinkRow>] = &[
    words("LINK", 0, 0, |row| row.peer.to_string()),
    words("STATE", 8, 0, |row| row.state.clone()),
    number("CAPACITY", 14, 60, |row| row.capacity_bps.to_string()),
    number("RESERVED", 14, 76, |row| row.capacity_bps.saturating_sub(row.free_out_bps).to_string()),
    number("FREE OUT", 14, 0, |row| row.free_out_bps.to_string()),
    number("FREE IN", 14, 90, |row| row.free_in_bps.to_string()),
    number("RTT ms", 8, 100, |row| millis(row.rtt_us)),
    words("ADDRESS", 24, 130, |row| row.address.map(|a| a.to_string()).unwrap_or_default()),
];

const LANES: &[Column<LaneTimes>] = &[
    words("LANE", 0, 0, |lane| lane.lane.clone()),
    number("P50 us", 9, 0, |lane| micros(lane.inside_ns.p50)),
    number("P99 us", 9, 0, |lane| micros(lane.inside_ns.p99)),
    number("MAX us", 9, 60, |lane| micros(lane.inside_ns.max)),
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let area = frame.area();
    let (channels, links) = (model.channels(), model.links().to_vec());
    let drops = model.drops();
    let stacked = area.width < NARROW;
    let lanes = model.lanes().len();
    let below = match (area.height < LOW, stacked) {
        (true, _) => 0,
        (false, true) => drops.len().clamp(1, 3) + lanes + 3,
        (false, false) => drops.len().clamp(1, 6).max(lanes) + 2,
    };
    let body = usize::from(area.height).saturating_sub(2 + below);
    // A title and a row at least; never more than a third before channels have what they need.
    let wanted = links.len() + 1;
    let spare = body.saturating_sub(channels.len().max(1) + 1);
    let for_links = wanted.min((body / 3).max(spare)).max(body.min(2));
    let rows = [
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(to_u16(for_links)),
        Constraint::Length(to_u16(below)),
        Constraint::Length(1),
    ];
    let [top, middle, links_area, bottom, last] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(header(model)), top);
    let room = usize::from(middle.height).saturating_sub(1);
    model.scroll = model.scroll.min(channels.len().saturating_sub(room));
    let shown = &channels[model.scroll..];
    let alarm = |line: &ChannelLine| line.drops > 0;
    let mut lines = table(CHANNELS, shown, middle, model.colour, alarm);
    if channels.is_empty() {
        lines.push(Line::raw(" no channels"));
    }
    frame.render_widget(Paragraph::new(lines), middle);
    let down = |row: &LinkRow| row.state != "up";
    let lines = table(LINKS, &links, links_area, model.colour, down);
    frame.render_widget(Paragraph::new(lines), links_area);
    draw_below(frame, model, bottom, stacked);
    let scrolled =
        if model.scroll > 0 { format!("  {} above", model.scroll) } else { String::new() };
    let reversed = if model.reversed { ", reversed" } else { "" };
    let keys = format!(
        "q quit  s sort: {}{reversed}  r reverse  j/k scroll{scrolled}",
        model.sort.as_str()
    );
    let bold = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(filled(&keys, last)).style(bold), last);
}

/// Drops by reason, and the lanes beside or below them.
fn draw_below(frame: &mut Frame<'_>, model: &Model, area: Rect, stacked: bool) {
    if area.height == 0 {
        return;
    }
    let drops = model.drops();
    let halves = [Constraint::Fill(1), Constraint::Fill(1)];
    let [drop_area, lane_area] = if stacked {
        let lanes = to_u16(model.lanes().len() + 1);
        Layout::vertical([Constraint::Fill(1), Constraint::Length(lanes)]).areas(area)
    } else {
        Layout::horizontal(halves).spacing(2).areas(area)
    };
    let mut lines =
        vec![title(&format!("{:<17} {:>5} {:>14}", "DROPPED", "NOW/s", "TOTAL"), drop_area)];
    if drops.is_empty() {
        lines.push(Line::raw(" nothing"));
    }
    for line in &drops {
        let text =
            format!(" {:<17} {:>5} {:>14}", cut(&line.reason, 17), count(line.rate), line.total);
        lines.push(styled(text, line.rate > 0, model.colour));
    }
    frame.render_widget(Paragraph::new(lines), drop_area);
    let lines = table(LANES, model.lanes(), lane_area, model.colour, |_| false);
    frame.render_widget(Paragraph::new(lines), lane_area);
}

fn header(model: &Model) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let known = model.status().map(|status| {
        let seconds = status.uptime_ms / 1_000;
        let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        format!(
            "  up {hours}:{minutes:02}:{seconds:02}  links {}/{}  channels {}  peers {}  {}",
            status.links_up, status.links, status.channels, status.peers, status.backend
        )
    });
    let name =
        model.status().map_or_else(|| "spanway".to_owned(), |status| status.name.to_string());
    if let Some(why) = &model.gone {
        let text = format!(" waiting for the daemon: {why}");
        return Line::from(vec![Span::styled(name, bold), styled_span(text, model.colour)]);
    }
    let asking = known.unwrap_or_else(|| "  asking the daemon".to_owned());
    Line::from(vec![Span::styled(cut(&name, 24), bold), Span::raw(asking)])
}

fn table<T>(
    columns: &[Column<T>],
    rows: &[T],
    area: Rect,
    colour: bool,
    alarm: impl Fn(&T) -> bool,
) -> Vec<Line<'static>> {
    // Least important are those that need the widest screen.
    let shown: Vec<&Column<T>> = columns.iter().filter(|one| one.from <= area.width).collect();
    let fixed: usize = shown.iter().skip(1).map(|column| column.width + 1).sum();
    let first = usize::from(area.width).saturating_sub(fixed + 1);
    let line = |cell: &dyn Fn(&Column<T>) -> String| {
        let mut text = String::from(" ");
        for (index, column) in shown.iter().enumerate() {
            let width = if index == 0 { first } else { column.width };
            let cell = cut(&cell(column), width);
            if index > 0 {
                text.push(' ');
            }
            if column.right {
                text.push_str(&format!("{cell:>width$}"));
            } else {
                text.push_str(&format!("{cell:<width$}"));
            }
        }
        text
    };
    let mut lines = vec![title(line(&|column| column.title.to_owned()).trim_start(), area)];
    let rows = rows.iter().take(usize::from(area.height).saturating_sub(1));
    lines.extend(rows.map(|row| styled(line(&|column| (column.cell)(row)), alarm(row), colour)));
    lines
}

fn title(text: &str, area: Rect) -> Line<'static> {
    Line::styled(filled(&format!(" {text}"), area), Style::new().add_modifier(Modifier::BOLD))
}

fn filled(text: &str, area: Rect) -> String {
    let width = usize::from(area.width);
    format!("{:<width$}", cut(text, width))
}

fn styled(text: String, alarm: bool, colour: bool) -> Line<'static> {
    if alarm { Line::from(styled_span(text, colour)) } else { Line::raw(text) }
}

/// Something to look at.
fn styled_span(text: String, colour: bool) -> Span<'static> {
    let style = if colour { Style::new().fg(Color::Red) } else { Style::new() };
    Span::styled(text, style)
}

/// Five figures at most.
fn count(count: u64) -> String {
    match count {
        count if count < 100_000 => count.to_string(),
        count if count < 10_000_000 => format!("{}k", count / 1_000),
        count => format!("{}M", count / 1_000_000),
    }
}

fn millis(micros: Option<u64>) -> String {
    micros.map_or_else(|| "-".to_owned(), crate::cli::values::millis)
}

fn micros(nanos: Option<u64>) -> String {
    nanos.map_or_else(
        || "-".to_owned(),
        |nanos| format!("{}.{}", nanos / 1_000, nanos % 1_000 / 100),
    )
}

fn to_u16(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
