//! How badly a site needs the state of a key from another.

/// From the least to the greatest: of two sites that ask each other, the one with the greater need
/// gets the other's value first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Need {
    /// It has everything, unless the key has a time to live at the other site.
    Doubts = 0,
    /// It has everything, in the wrong order.
    Wrong = 1,
    /// Something may not be there: how commands went is not known.
    Unsure = 2,
    /// Something is not there: a command failed.
    Lacks = 3,
}

impl Need {
    /// All of them.
    const ALL: [Self; 4] = [Self::Doubts, Self::Wrong, Self::Unsure, Self::Lacks];

    /// From a number; none when it means nothing.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|need| *need as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        for need in Need::ALL {
            assert_eq!(Need::of(need as u8), Some(need));
        }
        assert_eq!(Need::of(4), None);
    }
}
