//! What is wrong with a configuration: all of it at once, one line each.

use std::fmt;
use std::path::{Path, PathBuf};

/// Everything that is wrong with a configuration. Shown as one line for each mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    path: PathBuf,
    /// In the order of the file, then the environment.
    mistakes: Vec<Mistake>,
}

/// Where a value stands, or where a missing one should stand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Somewhere in the file.
    File,
    /// A line of the file; the first is 1.
    Line(usize),
    /// A variable of the environment.
    Variable(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mistake {
    place: Place,
    /// `section.key`; empty when the file as a whole is meant.
    key: String,
    /// What is wrong, a semicolon, what to do. Never a secret.
    message: String,
}

impl Errors {
    pub(super) fn new(path: &Path, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort();
        Self {
            path: path.to_owned(),
            mistakes,
        }
    }
}

impl Mistake {
    pub(super) fn new(place: Place, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place,
            key: key.into(),
            message: message.into(),
        }
    }

    /// Whether it is about this section or key as a whole.
    pub(super) fn is_about(&self, key: &str) -> bool {
        self.key == key
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.path.display();
        for (i, mistake) in self.mistakes.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            match &mistake.place {
                Place::File => write!(f, "{file}: ")?,
                Place::Line(line) => write!(f, "{file}:{line}: ")?,
                Place::Variable(name) => write!(f, "{name}: ")?,
            }
            if !mistake.key.is_empty() {
                write!(f, "{}: ", mistake.key)?;
            }
            f.write_str(&mistake.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
