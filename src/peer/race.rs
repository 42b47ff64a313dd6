//! Parts of one task that are polled each by itself.

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

/// What the first part says that ends; the others end with it. Each is polled only when something wakes
/// itself. In `select!` all are polled whenever one of them is woken; those of a session wait for many
/// things each, and with a burst of records each of them is woken a few times.
pub(super) async fn first<T, const N: usize>(parts: [BoxFuture<'_, T>; N]) -> T {
    const { assert!(N > 0, "there is a part that ends") };
    let mut parts: FuturesUnordered<_> = parts.into_iter().collect();
    let ended = parts.next().await;
    ended.expect("there is a part, and each is asked until it ends")
}
