#[path = "../../../../src/io/interrupt.rs"]
pub(crate) mod interrupt;
#[path = "../../../../src/io/shards.rs"]
pub(crate) mod shards;
