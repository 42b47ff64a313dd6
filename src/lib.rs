//! Tandem keeps Redis servers in two-way sync: one sidecar beside each server, unmodified servers.
//!
//! To its own Redis a sidecar is a replica, which reads everything that is written, and a client,
//! which writes what the others have read. Between two sidecars there is one link.
//!
//! ```text
//!          site a                                                      site b
//!  ┌────────────────────┐                                      ┌────────────────────┐
//!  │     Redis of a     │                                      │     Redis of b     │
//!  └─┬────────────────▲─┘                                      └─▲────────────────┬─┘
//!    │ stream         │ MULTI, mark, commands, EXEC              │         stream │
//!    ▼                │                                          │                ▼
//!  replica, rdb     apply ◄── queue ◄── link ◄── peer ─┐    ┌─► apply        replica, rdb
//!    │                                                 │    │                     │
//!    ▼                                                 │    │                     ▼
//!  intake ──► journal ──► peer ──► link ───────────────┼────┘                  intake
//!    │                     ▲                           │                          │
//!    ▼                     │ states in their place     └── link ◄── peer ◄── journal
//!  converge ◄────────── fullsync
//!  (asked by apply)
//! ```
//!
//! # The words
//!
//! * **Site**: one Redis and its sidecar. **Peer**: another site. ([`model`])
//! * **Epoch**: one history of a Redis, from one full resync to the next. A **cursor** is a place
//!   in it: the epoch, and the offset in the replication stream.
//! * **Record**: one transaction of a client, as it stands in the stream. Its **tag** says what of
//!   each peer had come back here before it: what its writer can have seen.
//! * **Mark**: a key in the local Redis that says up to which cursor the records of one peer are
//!   applied. It is our position with that peer; there is no other. The **self mark** says how much
//!   of its own history the data holds.
//! * **Echo**: what we wrote for a peer, come back in our stream. The mark in its transaction tells
//!   it apart, so it is not sent back; it says what has now been *seen*.
//! * **Canonical form**: how a command travels, free of relative times and conditions. **Dialect**: how
//!   an older server is told the same, or that it needs the key's state instead. ([`command`])
//! * **State**: the whole value of a key, or that there is none. A **copy** is the states of all
//!   keys, from a snapshot. A **debt** is one state that a peer owes us, because its last one was
//!   refused or a command of it failed here.
//! * **Third site**: one that is neither this nor the peer in question. **Causes** of a record: what of
//!   third sites must be applied before it. **Arbiter**: of three sites and more the first by name, whose
//!   value of a key in conflict all end with ([`converge::Claims`]).
//! * **Gate**: holds records back while a state is being read ([`fullsync`]). **Guard**: lets a
//!   state in only if nothing that it has not seen is here ([`apply`]). **Fence**: a key that we
//!   set to learn its place in the stream.
//!
//! # What always holds
//!
//! 1. *Journal before anybody hears.* What was read is in the [`journal`] before a peer or the
//!    local Redis hears that it was. `appended ≥ durable`: forcing to the disk follows once a
//!    second, and what a lost machine had not forced is read from Redis again, at the same offsets.
//!    `appended ≥ sent ≥ acknowledged ≥ applied`, per peer.
//! 2. *The mark commits with the data.* One MULTI holds the mark and the commands, so that a record
//!    is applied exactly once, whatever crashes: at or below the mark it is skipped.
//! 3. *One transaction in flight per peer.* With two, the first could be refused and the second
//!    executed: its mark would say that the first was applied too.
//! 4. *Tags in order.* What a peer has seen of us reaches [`converge`] in its place in the peer's
//!    stream, by way of the applier: no record that had not seen a write is judged as if it had.
//! 5. *A state never destroys a write that it has not seen.* The guard watches the keys, waits
//!    until the stream has come past a fence, and asks the table of recent writes. If it is not
//!    sure, it refuses the state and owes itself a later one.
//! 6. *Reading a state to send it counts as a write of its key.* Otherwise two sites, each taking
//!    the other's state, would swap their values.
//! 7. *No record passes a state that was read before it.* The gate is closed from before the read
//!    until the state is in the peer's stream, behind all records up to its place; what we say we
//!    have seen stands still as long.
//! 8. *Causes before effects.* A record of a peer is applied when what its writer had seen of third sites
//!    is here.
//! 9. *No state is read between a transaction and what follows from its errors.* It would say that it
//!    has seen records, and lack what is still to be done for them. Until that is done the peer keeps
//!    the records, and after a crash sends them once more: their keys are then asked for.
//!
//! # Epochs
//!
//! When Redis begins a new history, [`intake`] asks the self mark how its data relates to the
//! journal. Either it holds everything that was journaled, and perhaps more: the epoch is a new
//! **base**, and a peer whose data rests on an earlier one has a **gap**, which only a copy from
//! here closes. Or it is **older**: it lacks writes that peers have, and needs a copy from each of
//! them before it is whole again. A copy also begins what has no history in common, and replaces
//! records that the journal no longer has. Both sides of a link make the same plan of the two
//! hellos ([`link`]); a copy that is interrupted goes on where the mark says.
//!
//! A copy tells what is there, not what is gone. A key that the peer's copy brings and that is not here
//! was deleted here, while nobody read, if the peer has not written it since we had all of its keys, and
//! if nothing can have been lost here since: the same process, in the same history. Then it is not
//! taken, and its name goes into our own stream, in the marked transaction, where [`intake`] reads it as
//! a client's delete. What is not certain comes back, and is counted.
//!
//! # Evictions
//!
//! A server streams what it evicts as a DEL, like a client's. Where evictions are to stay at their site, the
//! intake tells the two apart by what the server publishes of them, and by fences, published by us, that
//! stand in both: a delete waits for that, and what stands behind it. In doubt it travels. A key that was
//! evicted here alone is fetched whole when it is written again in part. ([`intake`], [`converge`])
//!
//! # Tasks
//!
//! | task | owns | ends with |
//! |---|---|---|
//! | intake | replica connection, decoder, clock, the journal's writer | the journal synced |
//! | peer, one each | the session, the applier and its connection | its transaction, or none of it |
//! | self mark's keeper | a connection | nothing to finish |
//! | evictions' listener, if they are to stay | two connections: one hears, one publishes fences | nothing to finish |
//! | journal's syncing | nothing; forces and shows once a second | nothing to finish |
//! | the lease's keeper | a connection that says PING | the last but admin: who stands by takes over then |
//! | listener | the link's port; a short task per greeting | nothing to finish |
//! | admin | a thread and a runtime of its own | the last of all |
//!
//! A session of a [`peer`] runs the applier and, beside it, four more futures in the same task:
//! reading the link, writing it, copying, answering requests for states. They end together.
//! Between reading and applying is the one queue bounded in bytes; everything else that parts tell
//! each other is a position, of which only the newest value counts ([`progress`]). A task that ends
//! unasked ends the process.
//!
//! Of several sidecars of a site one works: it has the lease ([`redis::Lease`]), without which nobody opens
//! a connection to write on. The others stand by: [`app`] opens the journal only with the lease.
//!
//! # From outside
//!
//! [`verify`] compares what sites hold. It is no part of a sidecar, and knows nothing of the data path: so
//! it does not repeat its mistakes. What differs it has the sidecars mend, by an order to [`admin`] which
//! takes the way of a conflict.
//!
//! # The end
//!
//! [`app`] waits, for a few seconds at most, until the peers that are linked have applied what was
//! read. Then everybody is told to stop: a transaction under way is given up, for the mark will say
//! what became of it; the intake forces the journal to the disk. The admin thread stops last, so
//! that the end can be watched.

pub mod model;
pub mod redis;
pub mod replica;
pub mod rdb;
pub mod command;
pub mod journal;
pub mod converge;
pub mod intake;
pub mod link;
pub mod apply;
pub mod fullsync;
pub mod peer;
pub mod progress;
pub mod status;
pub mod config;
pub mod precheck;
pub mod admin;
pub mod metrics;
pub mod logging;
pub mod verify;
pub mod cli;
pub mod demo;
pub mod app;
