//! Foldline, the command.
fn main() {}
