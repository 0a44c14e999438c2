//! The log on this machine's disk, on `fjall`.

/// A log in one folder of this machine.
#[derive(Debug)]
pub struct EmbeddedLog {}
