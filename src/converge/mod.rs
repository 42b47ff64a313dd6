//! Two sites write one key at the same time: who notices, and what becomes of it. No I/O.
//!
//! The stream of the local Redis holds our own writes and the echoes of a peer's records in the one
//! order in which they took effect here. So what is concurrent is known exactly: a record of the
//! peer and a write of ours before its echo, of which the record's tags say that it had not been
//! seen. The peer finds the same pairs. If the two commute, nothing needs to be done. If not, the
//! sites have executed them in different orders, and one of these is the right one:
//!
//! * **Rank**: a delete comes before any other write; then the stamp decides, then the name of the
//!   site. Where the local order is not that of the ranks, the value here is wrong, and the peer's is
//!   right: a [wish](Docket) for the key's state at the peer goes out. Exactly one of the two sites
//!   finds so about each pair.
//! * **Late delete**: against a change of the time to live, or against a rename, a delete yields: who
//!   has deleted wishes for the key. So a key that is renewed at one site while it expires at the
//!   other survives.
//! * **What is made of a wrong value is wrong**: keys that were written from the key (COPY, RENAME,
//!   SUNIONSTORE …) are wished for too, whoever wrote them, until its right value has come.
//! * **Evicted here**: a key that this server has evicted, and the peers have not, is not a conflict. When
//!   it is written again in part, here or there, its whole value is wished for.
//!
//! * **Third sites**: a site that has written nothing executes the writes of two others in some order, too.
//!   So it remembers the writes of every peer until all others have seen them ([`Foreign`]), and judges each
//!   record against those of all sites. As no order need be right anywhere, one site has the last word
//!   ([`Claims`]).
//!
//! The state that is wished for takes the place of all that was written here and there up to where
//! it was read; what it had not seen of ours is written again on top of it. That is the applier's
//! part, and so is that a state never destroys what it has not seen.

mod claims;
mod clash;
mod docket;
mod evicted;
mod foreign;
mod judge;
mod log;
mod reading;
mod recent;
mod table;

pub use self::claims::Claims;
pub use self::clash::Clash;
pub use self::docket::{Docket, Filed, Settled, Why, Wish};
pub use self::foreign::Foreign;
pub use self::judge::{Judge, Overrun, Verdicts};
pub use self::reading::Reading;
pub use self::table::Table;
