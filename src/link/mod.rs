//! The link: one connection per pair of sites, carrying both directions.

mod hello;
mod message;
mod pack;
mod plan;
mod question;
mod sequence;
mod queue;
mod state;
mod wire;

pub use self::hello::Hello;
pub use self::message::{
    Ack, CopyBegin, CopyStates, MAX_KEYS, Message, MessageError, OwedStates, Records,
};
pub use self::plan::{Copy, Flow, Plan, back_keeps, plan, restores};
pub use self::question::Question;
pub use self::queue::{Receiver, Sender, Waiting, queue};
pub use self::state::{Bundle, Standing, State, Value};
pub use self::wire::{Error, Reader, Sent, Wire, Writer};
