//! Finds the commands in a replication stream.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "each target has one entry point of all")]
#[path = "../../tests/mutations/entries.rs"]
mod entries;

fuzz_target!(|bytes: &[u8]| entries::stream(bytes));
