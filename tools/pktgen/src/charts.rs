//! Line plots as SVG text, in colours for light and for dark paper.
//!
//! Knows nothing of what is plotted. Fonts are whatever the reader's browser calls sans-serif.

use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

const WIDTH: u32 = 900;
/// More if the names of the series need it.
const HEIGHT_MIN: u32 = 380;
/// Where the names of the series begin, so that they cover no point.
const NAMES_AT: u32 = 690;
const NAMES_EVERY: u32 = 22;
const TEXT: i32 = 13;
const POINT: u32 = 3;
/// How much room a plot leaves above its highest value.
const HEADROOM: f64 = 1.08;
/// The longest name in a legend.
const NAME_MAX: usize = 26;

/// The paper that a plot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paper {
    Light,
    Dark,
}

/// One line with its points.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    /// In the order they are joined.
    pub points: Vec<(f64, f64)>,
}

/// A plot of several series.
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Plot<'a> {
    pub x_title: &'a str,
    pub y_title: &'a str,
    pub x_label: &'a dyn Fn(&f64) -> String,
    pub y_label: &'a dyn Fn(&f64) -> String,
    /// Decades instead of a line from zero.
    pub y_log: bool,
    pub series: &'a [Series],
}

/// A plot could not be drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a plot cannot be drawn: {0}")]
pub struct ChartError(String);

struct Colours {
    paper: RGBColor,
    ink: RGBColor,
    grid: RGBColor,
    lines: [RGBColor; 8],
}

/// Draws a plot. Without a point there is nothing to draw.
pub fn svg(plot: &Plot<'_>, paper: Paper) -> Result<Option<String>, ChartError> {
    let Some((x, y)) = ranges(plot) else { return Ok(None) };
    let mut text = String::new();
    {
        let colours = colours(paper);
        let rows = u32::try_from(plot.series.len()).unwrap_or(u32::MAX);
        let height = HEIGHT_MIN.max(rows.saturating_add(2).saturating_mul(NAMES_EVERY));
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        area.fill(&colours.paper).map_err(failed)?;
        let (left, right) = area.split_horizontally(NAMES_AT);
        names(&right, plot, &colours)?;
        let mut builder = ChartBuilder::on(&left);
        builder.margin(12).x_label_area_size(44).y_label_area_size(76);
        if plot.y_log {
            let chart = builder.build_cartesian_2d(x, y.log_scale()).map_err(failed)?;
            draw(chart, plot, &colours)?;
        } else {
            let chart = builder.build_cartesian_2d(x, y).map_err(failed)?;
            draw(chart, plot, &colours)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(Some(text))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Ranges = (std::ops::Range<f64>, std::ops::Range<f64>);

fn ranges(plot: &Plot<'_>) -> Option<Ranges> {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    points().next()?;
    let highest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let x = highest(&mut points().map(|point| point.0));
    let y = highest(&mut points().map(|point| point.1));
    let lowest = points().map(|point| point.1).filter(|&y| y > 0.0).fold(f64::MAX, f64::min);
    let y = if plot.y_log {
        let low = if lowest < f64::MAX { lowest } else { 1.0 };
        low / 1.5..(y * 1.5).max(low * 10.0)
    } else {
        0.0..if y > 0.0 { y * HEADROOM } else { 1.0 }
    };
    Some((0.0..if x > 0.0 { x * HEADROOM } else { 1.0 }, y))
}

fn draw<'a, Y>(
    mut chart: ChartContext<
        'a,
        SVGBackend<'a>,
        Cartesian2d<plotters::coord::types::RangedCoordf64, Y>,
    >,
    plot: &Plot<'_>,
    colours: &Colours,
) -> Result<(), ChartError>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let font = ("sans-serif", TEXT).into_font().color(&colours.ink);
    chart
        .configure_mesh()
        .axis_style(colours.ink)
        .bold_line_style(colours.grid)
        .light_line_style(TRANSPARENT)
        .label_style(font.clone())
        .axis_desc_style(font.clone())
        .x_desc(plot.x_title)
        .y_desc(plot.y_title)
        .x_label_formatter(&|x| (plot.x_label)(x))
        .y_label_formatter(&|y| (plot.y_label)(y))
        .draw()
        .map_err(failed)?;
    for (series, colour) in plot.series.iter().zip(colours.lines.iter().cycle()) {
        let style = colour.stroke_width(2);
        let line = LineSeries::new(series.points.iter().copied(), style).point_size(POINT);
        chart.draw_series(line).map_err(failed)?;
    }
    Ok(())
}

/// The legend.
fn names(area: &Area<'_>, plot: &Plot<'_>, colours: &Colours) -> Result<(), ChartError> {
    let font = ("sans-serif", TEXT).into_font().color(&colours.ink);
    let rows = (0..).map(|row| NAMES_EVERY.cast_signed() * (row + 1));
    for ((series, colour), y) in plot.series.iter().zip(colours.lines.iter().cycle()).zip(rows) {
        let name = shortened(&series.name);
        let sample = PathElement::new([(8, y), (28, y)], colour.stroke_width(2));
        area.draw(&sample).map_err(failed)?;
        area.draw(&Text::new(name, (36, y - TEXT / 2), font.clone())).map_err(failed)?;
    }
    Ok(())
}

/// A long name without its middle: beginnings and ends tell series apart.
fn shortened(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= NAME_MAX {
        return name.to_owned();
    }
    let kept = (NAME_MAX - 1) / 2;
    let (head, tail) = (&characters[..kept], &characters[characters.len() - kept..]);
    head.iter().chain(&['\u{2026}']).chain(tail).collect()
}

fn failed(error: impl std::fmt::Display) -> ChartError {
    ChartError(error.to_string())
}

/// Lines that stay apart for most colour-blind readers.
fn colours(paper: Paper) -> Colours {
    let lines = [
        RGBColor(0, 114, 178),
        RGBColor(213, 94, 0),
        RGBColor(0, 158, 115),
        RGBColor(204, 121, 167),
        RGBColor(230, 159, 0),
        RGBColor(86, 180, 233),
        RGBColor(128, 128, 128),
        RGBColor(160, 120, 60),
    ];
    match paper {
        Paper::Light => Colours {
            paper: RGBColor(255, 255, 255),
            ink: RGBColor(32, 32, 32),
            grid: RGBColor(221, 221, 221),
            lines,
        },
        Paper::Dark => Colours {
            paper: RGBColor(24, 26, 27),
            ink: RGBColor(224, 224, 224),
            grid: RGBColor(62, 66, 68),
            lines: lines.map(|RGBColor(r, g, b)| RGBColor(lighter(r), lighter(g), lighter(b))),
        },
    }
}

fn lighter(value: u8) -> u8 {
    value.saturating_add((u8::MAX - value) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(series: &[Series], y_log: bool, paper: Paper) -> Option<String> {
        let label = |value: &f64| format!("{value:.0}");
        let (x_title, y_title) = ("the rate", "the loss");
        let plot = Plot { x_title, y_title, x_label: &label, y_label: &label, y_log, series };
        svg(&plot, paper).expect("drawn")
    }

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), points: points.to_vec() }
    }

    #[test]
    fn a_plot_has_a_line_and_a_name_for_each_series() {
        let two = [
            series("first", &[(1.0, 0.0), (2.0, 0.5), (3.0, 9.0)]),
            series("a < b & c", &[(1.0, 4.0), (3.0, 5.0)]),
        ];
        for (y_log, paper) in [(false, Paper::Light), (true, Paper::Dark)] {
            let svg = plot(&two, y_log, paper).expect("there are points");
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            // The line itself and its sample in the legend.
            for colour in &colours(paper).lines[..2] {
                let RGBColor(r, g, b) = colour;
                let colour = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"");
                let lines = svg.lines().filter(|line| line.contains("<polyline"));
                assert_eq!(lines.filter(|line| line.contains(&colour)).count(), 2, "{svg}");
            }
            for text in ["first", "a &lt; b", "the rate", "the loss"] {
                assert!(svg.contains(text), "{text}: {svg}");
            }
        }
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shortened("short"), "short");
        let long = shortened("a-relay-with-a-very-long-name at 90 %");
        assert_eq!(long.chars().count(), NAME_MAX - 1);
        assert!(long.starts_with("a-relay-with") && long.ends_with("name at 90 %"), "{long}");
    }

    #[test]
    fn extremes_are_drawn_and_nothing_is_not() {
        assert_eq!(plot(&[], false, Paper::Light), None);
        assert_eq!(plot(&[series("empty", &[])], true, Paper::Light), None);
        for points in [&[(0.0, 0.0)][..], &[(5.0, 0.0), (6.0, 0.0)], &[(1e9, 1e12)]] {
            for y_log in [false, true] {
                assert!(plot(&[series("one", points)], y_log, Paper::Dark).is_some(), "{points:?}");
            }
        }
    }
}
