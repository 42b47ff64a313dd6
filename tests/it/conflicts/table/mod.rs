//! The table: each row of the promise, and every pair of writes of the same type.

mod hashes;
mod keys;
mod lists;
mod promises;
mod sets;
mod streams;
mod strings;
mod units;
mod zsets;

use super::case::Case;

/// All pairs.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = promises();
    cases.extend(strings::pairs());
    cases.extend(hashes::pairs());
    cases.extend(lists::pairs());
    cases.extend(sets::pairs());
    cases.extend(zsets::pairs());
    cases.extend(streams::pairs());
    cases.extend(keys::pairs());
    cases.extend(units::pairs());
    cases
}

/// The rows of the promise alone.
pub(crate) fn promises() -> Vec<Case> {
    let mut rows = promises::STRINGS.to_vec();
    rows.extend_from_slice(promises::COLLECTIONS);
    rows.extend_from_slice(promises::STREAMS);
    rows.extend_from_slice(promises::SEVERAL_KEYS);
    rows
}
