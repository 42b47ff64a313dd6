//! Libraries that are loaded into one process before the C library, and do what a file tells them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A library, built, and its control file.
pub(crate) struct Preload {
    dir: TempDir,
    /// The variable that tells it where the file is.
    variable: &'static str,
}

impl Preload {
    /// Builds it with the C compiler that the linker of Rust needs anyway.
    pub(crate) fn build(source: &str, variable: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("fault.c");
        fs::write(&file, source).expect("write the source");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(dir.path().join("fault.so"))
            .arg(&file)
            .arg("-ldl")
            .status()
            .expect("cc runs");
        assert!(built.success(), "{built}");
        Self { dir, variable }
    }

    /// Variables of the process that is to have it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", self.dir.path().join("fault.so")),
            (self.variable, self.control()),
        ]
    }

    /// What it does from now on. The file is replaced at once, so that nobody reads half of it.
    pub(crate) fn say(&self, text: &str) {
        let new = self.control().with_extension("new");
        fs::write(&new, text).expect("write the control file");
        fs::rename(&new, self.control()).expect("replace the control file");
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }
}
