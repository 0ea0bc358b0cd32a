//! The `wsgate` program.
fn main() {}
