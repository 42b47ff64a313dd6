//! The promises, kept by real processes: servers, sidecars and wires that fail.
//!
//! `TANDEM_REDIS_SERVER` names the server to run (default: `redis-server`); `TANDEM_SERVERS` a
//! directory of versions; `TANDEM_FULL=1` runs the large cases; `TANDEM_KILLS=50` more rounds of
//! killing; `SEED=n` repeats a random test; `TANDEM_PATIENCE=3` triples every deadline;
//! `TANDEM_MATRIX=file` runs every command between all versions and writes what it found; the
//! modules `conformance` and `conflicts` have more of these variables.
//! `TANDEM_KEEP=1` leaves the directories of a failed test; `TANDEM_LOG=debug` has the sidecars say more.

#![expect(
    clippy::disallowed_methods,
    reason = "tests poll, and pump sockets, on threads of their own: sleeping and short writes \
              are what they do"
)]

#[cfg(test)]
mod harness;
#[cfg(test)]
mod harness_checks;
#[cfg(test)]
mod table;
#[cfg(test)]
mod types;
#[cfg(test)]
mod selecting;
#[cfg(test)]
mod evictions;
#[cfg(test)]
mod loops;
#[cfg(test)]
mod modules;
#[cfg(test)]
mod initial;
#[cfg(test)]
mod gap;
#[cfg(test)]
mod older;
#[cfg(test)]
mod backlog;
#[cfg(test)]
mod sites;
#[cfg(test)]
mod late_copies;
#[cfg(test)]
mod compression;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod fresh;
#[cfg(test)]
mod large;
#[cfg(test)]
mod interrupted;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod acknowledge;
#[cfg(test)]
mod sentinel;
mod soak;
mod standby;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bad_peer;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod versions;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod rebuild;
#[cfg(test)]
mod verify;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod conflicts;
