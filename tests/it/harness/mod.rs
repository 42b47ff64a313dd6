//! What the tests are made of: real servers and sidecars, wires that fail on request, an
//! independent client, and the judges that say whether two sites are equal.

pub(crate) mod client;
pub(crate) mod clock_fault;
pub(crate) mod compare;
pub(crate) mod disk_fault;
pub(crate) mod fault;
pub(crate) mod interpose;
pub(crate) mod load;
pub(crate) mod mesh;
pub(crate) mod pair;
pub(crate) mod ports;
pub(crate) mod preload;
pub(crate) mod sentinel;
pub(crate) mod server;
pub(crate) mod sidecar;
pub(crate) mod tap;
pub(crate) mod wait;

pub(crate) use client::Client;
pub(crate) use compare::compare;
pub(crate) use disk_fault::{DiskFault, Fault, Point};
pub(crate) use fault::FaultProxy;
pub(crate) use interpose::{Interposer, Verdict};
pub(crate) use mesh::Mesh;
pub(crate) use pair::{Dial, Options, Pair, Site};
pub(crate) use sentinel::Group;
pub(crate) use server::Server;
pub(crate) use sidecar::Sidecar;
pub(crate) use tap::Tap;
pub(crate) use wait::{patience, rng_from_seed, wait_for, wait_until};
