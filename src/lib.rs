//! Tandem keeps Redis servers in two-way sync.

pub mod model;
pub mod redis;
pub mod replica;
pub mod intake;
pub mod converge;
pub mod status;
