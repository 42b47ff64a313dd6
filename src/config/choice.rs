//! The words that stand for choices in the file.

use std::fmt;

use super::{
    Acknowledge, Compression, Evictions, Existing, Flush, Fsync, Initial, Publish, WhenFull,
};

/// Says which word means what, both ways.
macro_rules! words {
    ($choice:ident: $($word:literal is $variant:ident),+) => {
        impl $choice {
            pub(super) const WORDS: &[(&str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl fmt::Display for $choice {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word),+
                })
            }
        }
    };
}

words!(Initial: "auto" is Auto, "send" is Send, "receive" is Receive, "none" is None);
words!(Existing: "refuse" is Refuse, "overwrite" is Overwrite, "keep" is Keep);
words!(Flush: "forward" is Forward, "ignore" is Ignore, "stop" is Stop);
words!(Publish: "forward" is Forward, "ignore" is Ignore);
words!(Evictions: "forward" is Forward, "keep_local" is KeepLocal);
words!(Acknowledge: "journal" is Journal, "peers" is Peers);
words!(Compression: "none" is None, "zstd" is Zstd);
words!(Fsync: "always" is Always, "everysec" is Everysec, "no" is No);
words!(WhenFull: "full_sync" is FullSync, "stop_reading" is StopReading);
