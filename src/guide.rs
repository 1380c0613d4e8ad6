//! The guide, one module a page.
//!
//! The pages are the Markdown files in `docs`. This module exists in the documentation only; the pages' examples run as tests.
//! Does not decide anything: what a page describes is decided in the code.

/// Makes a module of a page. The links between pages come first, because there the first definition of a link counts.
macro_rules! pages {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $(
            $(#[$doc])*
            ///
            /// [connecting]: crate::guide::connecting
            /// [names]: crate::guide::names
            /// [failover-and-errors]: crate::guide::failover_and_errors
            /// [timeouts]: crate::guide::timeouts
            /// [sandbox]: crate::guide::sandbox
            /// [program]: crate::guide::program
            /// [limits]: crate::guide::limits
            /// [unsupported]: crate::guide::unsupported
            /// [costs]: crate::guide::costs
            /// [name-resolution]: crate::guide::name_resolution
            /// [threat-model]: crate::guide::threat_model
            ///
            #[doc = include_str!($file)]
            pub mod $name {}
        )*
    };
}

pages! {
    /// Clients, connection strings, options, commands, cursors, SRV, load balancers, shutdown.
    connecting = "../docs/connecting.md";
    /// Host names, look-ups, the cache, fixed addresses, resolvers of your own.
    names = "../docs/names.md";
    /// Recipes for certificates and mechanisms, and what is kept secret.
    tls_and_authentication = "../docs/tls-and-authentication.md";
    /// Error kinds, what is safe to repeat, silent servers, suspension.
    failover_and_errors = "../docs/failover-and-errors.md";
    /// Which limit covers which wait, and what cancellation does.
    timeouts = "../docs/timeouts.md";
    /// Sizes, waiting, late replies, statistics.
    pools = "../docs/pools.md";
    /// Topology snapshots, events, logs, probes.
    observability = "../docs/observability.md";
    /// A fake deployment in your process, and its faults.
    sandbox = "../docs/sandbox.md";
    /// `mongolink doctor`, `run`, `watch` and `sandbox`.
    program = "../docs/program.md";
    /// Every named limit and its value.
    limits = "../docs/limits.md";
    /// What is missing, and how that shows.
    unsupported = "../docs/unsupported.md";
    /// CPU, memory and allocations of a command.
    costs = "../docs/costs.md";
    /// The crates that a dependant gets, and the Unicode backend.
    dependencies = "../docs/dependencies.md";
    /// The kinds of tests, and how to run them.
    testing = "../docs/testing.md";
    /// When names are resolved by direct queries, and when by the operating system.
    name_resolution = "../docs/decisions/name-resolution.md";
    /// The attackers of a program that uses the crate, and what holds against each.
    threat_model = "../docs/threat-model.md";
}

/// The README, whose examples run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub mod readme {}
