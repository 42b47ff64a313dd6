//! Whether two or more sites hold the same, while they run and are written to (`tandem verify`).
//!
//! ```text
//!   scan the first site ──► batch of keys ──► read at all sites at once ──► equal: forgotten
//!   scan the others ──► keys that the first has not ──┐       │
//!                                                     ▼       ▼ looks different
//!                                                   suspects, a bounded number
//!                                                     │  look again, pauses grow
//!                                                     ├─► equal once: forgotten
//!                                                     └─► patience is over: different ──► report, repair
//! ```
//!
//! Pure are the [digest] of a value, the [comparison](entry) of what sites have, the [decision](recheck)
//! when a key counts as different, and the [report]; the rest reads servers.

pub mod compare;
pub mod digest;
pub mod entry;
pub mod pieces;
pub mod progress;
pub mod recheck;
pub mod repair;
pub mod report;
pub mod site;
