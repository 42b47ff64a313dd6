//! The table itself, by group.

mod generic;
mod hashes;
mod lists;
mod scripts;
mod servers;
mod sets;
mod streams;
mod strings;
mod zsets;

use super::case::Case;

/// Cases under one heading.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) cases: &'static [Case],
}

/// Every case, in the order in which it runs and is documented.
pub(crate) const GROUPS: &[Group] = &[
    group("strings", strings::STRINGS),
    group("bitmaps", strings::BITMAPS),
    group("HyperLogLog", strings::HYPERLOGLOGS),
    group("lists", lists::LISTS),
    group("blocking pops", lists::BLOCKING),
    group("sets", sets::SETS),
    group("sorted sets", zsets::SORTED_SETS),
    group("geo", zsets::GEO),
    group("hashes", hashes::HASHES),
    group("hash field TTLs", hashes::FIELD_TTLS),
    group("vector sets", sets::VECTOR_SETS),
    group("streams", streams::STREAMS),
    group("stream groups", streams::GROUPS),
    group("generic keys", generic::KEYS),
    group("expiry", generic::EXPIRY),
    group("binary", generic::BINARY),
    group("transactions", scripts::TRANSACTIONS),
    group("scripts", scripts::SCRIPTS),
    group("functions", scripts::FUNCTIONS),
    group("pub/sub", servers::MESSAGES),
    group("databases", servers::DATABASES),
    group("server", servers::SERVER),
];

const fn group(name: &'static str, cases: &'static [Case]) -> Group {
    Group { name, cases }
}

/// Every case with the name of its group.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static Case)> {
    GROUPS
        .iter()
        .flat_map(|g| g.cases.iter().map(move |case| (g.name, case)))
}
