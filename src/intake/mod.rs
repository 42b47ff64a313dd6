//! From bytes of the replication stream to tagged records in the journal.

pub mod canonical;
pub mod commands;
pub mod decoder;
pub mod scanner;
pub mod select;
