//! How does text reach the terminal?
//!
//! Nothing here panics when a reader goes away, and nothing that a server says can steer the terminal.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use tracing_subscriber::EnvFilter;

/// Writes to standard output.
pub(super) struct Output {
    out: BufWriter<Stdout>,
}

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paint {
    coloured: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { out: BufWriter::new(io::stdout()) }
    }

    /// Writes a text as it is.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// Writes a line, which may stay in the buffer.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        self.text(text)?;
        self.text("\n")
    }

    /// Shows what has been written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Paint {
    /// Colours what goes to standard output, if that is a terminal and nobody minds (`NO_COLOR`).
    pub(super) fn for_output() -> Self {
        Self { coloured: is_colourful(io::stdout().is_terminal()) }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes a line to standard error; there is nobody to tell if that fails.
pub(super) fn complain(text: &str) {
    drop(writeln!(io::stderr(), "{}", printable(text)));
}

/// Returns whether somebody watches standard error.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Replaces what could steer a terminal; line breaks stay.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() && char != '\n' { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// Sends traces to standard error.
pub(super) fn trace(verbose: u8) {
    let by_flag = match verbose {
        0 => "error",
        1 => "mongolink=debug",
        _ => "mongolink=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(by_flag));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_colourful(io::stderr().is_terminal()))
        .log_internal_errors(false);
    if let Err(error) = subscriber.try_init() {
        complain(&format!("warning: no traces: {error}"));
    }
}

fn is_colourful(terminal: bool) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    terminal && !is_set("NO_COLOR") && !is_dumb
}
