//! Charts of what was done over time, with marks for what happened: as text, and as SVG.

use std::fmt::Write;
use std::time::Duration;

/// How much was done in each of many equal spans of time.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// What it counts.
    pub name: String,
    /// A count for each span.
    pub counts: Vec<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: Duration,
    /// What, in a few words.
    pub label: String,
}

/// Rates over time.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The whole time that is shown.
    pub length: Duration,
    /// The length of each of the spans that are counted.
    pub span: Duration,
    /// Drawn one upon the other.
    pub series: Vec<Series>,
    /// In the order of time.
    pub marks: Vec<Mark>,
}

impl Chart {
    /// The letter by which the mark of an index is known.
    pub fn letter(index: usize) -> char {
        (b'a'..=b'z').map(char::from).nth(index).unwrap_or('*')
    }

    /// The sum of all series as bars of `width` by `height` characters, with the axes and the
    /// letters of the marks.
    pub fn text(&self, width: usize, height: usize) -> Vec<String> {
        const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let rates = self.rates(width);
        let top = round_up(rates.iter().copied().fold(0.0, f64::max));
        let label = format!("{}/s", short(top));
        let margin = label.chars().count();
        let mut lines = vec![self.title.clone()];
        for row in (0..height).rev() {
            let axis = if row + 1 == height {
                label.as_str()
            } else {
                ""
            };
            let bars = rates.iter().map(|rate| {
                let eighths = rate / top * (height * 8) as f64 - (row * 8) as f64;
                EIGHTHS[eighths.round().clamp(0.0, 8.0) as usize]
            });
            lines.push(format!(
                "{axis:>margin$} │{}",
                bars.collect::<String>().trim_end()
            ));
        }
        lines.push(format!("{:>margin$} └{}", 0, "─".repeat(width)));
        let letters = self.letters(width);
        if !letters.is_empty() {
            lines.push(format!("{:>margin$}  {letters}", ""));
        }
        let end = format!("{:.0} s", self.length.as_secs_f64());
        lines.push(format!(
            "{:>margin$}  0{end:>1$}",
            "",
            width.saturating_sub(1)
        ));
        lines
    }

    /// The marks with their letters, a line each.
    pub fn legend(&self) -> Vec<String> {
        let line = |(index, mark): (usize, &Mark)| {
            let (letter, at) = (Chart::letter(index), mark.at.as_secs_f64());
            format!("{letter} {at:6.1} s  {}", mark.label)
        };
        self.marks.iter().enumerate().map(line).collect()
    }

    /// The rate of everything a second, for each of `width` equal parts of the time; nothing yet
    /// is a rate of 0.
    fn rates(&self, width: usize) -> Vec<f64> {
        let spans = (self.length.as_secs_f64() / self.span.as_secs_f64()).max(1.0);
        let part = |column: usize| (column as f64 * spans / width as f64) as usize;
        let rate = |column: usize| {
            let (from, to) = (part(column), part(column + 1).max(part(column) + 1));
            let counts = self
                .series
                .iter()
                .flat_map(|series| series.counts.iter().skip(from).take(to - from));
            counts.sum::<u64>() as f64 / ((to - from) as f64 * self.span.as_secs_f64())
        };
        (0..width).map(rate).collect()
    }

    /// The letters of the marks below their places, moved on where one stands already.
    fn letters(&self, width: usize) -> String {
        let mut line: Vec<char> = Vec::new();
        for (index, mark) in self.marks.iter().enumerate() {
            let place = self.along(mark.at) * width as f64;
            let place = (place as usize).max(line.len());
            line.resize(place, ' ');
            line.push(Chart::letter(index));
        }
        line.into_iter().collect()
    }

    /// Where a moment is, from 0 at the beginning to 1 at the end.
    fn along(&self, at: Duration) -> f64 {
        (at.as_secs_f64() / self.length.as_secs_f64()).clamp(0.0, 1.0)
    }

    /// The series as areas, the marks as lines with their labels below.
    pub fn svg(&self) -> String {
        const COLOURS: [&str; 3] = ["#4c78a8", "#f58518", "#54a24b"];
        let frame = Frame::new(self);
        let mut out = frame.open(self);
        let mut below = vec![0.0; self.spans()];
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let above: Vec<f64> = below
                .iter()
                .enumerate()
                .map(|(span, below)| below + self.rate_in(series, span))
                .collect();
            frame.area(&below, &above, colour, &mut out);
            frame.key(index, colour, &series.name, &mut out);
            below = above;
        }
        frame.axes(self, &mut out);
        for (index, mark) in self.marks.iter().enumerate() {
            frame.mark(index, self.along(mark.at), mark, &mut out);
        }
        out.push_str("</svg>\n");
        out
    }

    /// How many spans are drawn: what was counted, as far as it lies within the time.
    fn spans(&self) -> usize {
        let counted = self.series.iter().map(|series| series.counts.len()).max();
        let within = self.length.as_secs_f64() / self.span.as_secs_f64();
        counted.unwrap_or(0).min(within.ceil() as usize)
    }

    fn rate_in(&self, series: &Series, span: usize) -> f64 {
        let count = series.counts.get(span).copied().unwrap_or(0);
        count as f64 / self.span.as_secs_f64()
    }
}

/// Where things are in the SVG, in its units.
struct Frame {
    /// The rate at the upper end of the axis.
    top: f64,
    /// Of one span of time.
    step: f64,
    height: f64,
}

impl Frame {
    const WIDTH: f64 = 900.0;
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = 880.0;
    const TOP: f64 = 60.0;
    const BOTTOM: f64 = 360.0;
    /// Between two lines of text.
    const LINE: f64 = 18.0;

    fn new(chart: &Chart) -> Frame {
        let total = |span| -> f64 {
            chart
                .series
                .iter()
                .map(|series| chart.rate_in(series, span))
                .sum()
        };
        let top = (0..chart.spans()).map(total).fold(0.0, f64::max);
        let spans = chart.length.as_secs_f64() / chart.span.as_secs_f64();
        let legend = chart.marks.len().div_ceil(2) as f64;
        Frame {
            top: round_up(top),
            step: (Frame::RIGHT - Frame::LEFT) / spans.max(1.0),
            height: Frame::BOTTOM + 50.0 + legend * Frame::LINE,
        }
    }

    fn y(&self, rate: f64) -> f64 {
        Frame::BOTTOM - rate / self.top * (Frame::BOTTOM - Frame::TOP)
    }

    fn open(&self, chart: &Chart) -> String {
        let (width, height, left) = (Frame::WIDTH, self.height, Frame::LEFT);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"{left}\" y=\"24\" font-size=\"16\">{}</text>\n",
            escape(&chart.title)
        )
    }

    /// Fills what lies between two curves.
    fn area(&self, below: &[f64], above: &[f64], colour: &str, out: &mut String) {
        let point = |(span, rate): (usize, &f64)| {
            let x = Frame::LEFT + (span as f64 + 0.5) * self.step;
            format!("{x:.1},{:.1}", self.y(*rate))
        };
        let there = above.iter().enumerate().map(point);
        let back = below.iter().enumerate().rev().map(point);
        let points = there.chain(back).collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            out,
            "<polygon points=\"{points}\" fill=\"{colour}\" fill-opacity=\"0.8\"/>"
        );
    }

    /// Names a series, at the upper right.
    fn key(&self, index: usize, colour: &str, name: &str, out: &mut String) {
        let x = Frame::RIGHT - 110.0 * (index + 1) as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"24\">{}</text>",
            x + 18.0,
            escape(name)
        );
    }

    fn axes(&self, chart: &Chart, out: &mut String) {
        const TICKS: u32 = 4;
        let (left, right, bottom) = (Frame::LEFT, Frame::RIGHT, Frame::BOTTOM);
        for tick in 0..=TICKS {
            let part = f64::from(tick) / f64::from(TICKS);
            let y = self.y(self.top * part);
            let x = left + (right - left) * part;
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ccc\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}/s</text>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0} s</text>",
                left - 6.0,
                y + 4.0,
                short(self.top * part),
                bottom + Frame::LINE,
                chart.length.as_secs_f64() * part
            );
        }
    }

    /// A line with its letter, and the label in one of two columns below the chart.
    fn mark(&self, index: usize, along: f64, mark: &Mark, out: &mut String) {
        let (top, bottom, letter) = (Frame::TOP, Frame::BOTTOM, Chart::letter(index));
        let x = Frame::LEFT + along * (Frame::RIGHT - Frame::LEFT);
        let column = (Frame::WIDTH - Frame::LEFT) / 2.0 * (index % 2) as f64;
        let row = bottom + 30.0 + Frame::LINE * (index / 2 + 1) as f64;
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#333\" \
             stroke-dasharray=\"3 3\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{letter}</text>\
             <text x=\"{}\" y=\"{row}\">{letter}: {}</text>",
            top - 4.0,
            Frame::LEFT + column,
            escape(&mark.label)
        );
    }
}

/// The next number above whose quarters are easy to read, and never 0.
fn round_up(number: f64) -> f64 {
    let power = 10f64.powf(number.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * power >= number);
    step.unwrap_or(10.0) * power
}

/// `25,000` as `25k`.
fn short(number: f64) -> String {
    match number {
        ..1e3 => format!("{number:.0}"),
        ..1e4 => format!("{:.1}k", number / 1e3),
        ..1e6 => format!("{:.0}k", number / 1e3),
        _ => format!("{:.1}M", number / 1e6),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(counts: &[u64]) -> Chart {
        let mark = |secs, label: &str| Mark {
            at: Duration::from_secs(secs),
            label: label.to_owned(),
        };
        Chart {
            title: "reads & writes".to_owned(),
            length: Duration::from_secs(4),
            span: Duration::from_millis(500),
            series: vec![Series {
                name: "all".to_owned(),
                counts: counts.to_vec(),
            }],
            marks: vec![mark(1, "one"), mark(1, "two"), mark(3, "three")],
        }
    }

    #[test]
    fn bars_stand_where_the_counts_are() {
        let lines = chart(&[5, 5, 0, 0, 10, 10, 5, 5]).text(8, 2);
        let drawn: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(
            drawn,
            [
                "reads & writes",
                "20/s │    ██",
                "     │██  ████",
                "   0 └────────",
                "        ab  c",
                "      0    4 s",
            ]
        );
    }

    #[test]
    fn a_legend_tells_the_letters() {
        assert_eq!(chart(&[]).legend()[2], "c    3.0 s  three");
    }

    #[test]
    fn what_has_not_been_counted_yet_is_empty() {
        let lines = chart(&[8, 8]).text(16, 1);
        assert_eq!(lines[1], "20/s │▆▆▆▆");
        assert!(chart(&[]).text(10, 3)[1].ends_with('│'));
    }

    #[test]
    fn all_points_of_the_svg_lie_within_it() {
        let mut chart = chart(&[5, 5, 0, 0, 10, 10, 5, 5, 9]);
        chart.series.push(chart.series[0].clone());
        let svg = chart.svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("reads &amp; writes") && svg.contains("c: three"));
        assert_eq!(svg.matches("<polygon").count(), 2);
        let points = svg
            .split("points=\"")
            .skip(1)
            .flat_map(|rest| rest.split('"').next().unwrap_or_default().split(' '));
        for point in points {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((Frame::LEFT..=Frame::RIGHT).contains(&x), "{point}");
            assert!((Frame::TOP..=Frame::BOTTOM).contains(&y), "{point}");
        }
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = [0.0, 1.0, 9.1, 999.0, 12_345.0, 250_001.0].map(round_up);
        assert_eq!(ends, [1.0, 1.0, 10.0, 1000.0, 20_000.0, 400_000.0]);
        assert_eq!(ends.map(short), ["1", "1", "10", "1.0k", "20k", "400k"]);
    }
}
