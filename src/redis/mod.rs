//! A small client: connect, authenticate, send bytes, read replies.

mod clock;
mod connection;
mod info;
mod lease;
mod notifications;
mod reply;
mod sentinel;
mod settings;

pub use self::clock::ServerClock;
pub use self::connection::{Connection, Error, READ_SIZE, put_arg, put_command, put_head};
pub use self::info::{Info, OLDEST, Version};
pub use self::lease::{LEASE, LOOK, Lease, LeaseKeeper, Standing, connection_name};
pub use self::notifications::tells_evictions;
pub use self::reply::{MalformedReply, Reply, ReplyScanner};
pub use self::sentinel::{Role, Sentinels};
pub use self::settings::{Address, Login, Password, PasswordError, Settings, UrlError};
