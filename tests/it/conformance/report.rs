//! The document: what travels between which versions.

use super::outcome::PairReport;

/// The whole document.
pub(crate) fn document(_reports: &[PairReport]) -> String {
    String::new()
}
