//! A small client for the local Redis.

mod settings;

pub use self::settings::{Address, Password, PasswordError, Settings, UrlError};
