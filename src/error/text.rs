//! How does an error read?
//!
//! Stage, host and address, message, time and limit, then the causes or the servers one by one.

use std::fmt;
use std::time::Duration;

use super::{Error, ErrorKind, Ineligible, Limit, LimitValue, ServerReason, Stage};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
            Some(error) => write!(f, " [{error}]"),
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
            Self::Selector => f.write_str("was left out by the selector"),
            Self::Eligible => f.write_str("is eligible"),
        }
    }
}

/// Prints a duration in milliseconds below ten seconds, in seconds above.
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
