//! Tandem keeps Redis servers in two-way sync.

pub mod model;
pub mod redis;
pub mod status;
pub mod config;
pub mod logging;
pub mod metrics;
pub mod admin;
pub mod cli;
