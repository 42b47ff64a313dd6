//! Tandem keeps Redis servers in two-way sync.

pub mod model;
pub mod redis;
pub mod replica;
pub mod rdb;
pub mod intake;
pub mod converge;
pub mod journal;
pub mod link;
pub mod apply;
pub mod fullsync;
pub mod peer;
pub mod precheck;
pub mod app;
pub mod progress;
pub mod status;
pub mod config;
pub mod cli;
pub mod logging;
pub mod metrics;
pub mod admin;
pub mod demo;
