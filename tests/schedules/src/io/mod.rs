mod clock;
#[path = "../../../../src/io/interrupt.rs"]
pub(crate) mod interrupt;
#[path = "../../../../src/io/shards.rs"]
pub(crate) mod shards;
#[path = "../../../../src/io/shell.rs"]
pub(crate) mod shell;
mod shells;
mod sync;
