//! Tandem keeps Redis servers in two-way sync.

pub mod model;
pub mod status;
pub mod demo;
