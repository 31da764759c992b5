//! Where the demo writes: lines that stay, and on a terminal a block below them that is drawn anew.

use std::io::{self, IsTerminal, Write};

use crate::cli::screen::Style;

#[derive(Debug)]
pub(super) struct Board {
    stderr: bool,
    live: bool,
    pub(super) style: Style,
    /// Lines of the block that is on the screen.
    drawn: usize,
}

impl Board {
    /// On standard output, or on standard error if that is taken.
    pub(super) fn new(stderr: bool) -> Self {
        let (style, live) = if stderr {
            (Style::of(&io::stderr()), io::stderr().is_terminal())
        } else {
            (Style::of(&io::stdout()), io::stdout().is_terminal())
        };
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { stderr, live: live && !dumb, style, drawn: 0 }
    }

    /// A line that stays.
    pub(super) fn line(&mut self, line: &str) {
        let text = format!("{}{line}\n", self.erase());
        self.write(&text);
    }

    pub(super) fn lines<T: AsRef<str>>(&mut self, lines: &[T]) {
        lines.iter().for_each(|line| self.line(line.as_ref()));
    }

    /// Lines that the next ones replace, on a terminal; elsewhere they stay.
    pub(super) fn block(&mut self, lines: &[String]) {
        let mut text = self.erase();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        self.write(&text);
        if self.live {
            self.drawn = lines.len();
        }
    }

    /// The block stays.
    pub(super) fn keep(&mut self) {
        self.drawn = 0;
    }

    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn write(&self, text: &str) {
        // Whoever does not look any more does not stop the demo.
        let _ = if self.stderr {
            io::stderr().lock().write_all(text.as_bytes())
        } else {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }
}
