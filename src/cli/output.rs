//! The output to the terminal.
//!
//! Nothing here panics when a reader closes the pipe, and no text of a server reaches the terminal as a control sequence.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use tracing_subscriber::EnvFilter;

/// A writer to standard output.
pub(super) struct Output {
    out: BufWriter<Stdout>,
}

/// The colouring of text, if enabled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paint {
    coloured: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { out: BufWriter::new(io::stdout()) }
    }

    /// Writes a text unchanged.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// Writes a line, which may stay in the buffer.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        self.text(text)?;
        self.text("\n")
    }

    /// Flushes the buffer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Paint {
    /// Enables colours if standard output is a terminal and `NO_COLOR` is not set.
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

/// Writes a line to standard error; a failure is ignored.
pub(super) fn print_stderr(text: &str) {
    drop(writeln!(io::stderr(), "{}", printable(text)));
}

/// Returns whether standard error is a terminal.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Replaces terminal control characters; line breaks stay.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() && char != '\n' { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// Writes traces to standard error.
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
        print_stderr(&format!("warning: traces are not available: {error}"));
    }
}

fn is_colourful(terminal: bool) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    terminal && !is_set("NO_COLOR") && !is_dumb
}
