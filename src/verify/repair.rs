//! Mending what differs: the sites whose values are wrong are told, and fetch the right ones from the
//! peer that has them, the way they mend conflicts themselves. So no write is lost that is done
//! meanwhile.

use std::time::Duration;

use tokio::time::sleep;

use super::compare::settle;
use super::progress::Progress;
use super::recheck::{Found, Suspect};
use super::site::{Error, Site};
use crate::admin::{MAX_REPAIR_BODY, MAX_REPAIR_KEYS, RepairKey, client};

/// A site whose values are wrong.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Where its sidecar takes orders.
    pub url: String,
}

/// What a key takes in an order besides its name in hexadecimal digits: more than the rest of its
/// JSON can have.
const KEY_OVERHEAD: usize = 40;

/// The shortest time that mended keys get to become equal: states are asked for, read and sent in
/// portions.
const MENDING: Duration = Duration::from_secs(30);

/// How often an order is tried that the sidecar has no room for, and the pause between.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Has these keys fetched from the site of this name, and waits; gives those that still differ, and
/// what went wrong.
///
/// # Errors
/// A site cannot be read.
pub async fn repair(
    sites: &mut [Site],
    right: &str,
    targets: &[Target],
    found: &[Found],
    patience: Duration,
) -> Result<(Vec<Found>, Vec<String>), Error> {
    let mut complaints = Vec::new();
    for target in targets {
        for order in orders(found) {
            if let Err(complaint) = send(target, right, &order).await {
                complaints.push(complaint);
                break;
            }
        }
    }
    let suspects = found.iter().map(|f| Suspect::new(f.db, f.key.clone()));
    let patience = match complaints.len() == targets.len() {
        // Nobody mends anything.
        true => Duration::ZERO,
        false => patience.max(MENDING),
    };
    let mut progress = Progress::default();
    let left = settle(sites, suspects.collect(), patience, &mut progress).await?;
    progress.end();
    Ok((left, complaints))
}

/// The keys in orders that a sidecar takes. A key that is too long for any is left out.
fn orders(found: &[Found]) -> Vec<Vec<RepairKey>> {
    let mut orders: Vec<Vec<RepairKey>> = Vec::new();
    let mut size = MAX_REPAIR_BODY;
    for found in found {
        let more = 2 * found.key.len() + KEY_OVERHEAD;
        if more >= MAX_REPAIR_BODY {
            continue;
        }
        size += more;
        if size >= MAX_REPAIR_BODY || orders.last().is_none_or(|o| o.len() >= MAX_REPAIR_KEYS) {
            orders.push(Vec::new());
            size = more;
        }
        if let Some(order) = orders.last_mut() {
            order.push(RepairKey::new(found.db, &found.key));
        }
    }
    orders
}

async fn send(target: &Target, right: &str, order: &[RepairKey]) -> Result<(), String> {
    let failed = |why: String| format!("cannot have {} repair its keys: {why}", target.name);
    let json = serde_json::to_string(order).map_err(|e| failed(e.to_string()))?;
    let path = format!("/repair?peer={right}");
    let mut attempts = 0;
    loop {
        let (url, path, json) = (target.url.clone(), path.clone(), json.clone());
        let asking = tokio::task::spawn_blocking(move || client::post(&url, &path, &json));
        let answer = asking.await.map_err(|e| failed(e.to_string()))?;
        let answer = answer.map_err(|e| failed(e.to_string()))?;
        attempts += 1;
        match answer.status {
            202 => return Ok(()),
            503 if attempts < ATTEMPTS => sleep(PAUSE).await,
            404 => return Err(failed("its tandem is of an older release".to_owned())),
            _ => return Err(failed(answer.body.trim_end().to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::verify::entry::Difference;

    fn found(length: usize) -> Found {
        Found {
            db: u32::MAX,
            key: Bytes::from(vec![b'k'; length]),
            difference: Difference::Missing(vec![0]),
            is_written: false,
        }
    }

    #[test]
    fn orders_are_such_as_a_sidecar_takes() {
        for (length, count) in [(10, 3500), (1000, 3000), (MAX_REPAIR_BODY / 2 - 40, 3)] {
            let all = vec![found(length); count];
            let orders = orders(&all);
            assert_eq!(orders.iter().map(Vec::len).sum::<usize>(), count);
            for order in orders {
                let size = serde_json::to_string(&order).unwrap().len();
                assert!(
                    size <= MAX_REPAIR_BODY && order.len() <= MAX_REPAIR_KEYS,
                    "{size}"
                );
            }
        }
        assert!(orders(&[found(MAX_REPAIR_BODY)]).is_empty());
    }
}
