//! What the demos share.

pub mod chart;

use std::env;
use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};
use std::time::Instant;

/// Tells a story on standard output: lines that stay, each with its time, and below them, on a
/// terminal, a picture of how things stand.
#[derive(Debug)]
pub struct Screen {
    start: Instant,
    is_terminal: bool,
    picture: Vec<String>,
}

impl Default for Screen {
    fn default() -> Self {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Screen {
            start: Instant::now(),
            is_terminal: stdout().is_terminal() && !is_dumb,
            picture: Vec::new(),
        }
    }
}

impl Screen {
    /// Adds a line to the story.
    pub fn tell(&mut self, line: impl Display) {
        let line = format!("{:6.2} s  {line}\n", self.start.elapsed().as_secs_f64());
        let picture = self.picture.clone();
        self.print(&line, picture);
    }

    /// Adds lines that carry no time, such as a table.
    pub fn add(&mut self, lines: &[String]) {
        let picture = self.picture.clone();
        self.print(&format!("{}\n", lines.join("\n")), picture);
    }

    /// Shows this picture in place of the last one.
    pub fn show(&mut self, picture: Vec<String>) {
        if self.is_terminal && self.picture != picture {
            self.print("", picture);
        }
    }

    /// Prints text where the old picture is, and the new picture below.
    fn print(&mut self, text: &str, picture: Vec<String>) {
        let mut out = String::new();
        if self.is_terminal {
            // Moving up by no line would move up by one.
            match self.picture.len() {
                0 => {}
                lines => out.push_str(&format!("\x1b[{lines}A\x1b[J")),
            }
        }
        out.push_str(text);
        for line in &picture {
            out.push_str(line);
            out.push('\n');
        }
        self.picture = picture;
        // Nobody is there to be told that nobody listens.
        let _ = stdout().write_all(out.as_bytes());
        let _ = stdout().flush();
    }
}
