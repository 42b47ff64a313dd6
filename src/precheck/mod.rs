//! What must hold before.

use crate::config::Config;

/// Checks.
pub async fn run(_config: &Config) -> bool {
    false
}
