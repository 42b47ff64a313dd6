//! Commands: how they are read, what they touch, in which form they travel, and how an older server
//! is told the same.
//!
//! ```text
//! stream ─► scanner ─► canonical ─► journal, link ─► dialect ─► a target of any version
//!                         │                            │
//!                       table ◄── catalog          (or the state of the key instead)
//! ```
//!
//! Everything here is pure. `table` is the one place that says what a command is; a [`Catalog`]
//! adds what a server says of commands that are not in it.

mod canonical;
mod catalog;
mod dialect;
mod effects;
mod keys;
pub mod scanner;
mod table;
mod touch;

pub use self::canonical::{canonical, moment};
pub use self::catalog::{Catalog, Learned};
pub use self::dialect::{Dialect, Put};
pub use self::effects::{Effects, Made, Whole};
pub use self::keys::{Access, Key, Touched, for_each_in, key_hash, removes_marks};
pub use self::scanner::{Command, ScanError};
pub use self::touch::{Act, Kind, Touch};
