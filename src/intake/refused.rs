//! Writes that do not travel: counted, and told now and then.

use tracing::warn;

/// How many there were.
#[derive(Debug, Default)]
pub(super) struct Refused {
    trespasses: u64,
    not_selected: u64,
}

impl Refused {
    /// A client wrote to a reserved key.
    pub(super) fn on_trespass(&mut self, command: &[u8]) {
        self.trespasses += 1;
        if self.trespasses.is_power_of_two() {
            let command = String::from_utf8_lossy(command).into_owned();
            warn!(
                command,
                count = self.trespasses,
                "a client writes to keys that begin with tandem:, which are reserved; such writes do not travel"
            );
        }
    }

    /// A command could not be cut down to what is selected; how many there have been.
    pub(super) fn on_not_selected(&mut self, command: &[u8]) -> u64 {
        self.not_selected += 1;
        if self.not_selected.is_power_of_two() {
            let command = String::from_utf8_lossy(command).into_owned();
            warn!(
                command,
                count = self.not_selected,
                "a command touches selected keys and others and cannot be divided: it does not \
                 travel, and the keys that it wrote differ until they are written again"
            );
        }
        self.not_selected
    }
}
