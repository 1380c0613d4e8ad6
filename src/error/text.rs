//! The text of an error: stage, host and address, message, time and limit, then each cause or server.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{Error, ErrorKind, Ineligible, Limit, LimitValue, ServerReason, Stage};

/// The longest message of an error, in bytes: a server's message can be as long as a reply.
pub const ERROR_MESSAGE_SIZE_MAX: usize = 8 * 1024;

/// The longest text of an error with its causes and servers, in bytes: there can be a thousand of each.
pub const ERROR_TEXT_SIZE_MAX: usize = 64 * 1024;

/// The longest text of an error within another error's list of servers, in bytes.
pub(crate) const NESTED_TEXT_SIZE_MAX: usize = 1024;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bounded::new(f, ERROR_TEXT_SIZE_MAX).print(|out| self.print(out))
    }
}

impl Error {
    fn print(&self, f: &mut Bounded<'_>) -> fmt::Result {
        let facts = &*self.0;
        if let Some(stage) = facts.stage {
            write!(f, "{stage}: ")?;
        }
        if let Some(host) = &facts.host {
            write!(f, "{host}")?;
            match &facts.address {
                Some(address) if address.to_string() != host.canonical() => write!(f, " ({address}): ")?,
                _ => f.write_str(": ")?,
            }
        } else if let Some(address) = &facts.address {
            write!(f, "{address}: ")?;
        }
        f.write_str(&facts.message)?;
        if let Some(elapsed) = facts.elapsed
            && facts.kind != ErrorKind::Timeout
        {
            write!(f, ", after {}", Span(elapsed))?;
        }
        if let Some(limit) = facts.limit {
            write!(f, " ({limit})")?;
        }
        for (index, cause) in facts.causes.iter().enumerate() {
            write!(f, "{}{cause}", if index == 0 { ": " } else { "; " })?;
        }
        for (index, server) in facts.servers.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

/// A writer that ends its text with `…` at a size limit and skips the rest.
pub(crate) struct Bounded<'a> {
    out: &'a mut dyn Write,
    left: usize,
    is_cut: bool,
}

impl<'a> Bounded<'a> {
    /// Limits the output to a number of bytes.
    pub(crate) fn new(out: &'a mut dyn Write, size_bytes_max: usize) -> Self {
        Self { out, left: size_bytes_max.saturating_sub(ELLIPSIS.len()), is_cut: false }
    }

    /// Writes up to the limit.
    pub(crate) fn print(mut self, print: impl FnOnce(&mut Self) -> fmt::Result) -> fmt::Result {
        let outcome = print(&mut self);
        if self.is_cut { self.out.write_str(ELLIPSIS) } else { outcome }
    }
}

impl Write for Bounded<'_> {
    /// Fails at the limit, which ends the formatting early.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_cut {
            return Err(fmt::Error);
        }
        let kept = text.get(..boundary(text, self.left)).unwrap_or_default();
        self.left -= kept.len();
        self.out.write_str(kept)?;
        if kept.len() < text.len() {
            self.is_cut = true;
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// The sign for omitted text.
const ELLIPSIS: &str = "\u{2026}";

/// Returns the last character boundary within a number of bytes.
fn boundary(text: &str, size_bytes_max: usize) -> usize {
    let most = size_bytes_max.min(text.len());
    (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Cuts a text to a number of bytes, `…` included; a text within the limit is not copied.
pub(crate) fn cut(mut text: String, size_bytes_max: usize) -> String {
    if text.len() > size_bytes_max {
        text.truncate(boundary(&text, size_bytes_max.saturating_sub(ELLIPSIS.len())));
        text.push_str(ELLIPSIS);
        text.shrink_to_fit();
    }
    text
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.0;
        let mut out = f.debug_struct("Error");
        out.field("kind", &facts.kind).field("text", &self.to_string());
        if !facts.labels.is_empty() {
            out.field("labels", &facts.labels);
        }
        if let Some(source) = &facts.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uri => "uri",
            Self::Srv => "srv",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Hello => "hello",
            Self::Auth => "auth",
            Self::Selection => "selection",
            Self::Checkout => "checkout",
            Self::Write => "write",
            Self::Read => "read",
            Self::Server => "server",
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            LimitValue::Time(span) => write!(f, "limit {} of {}", self.name, Span(span)),
            LimitValue::Bytes(bytes) => write!(f, "limit {} of {bytes} bytes", self.name),
            LimitValue::Count(count) => write!(f, "limit {} of {count}", self.name),
        }
    }
}

impl fmt::Display for ServerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.reason)?;
        match &self.error {
            Some(error) => Nested(error).fmt(f),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("is not reachable"),
            Self::Type(name) => write!(f, "is {name}"),
            Self::Tags => f.write_str("has other tags"),
            Self::TooStale => f.write_str("is staler than maxStalenessSeconds"),
            Self::Deprioritized => f.write_str("has just failed"),
            Self::OtherServer => f.write_str("is another server"),
            Self::Selector => f.write_str("was excluded by the selector"),
            Self::Eligible => f.write_str("is eligible"),
        }
    }
}

/// An error in brackets, as one of many.
pub(crate) struct Nested<'a>(pub(crate) &'a Error);

impl fmt::Display for Nested<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(" [")?;
        Bounded::new(f, NESTED_TEXT_SIZE_MAX).print(|out| write!(out, "{}", self.0))?;
        f.write_str("]")
    }
}

/// A duration, printed in milliseconds below ten seconds, in seconds above.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_millis(10) {
            write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
        } else if self.0 < Duration::from_secs(10) {
            write!(f, "{} ms", self.0.as_millis())
        } else {
            write!(f, "{:.1} s", self.0.as_secs_f64())
        }
    }
}
