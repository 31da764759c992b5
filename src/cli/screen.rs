//! What every command shares: the error with its exit code, standard output, colours, asking a daemon.
//!
//! Results go to standard output through one locked handle; everything else, errors first, to
//! standard error. A reader that closes the pipe early ends the command quietly.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Target;
use super::table::WIDTH;
use crate::api::client::{Client, ClientError, Lines};
use crate::api::dto::{FailureKind, Request};
use crate::config::Config;
use crate::daemon::store;
use crate::limits;

/// Exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fail {
    /// It could not be done.
    Failure = 1,
    /// The question itself is wrong.
    Usage = 2,
    /// The overlay said no.
    Rejected = 3,
    /// Queued, or no answer in time.
    Later = 4,
}

/// What ends a command early. The text says what is wrong and what to do.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) code: Fail,
    /// Empty: everything was said already.
    pub(super) text: String,
}

impl CliError {
    pub(super) fn new(code: Fail, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn failure(text: impl Into<String>) -> Self {
        Self::new(Fail::Failure, text)
    }

    /// The command failed and has said why.
    pub(super) fn said(code: Fail) -> Self {
        Self::new(code, "")
    }

    /// Prints the error and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        if !self.text.is_empty() {
            let style = Style::of(&io::stderr());
            say(&format!("{} {}", style.red("error:"), self.text));
        }
        ExitCode::from(self.code as u8)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::TimedOut(_) => Fail::Later,
            ClientError::Refused(failure) => match failure.kind {
                FailureKind::Usage => Fail::Usage,
                FailureKind::Failed | FailureKind::Unknown => Fail::Failure,
                FailureKind::Rejected => Fail::Rejected,
                FailureKind::Timeout => Fail::Later,
            },
            ClientError::NotRunning { .. }
            | ClientError::NotAllowed { .. }
            | ClientError::Ended
            | ClientError::Malformed(_)
            | ClientError::Io(_) => Fail::Failure,
        };
        Self::new(code, error.to_string())
    }
}

/// A line on standard error. There is nobody left to tell if that fails.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes a result to standard output; a closed pipe is not an error.
pub(super) fn print(
    write: impl FnOnce(&mut dyn Write, Style) -> io::Result<()>,
) -> Result<(), CliError> {
    let stdout = io::stdout();
    let style = Style::of(&stdout);
    let mut out = io::BufWriter::new(stdout.lock());
    match write(&mut out, style).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failure(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a value of the contract: JSON if asked for, `text` otherwise, cut to the width of a terminal
/// unless all of it is wanted.
pub(super) fn show<T: Serialize>(
    target: &Target,
    value: &T,
    text: impl FnOnce(&T, &mut dyn Write, Style) -> io::Result<()>,
) -> Result<(), CliError> {
    if !target.json {
        return print(|out, style| {
            let style = Style { wide: target.wide, ..style };
            fitted(style, |inner, style| text(value, inner, style))
                .and_then(|all| out.write_all(&all))
        });
    }
    let json = to_json(value)?;
    print(|out, _| writeln!(out, "{json}"))
}

/// What `text` writes, no line longer than a terminal's.
pub(super) fn fitted(
    style: Style,
    text: impl FnOnce(&mut dyn Write, Style) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    text(&mut all, style)?;
    if style.wide {
        return Ok(all);
    }
    let all = String::from_utf8_lossy(&all);
    Ok(all.lines().map(|line| cut_line(line) + "\n").collect::<String>().into_bytes())
}

/// Marks of colour have no width; those behind the cut stay, so that none is left on.
fn cut_line(line: &str) -> String {
    let (mut marks, mut mark) = (0, false);
    for c in line.chars() {
        mark |= c == '\x1b';
        marks += usize::from(mark);
        mark &= c != 'm';
    }
    if line.chars().count() - marks <= WIDTH {
        return line.to_owned();
    }
    let (mut kept, mut columns, mut mark) = (String::new(), 0, false);
    for c in line.chars() {
        mark |= c == '\x1b';
        if mark || columns < WIDTH - 1 {
            kept.push(c);
        } else if columns == WIDTH - 1 {
            kept.push('…');
        }
        columns += usize::from(!mark);
        mark &= c != 'm';
    }
    kept
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, CliError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| CliError::failure(format!("the answer cannot be printed: {error}")))
}

/// The local interface of the daemon that runs a configuration file.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    pub(super) config: PathBuf,
    pub(super) socket: PathBuf,
}

impl Daemon {
    pub(super) fn of(target: &Target) -> Result<Self, CliError> {
        let config = target.config_file()?;
        let loaded = Config::load(config).map_err(|error| CliError::failure(error.to_string()))?;
        let socket = store::socket_path(&loaded.state_dir)
            .map_err(|error| CliError::failure(error.to_string()))?;
        Ok(Self { config: config.clone(), socket })
    }

    pub(super) fn client(&self) -> Result<Client, CliError> {
        Client::connect(&self.socket).map_err(|error| self.explain(error))
    }

    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, CliError> {
        self.ask_for(limits::CLIENT_ANSWER_MAX, request)
    }

    /// Asks for something that takes its time.
    pub(super) fn ask_for<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        request: &Request,
    ) -> Result<T, CliError> {
        Ok(self.client()?.timeout(timeout).request(request)?)
    }

    pub(super) fn lines<T: DeserializeOwned>(
        &self,
        request: &Request,
    ) -> Result<Lines<T>, CliError> {
        Ok(self.client()?.lines(request)?)
    }

    fn explain(&self, error: ClientError) -> CliError {
        if !matches!(error, ClientError::NotRunning { .. }) {
            return error.into();
        }
        let config = shell_word(&self.config);
        CliError::failure(format!("{error}; start it with `spanway run --config {config}`"))
    }
}

/// A path as a shell takes it.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Colours, if the reader is a terminal and did not say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) colour: bool,
    /// Lines may be longer than a terminal's.
    pub(super) wide: bool,
}

impl Style {
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: stream.is_terminal() && !unwanted, wide: false }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::Failure;

    #[test]
    fn a_refusal_of_the_daemon_becomes_its_exit_code() {
        for (kind, code) in [
            (FailureKind::Usage, Fail::Usage),
            (FailureKind::Failed, Fail::Failure),
            (FailureKind::Rejected, Fail::Rejected),
            (FailureKind::Timeout, Fail::Later),
        ] {
            let failure = Failure { kind, message: "why".to_owned(), reason: None };
            let error = CliError::from(ClientError::Refused(failure));
            assert_eq!((error.code, error.text.as_str()), (code, "why"));
        }
    }

    #[test]
    fn colours_are_marks_around_the_text_or_nothing() {
        assert_eq!(Style { colour: false, wide: false }.red("no"), "no");
        assert_eq!(Style { colour: true, wide: false }.green("yes"), "\x1b[32myes\x1b[0m");
    }

    #[test]
    fn a_line_is_cut_where_a_terminal_ends_and_its_colours_are_closed() {
        let style = Style { colour: true, wide: false };
        let long = format!("{} {}", style.bold("name"), style.red(&"x".repeat(90)));
        let cut = cut_line(&long);
        let plain: String =
            cut.replace("\x1b[1m", "").replace("\x1b[1;31m", "").replace("\x1b[0m", "");
        assert_eq!(plain, format!("name {}…", "x".repeat(74)));
        assert!(cut.ends_with("…\x1b[0m"), "{cut:?}");
        let fits = style.bold(&"y".repeat(80));
        assert_eq!(cut_line(&fits), fits);
    }

    #[test]
    fn commands_we_print_can_be_pasted() {
        assert_eq!(shell_word(Path::new("/tmp/a.toml")), "/tmp/a.toml");
        assert_eq!(shell_word(Path::new("a b'c")), r"'a b'\''c'");
    }
}
