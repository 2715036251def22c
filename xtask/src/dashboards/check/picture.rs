//! A dashboard drawn from the answers to its questions: an SVG for the docs.
//!
//! No Grafana, but the same panels in the same places, with the same names, units and data. Drawn for reading: at most [`SHOWN`] series of a panel have a name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::prometheus::Series;
use super::verdict::Answered;
use crate::dashboards::grafana;
use crate::dashboards::panel::{Dashboard, Kind, Panel, Unit};

const COLUMN: f64 = 50.0;
const LINE: f64 = 26.0;
const GAP: f64 = 4.0;
const HEAD: f64 = 44.0;
/// Between a panel's title and its highest line.
const HEADROOM: f64 = 10.0;
const SHOWN: usize = 6;
/// A name with its value, in characters that fit into half a panel.
const NAME_FITS: usize = 34;
const LEGEND_LINE: f64 = 13.0;
const COLOURS: [&str; 10] = [
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
];

/// A rectangle on the picture.
#[derive(Clone, Copy)]
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// A series with its name.
struct Named<'a> {
    name: String,
    series: &'a Series,
}

/// The whole picture.
pub(super) fn draw(dashboard: &Dashboard, answers: &Answered) -> String {
    let json = grafana::json(dashboard);
    let placed = json["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bottom = placed
        .iter()
        .map(|panel| side(panel, "y") + side(panel, "h"))
        .fold(0.0, f64::max);
    let (width, height) = (24.0 * COLUMN, HEAD + bottom * LINE + GAP);
    let mut svg = Svg(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#f4f5f7\"/>\n"
    ));
    svg.text(
        GAP * 3.0,
        28.0,
        "font-size=\"18\" font-weight=\"bold\"",
        dashboard.title,
    );
    let mut panels = dashboard.panels().zip(answers);
    for place in placed {
        let frame = frame(place);
        if place["type"] == "row" {
            svg.text(
                frame.x + GAP,
                frame.y + 16.0,
                "font-size=\"13\" font-weight=\"bold\" fill=\"#444\"",
                place["title"].as_str().unwrap_or_default(),
            );
            continue;
        }
        let Some((panel, answers)) = panels.next() else { break };
        svg.panel(panel, answers, frame);
    }
    svg.0 + "</svg>\n"
}

fn side(panel: &Value, name: &str) -> f64 {
    panel["gridPos"][name].as_f64().unwrap_or_default()
}

fn frame(panel: &Value) -> Frame {
    Frame {
        x: side(panel, "x") * COLUMN + GAP,
        y: HEAD + side(panel, "y") * LINE + GAP,
        width: side(panel, "w") * COLUMN - 2.0 * GAP,
        height: side(panel, "h") * LINE - 2.0 * GAP,
    }
}

/// The picture so far.
struct Svg(String);

impl Svg {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        let _ = self.0.write_fmt(element);
        self.0.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, style: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>",
            escaped(text)
        ));
    }

    fn panel(&mut self, panel: &Panel, answers: &[Vec<Series>], frame: Frame) {
        self.add(format_args!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#fff\" stroke=\"#d8dbe0\"/>",
            frame.x, frame.y, frame.width, frame.height
        ));
        self.text(frame.x + 8.0, frame.y + 15.0, "font-weight=\"bold\"", panel.title);
        let inner = Frame {
            x: frame.x + 8.0,
            y: frame.y + 22.0,
            width: frame.width - 16.0,
            height: frame.height - 28.0,
        };
        match panel.kind {
            Kind::Lines => self.lines(panel, &named(panel, answers), inner),
            Kind::Number => self.number(panel, answers, inner),
            Kind::Table => self.table(panel, answers, inner),
        }
    }

    fn lines(&mut self, panel: &Panel, series: &[Named<'_>], frame: Frame) {
        let legend = LEGEND_LINE * (series.len().min(SHOWN).div_ceil(2) + usize::from(series.len() > SHOWN)) as f64;
        let chart = Frame {
            y: frame.y + HEADROOM,
            height: frame.height - HEADROOM - legend - 4.0,
            ..frame
        };
        let points = || {
            series
                .iter()
                .flat_map(|one| &one.series.points)
                .filter(|(_, value)| value.is_finite())
        };
        let top = points().map(|(_, value)| *value).fold(0.0, f64::max);
        let top = if top > 0.0 { top } else { 1.0 };
        let (first, last) = points().fold((f64::MAX, f64::MIN), |(a, b), (time, _)| (a.min(*time), b.max(*time)));
        for part in [0.0, 0.5, 1.0] {
            let y = chart.y + chart.height * (1.0 - part);
            self.add(format_args!(
                "<path d=\"M{:.1} {y:.1}H{:.1}\" stroke=\"#e4e6ea\"/>",
                chart.x,
                chart.x + chart.width
            ));
            self.text(
                chart.x,
                y - 2.0,
                "font-size=\"9\" fill=\"#888\"",
                &shown(top * part, panel.unit),
            );
        }
        for (one, colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let path = path(&one.series.points, chart, (first, last), top);
            self.add(format_args!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/>"
            ));
        }
        for (at, (one, colour)) in series.iter().zip(COLOURS.iter().cycle()).take(SHOWN).enumerate() {
            let x = frame.x + (at % 2) as f64 * frame.width / 2.0;
            let y = chart.y + chart.height + 14.0 + LEGEND_LINE * (at / 2) as f64;
            self.add(format_args!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"9\" height=\"3\" fill=\"{colour}\"/>",
                y - 5.0
            ));
            let value = last_value(one.series)
                .map(|value| shown(value, panel.unit))
                .unwrap_or_default();
            let name = shortened(&one.name, NAME_FITS.saturating_sub(value.len() + 1));
            self.text(x + 13.0, y, "font-size=\"10\"", &format!("{name} {value}"));
        }
        if series.len() > SHOWN {
            let y = frame.y + frame.height;
            self.text(
                frame.x,
                y,
                "font-size=\"10\" fill=\"#888\"",
                &format!("and {} more", series.len() - SHOWN),
            );
        }
    }

    fn number(&mut self, panel: &Panel, answers: &[Vec<Series>], frame: Frame) {
        let value = answers.iter().flatten().find_map(last_value);
        let value = value.map_or_else(|| "none".to_owned(), |value| shown(value, panel.unit));
        self.text(
            frame.x,
            frame.y + frame.height * 0.65,
            "font-size=\"28\" fill=\"#1f60c4\"",
            &value,
        );
    }

    fn table(&mut self, panel: &Panel, answers: &[Vec<Series>], frame: Frame) {
        let mut rows: BTreeMap<Vec<&str>, BTreeMap<usize, f64>> = BTreeMap::new();
        for (column, series) in answers.iter().enumerate() {
            for one in series {
                let key = one.labels.values().rev().map(String::as_str).collect();
                if let Some(value) = last_value(one) {
                    rows.entry(key).or_default().insert(column, value);
                }
            }
        }
        let step = frame.width / (panel.queries.len() + 1) as f64;
        for (at, query) in panel.queries.iter().enumerate() {
            self.text(
                frame.x + step * (at + 1) as f64,
                frame.y + 10.0,
                "fill=\"#888\"",
                query.legend,
            );
        }
        for (line, (key, values)) in rows.iter().enumerate() {
            let y = frame.y + 28.0 + 18.0 * line as f64;
            self.text(frame.x, y, "font-weight=\"bold\"", &key.join(" "));
            for (column, value) in values {
                self.text(
                    frame.x + step * (*column + 1) as f64,
                    y,
                    "",
                    &shown(*value, panel.queries[*column].unit),
                );
            }
        }
    }
}

/// The series of a panel by the names that its legends give them.
fn named<'a>(panel: &Panel, answers: &'a [Vec<Series>]) -> Vec<Named<'a>> {
    let of_query = |(query, series): (&crate::dashboards::panel::Query, &'a Vec<Series>)| {
        let legend = query.legend;
        let one = |series: &'a Series| Named {
            name: name(legend, series),
            series,
        };
        series.iter().map(one).collect::<Vec<_>>()
    };
    panel.queries.iter().zip(answers).flat_map(of_query).collect()
}

fn name(legend: &str, series: &Series) -> String {
    let mut name = String::new();
    let mut rest = legend;
    while let Some((before, after)) = rest.split_once("{{") {
        let (label, after) = after.split_once("}}").unwrap_or((after, ""));
        name += before;
        name += series.labels.get(label).map_or("", String::as_str);
        rest = after;
    }
    name + rest
}

/// A line through the points; where there is no number there is a gap.
fn path(points: &[(f64, f64)], chart: Frame, (first, last): (f64, f64), top: f64) -> String {
    let mut path = String::new();
    let mut pen_is_down = false;
    for (time, value) in points {
        if !value.is_finite() {
            pen_is_down = false;
            continue;
        }
        let x = chart.x + chart.width * (time - first) / (last - first).max(1.0);
        let y = chart.y + chart.height * (1.0 - value / top);
        let _ = write!(path, "{}{x:.1} {y:.1}", if pen_is_down { 'L' } else { 'M' });
        pen_is_down = true;
    }
    path
}

fn last_value(series: &Series) -> Option<f64> {
    series
        .points
        .iter()
        .rev()
        .map(|(_, value)| *value)
        .find(|value| value.is_finite())
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        _ if value == 0.0 => "0".to_owned(),
        Unit::Seconds if value < 1e-3 => format!("{:.0} us", value * 1e6),
        Unit::Seconds if value < 0.01 => format!("{:.2} ms", value * 1e3),
        Unit::Seconds if value < 1.0 => format!("{:.0} ms", value * 1e3),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Bytes if value >= 1024.0 => format!("{:.1} KiB", value / 1024.0),
        Unit::Bytes => format!("{value:.0} B"),
        Unit::PerSecond => format!("{}/s", plain(value)),
        Unit::Share => format!("{:.2} %", value * 100.0),
        Unit::Count | Unit::Ratio => plain(value),
    }
}

fn plain(value: f64) -> String {
    match value {
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

fn shortened(name: &str, to: usize) -> String {
    match name.chars().count() > to {
        true => name.chars().take(to.saturating_sub(1)).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series {
            labels: BTreeMap::from([
                ("mode".to_owned(), "sync".to_owned()),
                ("level".to_owned(), "a<b".to_owned()),
            ]),
            points: points.to_vec(),
        }
    }

    #[test]
    fn legends_are_filled_from_labels() {
        let one = series(&[]);
        assert_eq!(name("{{mode}} {{level}}, p50", &one), "sync a<b, p50");
        assert_eq!(name("{{gone}}x", &one), "x");
        assert_eq!(name("plain", &one), "plain");
    }

    #[test]
    fn a_line_has_a_gap_where_there_is_no_number() {
        let chart = Frame {
            x: 0.0,
            y: 0.0,
            width: 100.0,
            height: 10.0,
        };
        let points = [(0.0, 0.0), (5.0, f64::NAN), (10.0, 2.0)];
        assert_eq!(path(&points, chart, (0.0, 10.0), 2.0), "M0.0 10.0M100.0 0.0");
    }

    #[test]
    fn a_name_that_is_too_long_is_cut() {
        assert_eq!(shortened("sync eventual", 6), "sync …");
        assert_eq!(shortened("sync", 4), "sync");
    }

    #[test]
    fn values_are_shown_with_their_unit() {
        for (value, unit, text) in [
            (0.0, Unit::Seconds, "0"),
            (0.000_25, Unit::Seconds, "250 us"),
            (0.005, Unit::Seconds, "5.00 ms"),
            (0.25, Unit::Seconds, "250 ms"),
            (1.5, Unit::Seconds, "1.50 s"),
            (2048.0, Unit::Bytes, "2.0 KiB"),
            (0.5, Unit::Share, "50.00 %"),
            (12.345, Unit::PerSecond, "12.35/s"),
            (3.0, Unit::Count, "3"),
        ] {
            assert_eq!(shown(value, unit), text);
        }
    }

    #[test]
    fn every_dashboard_is_drawn_and_what_comes_from_labels_is_escaped() {
        for dashboard in crate::dashboards::all() {
            let answers: Answered = dashboard
                .panels()
                .map(|panel| {
                    panel
                        .queries
                        .iter()
                        .map(|_| vec![series(&[(0.0, 1.0), (1.0, 2.0)])])
                        .collect()
                })
                .collect();
            let svg = draw(&dashboard, &answers);
            let frames = svg.matches("stroke=\"#d8dbe0\"").count();
            assert_eq!(frames, dashboard.panels().count());
            assert!(!svg.contains("a<b"), "{}", dashboard.title);
        }
    }
}
