//! `POST /repair?peer=NAME`: an operator knows that the values of some keys are wrong here, and right
//! at a peer.
//!
//! The body is JSON, `[{"db":0,"key":"<hexadecimal>"}]`. The keys go the way of those that the judge
//! has found to be wrong: the applier asks the peer for their states, and guards that none of them
//! destroys a write that it has not seen.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::converge::Docket;
use crate::model::{Key, SiteId, is_reserved};

/// The most keys of one order: what the applier asks the peer for at once is of that size.
pub const MAX_REPAIR_KEYS: usize = 1000;

/// The largest body, in bytes: as many keys with names of a length that is usual, or a few long ones.
pub const MAX_REPAIR_BODY: usize = 1 << 20;

/// Who takes orders, per peer; by default nobody does.
#[derive(Clone, Debug, Default)]
pub struct Repairs(Option<Arc<BTreeMap<SiteId, Docket>>>);

/// A key in an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairKey {
    /// Its database.
    pub db: u32,
    /// Its name, in hexadecimal digits.
    pub key: String,
}

impl RepairKey {
    /// Of a key.
    #[must_use]
    pub fn new(db: u32, name: &[u8]) -> Self {
        let key = name.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { db, key }
    }

    /// The key; none when it is no name, or one of ours.
    fn key(&self) -> Option<Key> {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let (pairs, rest) = self.key.as_bytes().as_chunks();
        let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(high)? * 16 + digit(low)?).ok();
        let name: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        let name = name.filter(|name| rest.is_empty() && !is_reserved(name))?;
        Some((self.db, Bytes::from(name)))
    }
}

impl Repairs {
    /// Orders go to the appliers of these peers.
    #[must_use]
    pub const fn taken_by(dockets: Arc<BTreeMap<SiteId, Docket>>) -> Self {
        Self(Some(dockets))
    }

    fn order(&self, uri: &Uri, body: Result<Vec<RepairKey>, String>) -> (StatusCode, String) {
        let Some(dockets) = &self.0 else {
            let message = "others than this machine reach this port; repair from this machine with \
                           listen = \"127.0.0.1:9480\", or set allow_repair = true in [admin]";
            return (StatusCode::FORBIDDEN, format!("{message}\n"));
        };
        let bad = |message: String| (StatusCode::BAD_REQUEST, format!("{message}\n"));
        let options = uri.query().unwrap_or_default().split('&');
        let peer = options.into_iter().find_map(|o| o.strip_prefix("peer="));
        let site = SiteId::try_new(peer.unwrap_or_default()).ok();
        let Some((site, docket)) = site.and_then(|site| dockets.get_key_value(&site)) else {
            return bad("not a peer of this site; write /repair?peer=NAME".to_owned());
        };
        let keys = match body {
            Ok(keys) => keys,
            Err(message) => return bad(message),
        };
        if keys.len() > MAX_REPAIR_KEYS {
            return bad(format!(
                "more than {MAX_REPAIR_KEYS} keys; send fewer at once"
            ));
        }
        let keys: Option<Vec<Key>> = keys.iter().map(RepairKey::key).collect();
        let Some(keys) = keys else {
            let what = "a key is not in hexadecimal digits, or one of Tandem's own";
            return bad(format!("{what}; nothing was asked for"));
        };
        let count = keys.len();
        if !docket.ask_for(keys) {
            let message = format!("too many keys wait for {site} already; is the link up?\n");
            return (StatusCode::SERVICE_UNAVAILABLE, message);
        }
        let message = format!("{site} will be asked for {count} keys\n");
        (StatusCode::ACCEPTED, message)
    }
}

/// The route. A web page that a person of this machine looks at cannot use it: JSON from elsewhere
/// needs a consent that is not given here.
pub(super) fn route(repairs: Repairs) -> Router {
    let order = move |uri: Uri, body: Result<axum::Json<Vec<RepairKey>>, JsonRejection>| {
        let body = body.map(|json| json.0).map_err(|e| e.body_text());
        ready(repairs.order(&uri, body))
    };
    let limit = DefaultBodyLimit::max(MAX_REPAIR_BODY);
    Router::new().route("/repair", post(order).layer(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> (Repairs, Docket) {
        let docket = Docket::default();
        let site = SiteId::try_new("b").unwrap();
        let dockets = BTreeMap::from([(site, docket.clone())]);
        (Repairs::taken_by(Arc::new(dockets)), docket)
    }

    fn order(repairs: &Repairs, path: &str, keys: Vec<RepairKey>) -> u16 {
        let uri: Uri = path.parse().unwrap();
        repairs.order(&uri, Ok(keys)).0.as_u16()
    }

    #[test]
    fn keys_reach_the_applier_of_the_peer() {
        let (repairs, docket) = peers();
        let key = RepairKey::new(3, b"k\xff");
        assert_eq!(key.key, "6bff");
        assert_eq!(order(&repairs, "/repair?peer=b", vec![key]), 202);
        assert_eq!(docket.take_asked(), [(3, Bytes::from_static(b"k\xff"))]);
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let (repairs, docket) = peers();
        let key = || RepairKey::new(0, b"k");
        assert_eq!(order(&Repairs::default(), "/repair?peer=b", vec![]), 403);
        assert_eq!(order(&repairs, "/repair?peer=c", vec![key()]), 400);
        assert_eq!(order(&repairs, "/repair", vec![key()]), 400);
        let too_many = vec![key(); MAX_REPAIR_KEYS + 1];
        assert_eq!(order(&repairs, "/repair?peer=b", too_many), 400);
        for bad in ["6", "6x", &RepairKey::new(0, b"tandem:self").key] {
            let key = RepairKey {
                db: 0,
                key: bad.to_owned(),
            };
            assert_eq!(order(&repairs, "/repair?peer=b", vec![key]), 400, "{bad}");
        }
        assert!(docket.take_asked().is_empty());
    }
}
