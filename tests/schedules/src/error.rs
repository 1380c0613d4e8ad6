//! Stands for the library's error, of which these parts only store and clone values.

pub(crate) type Error = String;
