//! What is seen of the demo: a live view on a terminal, lines elsewhere.

use std::io::{IsTerminal, Write, stdout};
use std::mem;
use std::thread;

use quorate_examples::Failure;
use quorate_recipes::coordination::{Task, TaskState};
use ratatui::crossterm::event::{self, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use ratatui::{DefaultTerminal, Frame};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

use crate::proof::{Moment, now};
use crate::stage::{Chronicle, Fate, Kind, Scene};

/// Region servers are told apart by these.
const COLOURS: [Color; 6] = [
    Color::Cyan,
    Color::Yellow,
    Color::Green,
    Color::Magenta,
    Color::Blue,
    Color::LightRed,
];
/// The width of a region.
const CELL: usize = 14;
/// The width of the part for a kind of processes.
const COLUMN: u16 = 22;

/// Where the demo is seen. The terminal is given back when this is dropped.
pub(crate) struct View {
    terminal: Option<DefaultTerminal>,
    /// Lines of the log that are printed.
    printed: usize,
    hint: &'static str,
}

impl View {
    /// A live view if there is a terminal. `hint` tells the keys.
    pub(crate) fn open(hint: &'static str) -> Result<View, Failure> {
        let terminal = has_terminal().then(ratatui::try_init).transpose()?;
        Ok(View {
            terminal,
            printed: 0,
            hint,
        })
    }

    /// Shows how things stand.
    pub(crate) fn show(&mut self, chronicle: &Chronicle) -> Result<(), Failure> {
        match &mut self.terminal {
            Some(terminal) => {
                terminal.draw(|frame| draw(frame, chronicle, self.hint))?;
            }
            None => self.print(chronicle),
        }
        Ok(())
    }

    /// Gives the terminal back, and leaves the log on it.
    pub(crate) fn close(&mut self, chronicle: &Chronicle) {
        self.restore();
        self.print(chronicle);
    }

    fn restore(&mut self) {
        let Some(terminal) = self.terminal.take() else {
            return;
        };
        if ratatui::try_restore().is_err() {
            // It would complain, and there is no terminal any more to complain at.
            mem::forget(terminal);
        }
    }

    fn print(&mut self, chronicle: &Chronicle) {
        let lines = chronicle.lines();
        for line in &lines[self.printed..] {
            say(&stamped(chronicle.start, line.at, &line.text));
        }
        self.printed = lines.len();
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Is there a terminal that can be drawn on?
pub(crate) fn has_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stdout().is_terminal() && std::io::stdin().is_terminal() && !is_dumb
}

/// Prints a line.
pub(crate) fn say(line: &str) {
    // Nobody is there to be told that nobody listens.
    let _ = stdout().write_all(format!("{line}\n").as_bytes());
}

/// A line with its time since the start.
pub(crate) fn stamped(start: Moment, at: Moment, text: &str) -> String {
    format!("{:6.2} s  {text}", (at - start) as f64 / 1e9)
}

/// The keys that are pressed. Ctrl-C, which the terminal does not turn into a signal while there is a
/// live view, becomes one here.
pub(crate) fn keys() -> mpsc::UnboundedReceiver<char> {
    let (pressed, keys) = mpsc::unbounded_channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            let Some(key) = event.as_key_press_event() else {
                continue;
            };
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            // Without `--interactive` nobody listens to keys.
            match key.code {
                KeyCode::Char('c') if control => drop(kill_process(getpid(), Signal::INT)),
                KeyCode::Char(key) => drop(pressed.send(key)),
                _ => {}
            }
        }
    });
    keys
}

fn draw(frame: &mut Frame<'_>, chronicle: &Chronicle, hint: &str) {
    let scene = chronicle.scene().clone();
    let kinds = [Kind::Server, Kind::Master, Kind::RegionServer];
    let tallest = kinds
        .map(|kind| scene.cast(kind).count().max(1))
        .into_iter()
        .max();
    let per_row = usize::from(frame.area().width.saturating_sub(2)).max(CELL) / CELL;
    let rows = scene.overview.tasks.len().div_ceil(per_row);
    let height = |lines: usize| Constraint::Length(u16::try_from(lines + 2).unwrap_or(u16::MAX));
    let parts = [
        height(tallest.unwrap_or(1)),
        height(rows),
        Constraint::Min(3),
        Constraint::Length(1),
    ];
    let [above, regions, log, below] = Layout::vertical(parts).areas(frame.area());
    let parts = [
        Constraint::Length(COLUMN),
        Constraint::Length(COLUMN),
        Constraint::Fill(1),
    ];
    let [servers, masters, region_servers] = Layout::horizontal(parts).areas(above);
    let list = |kind, what: &dyn Fn(&str) -> Line<'static>| -> Vec<Line<'static>> {
        let line = |(name, fate): (&str, Fate)| process(name, fate, what(name));
        scene.cast(kind).map(line).collect()
    };
    let lines = list(Kind::Server, &|name| server(&scene, name));
    part(frame, servers, "ensemble", lines);
    let lines = list(Kind::Master, &|name| master(&scene, name));
    part(frame, masters, "masters", lines);
    let lines = list(Kind::RegionServer, &|name| region_server(&scene, name));
    part(frame, region_servers, "region servers", lines);
    part(frame, regions, "regions", all_regions(&scene, per_row));
    let lines = chronicle.lines();
    let room = usize::from(log.height.saturating_sub(2));
    let last = lines.iter().skip(lines.len().saturating_sub(room));
    let last = last.map(|line| {
        let text = Line::from(stamped(chronicle.start, line.at, &line.text));
        if line.blow.is_some() {
            text.bold()
        } else {
            text
        }
    });
    part(frame, log, "what happens", last.collect());
    let hint = stamped(chronicle.start, now(), &format!("│ {hint}"));
    frame.render_widget(Line::from(hint).dim(), below);
}

fn part(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'static>>) {
    let block = Block::bordered().title(format!(" {title} "));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A line about a process; `what` it does counts while it is up.
fn process(name: &str, fate: Fate, what: Line<'static>) -> Line<'static> {
    let mut line = Line::from(format!(" {name:<5}"));
    match fate {
        Fate::Up => line.extend(what),
        Fate::Paused => line.push_span("paused".yellow()),
        Fate::Dead => line.push_span("dead".red()),
    }
    line
}

fn server(scene: &Scene, name: &str) -> Line<'static> {
    match scene.servers.get(name) {
        Some(mode) if scene.leader() == Some(name) => Line::from(mode.clone().green().bold()),
        Some(mode) => Line::from(mode.clone()),
        None => Line::from("starting").dim(),
    }
}

fn master(scene: &Scene, name: &str) -> Line<'static> {
    match scene
        .overview
        .masters
        .iter()
        .position(|master| master == name)
    {
        Some(0) => Line::from("active".green().bold()),
        Some(place) => Line::from(format!("standby {place}")),
        None => Line::from("starting").dim(),
    }
}

fn region_server(scene: &Scene, name: &str) -> Line<'static> {
    let mut workers = scene.overview.workers.values();
    let Some(worker) = workers.find(|worker| worker.id == name) else {
        return Line::from("starting").dim();
    };
    let regions = scene.regions_of(name).len();
    let bar = Span::from("■".repeat(regions)).fg(colour(scene, name));
    let load = worker.load;
    Line::from(vec![
        bar,
        format!(" {regions} regions, {load} writes/s").into(),
    ])
}

fn all_regions(scene: &Scene, per_row: usize) -> Vec<Line<'static>> {
    let cell = |(region, task): (&String, &Task)| {
        let worker = scene.overview.worker_of(region);
        let (who, style) = match (task.state, worker) {
            (TaskState::Open, Some(worker)) => (
                worker.id.as_str(),
                Style::new().fg(colour(scene, &worker.id)),
            ),
            (TaskState::Closing, _) => ("moves", Style::new().dim()),
            _ => ("—", Style::new().red().bold()),
        };
        let text = format!(" {region} {who} #{}", task.epoch);
        Span::styled(format!("{text:<CELL$}"), style)
    };
    let cells: Vec<_> = scene.overview.tasks.iter().map(cell).collect();
    cells
        .chunks(per_row)
        .map(|row| Line::from(row.to_vec()))
        .collect()
}

fn colour(scene: &Scene, name: &str) -> Color {
    let place = scene
        .cast(Kind::RegionServer)
        .position(|(it, _)| it == name);
    COLOURS[place.unwrap_or(0) % COLOURS.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quorate_recipes::coordination::WorkerInfo;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    /// `rs1` serves r01, `rs2` is dead and still has r02.
    fn scene(scene: &mut Scene) {
        let cast = [
            ("s1", Kind::Server, Fate::Up),
            ("m1", Kind::Master, Fate::Paused),
            ("m2", Kind::Master, Fate::Up),
            ("rs1", Kind::RegionServer, Fate::Up),
            ("rs2", Kind::RegionServer, Fate::Dead),
        ];
        for (name, kind, fate) in cast {
            let key = (name.len(), name.to_owned());
            scene.cast.insert(key, (kind, fate));
        }
        let server = ("s1".to_owned(), "leader".to_owned());
        scene.servers = BTreeMap::from([server]);
        scene.overview.masters = vec!["m2".to_owned(), "m1".to_owned()];
        for (region, id, state) in [("r01", "rs1", "open"), ("r02", "rs2", "opening")] {
            let mut info = WorkerInfo::new(id);
            info.load = 40;
            scene.overview.workers.insert(id.to_owned(), info);
            let task = format!(r#"{{"state":"{state}","worker":"{id}","epoch":3}}"#);
            let task = serde_json::from_str(&task).unwrap();
            scene.overview.tasks.insert(region.to_owned(), task);
        }
    }

    #[test]
    fn who_serves_what_is_seen() {
        let chronicle = Chronicle::new();
        chronicle.change(scene);
        chronicle.tell("rs2 is killed");
        let mut terminal = Terminal::new(TestBackend::new(78, 12)).unwrap();
        terminal
            .draw(|frame| draw(frame, &chronicle, "no keys"))
            .unwrap();
        let picture = terminal.backend().to_string();
        for part in [
            "│ s1   leader        ││ m1   paused        ││ rs1  ■ 1 regions, 40 writes/s",
            "││ m2   active        ││ rs2  dead",
            "│ r01 rs1 #3    r02 — #3 ",
            "│  0.00 s  rs2 is killed",
            " s  │ no keys",
        ] {
            assert!(picture.contains(part), "{part}\n{picture}");
        }
    }
}
