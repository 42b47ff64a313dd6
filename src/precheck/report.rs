//! What is printed: lines, counted, and a summary.

use std::fmt;
use std::io::Write;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// As it should be.
    Pass,
    /// Tandem works, and a person should know something.
    Warn,
    /// Tandem would not work.
    Fail,
    /// Not checked.
    Skip,
}

/// One check: `level  name: what was found; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    level: Level,
    /// What was checked.
    name: String,
    /// What was found; of a skipped check, why it was not made.
    found: String,
    /// What to do; empty when there is nothing to do or `found` says it already.
    remedy: String,
}

impl Line {
    pub(super) fn pass(name: &str, found: impl Into<String>) -> Self {
        Self::new(Level::Pass, name, found, "")
    }

    pub(super) fn skip(name: &str, reason: impl Into<String>) -> Self {
        Self::new(Level::Skip, name, reason, "")
    }

    pub(super) fn warn(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warn, name, found, remedy)
    }

    pub(super) fn fail(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Fail, name, found, remedy)
    }

    fn new(level: Level, name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level,
            name: name.to_owned(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    #[cfg(test)]
    pub(super) const fn level(&self) -> Level {
        self.level
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Pass => "pass",
            Level::Warn => "warn",
            Level::Fail => "fail",
            Level::Skip => "skip",
        };
        write!(f, "{level}  {}: {}", self.name, plain(&self.found))?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", plain(&self.remedy))?;
        }
        Ok(())
    }
}

/// On one line and without control characters: servers and peers choose some of the words.
fn plain(text: &str) -> String {
    // The full stop of a server's message, before our semicolon.
    let shown = text.replace(".; ", "; ");
    let shown = shown.trim_end_matches(['\r', '\n', '.']);
    shown
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Prints lines as they come, so that a slow check shows what it follows, and counts them.
pub(super) struct Report {
    out: Box<dyn Write>,
    /// How many passed, warned, failed and were skipped.
    counts: [usize; 4],
}

impl Report {
    pub(super) fn new(out: impl Write + 'static) -> Self {
        Self {
            out: Box::new(out),
            counts: [0; 4],
        }
    }

    pub(super) fn add(&mut self, line: Line) {
        self.counts[line.level as usize] += 1;
        self.print(&line);
    }

    /// Prints the summary; true when nothing failed.
    pub(super) fn end(mut self) -> bool {
        let [passed, warned, failed, skipped] = self.counts;
        let verdict = match (failed, warned) {
            (0, 0) => "tandem can run here",
            (0, _) => "tandem can run here; read the warnings",
            _ => "tandem cannot work here yet; mend what failed and check again",
        };
        self.print(&format_args!(
            "{passed} passed, {warned} warned, {failed} failed, {skipped} skipped: {verdict}"
        ));
        failed == 0
    }

    fn print(&mut self, line: &dyn fmt::Display) {
        // A reader that has gone has seen enough; the exit code still tells.
        writeln!(self.out, "{line}").ok();
        self.out.flush().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// What a report has printed.
    #[derive(Clone, Default)]
    struct Printed(Rc<RefCell<Vec<u8>>>);

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn report(lines: &[Line]) -> (String, bool) {
        let printed = Printed::default();
        let mut report = Report::new(printed.clone());
        for line in lines {
            report.add(line.clone());
        }
        let is_good = report.end();
        (String::from_utf8(printed.0.take()).unwrap(), is_good)
    }

    #[test]
    fn each_line_says_what_was_found_and_what_to_do() {
        let lines = [
            Line::pass("role", "master"),
            Line::warn("memory", "nearly full", "give it more"),
            Line::skip("backlog", "INFO was refused"),
        ];
        let (text, is_good) = report(&lines);
        let expected = "pass  role: master\nwarn  memory: nearly full; give it more\n\
                        skip  backlog: INFO was refused\n\
                        1 passed, 1 warned, 0 failed, 1 skipped: tandem can run here; \
                        read the warnings\n";
        assert_eq!(text, expected);
        assert!(is_good, "a warning is no failure");
    }

    #[test]
    fn one_failure_fails_the_whole() {
        let (text, is_good) = report(&[Line::pass("a", "b"), Line::fail("c", "d", "e")]);
        assert!(!is_good);
        assert!(
            text.ends_with("mend what failed and check again\n"),
            "{text}"
        );
    }

    #[test]
    fn foreign_words_stay_on_their_line() {
        let line = Line::fail("login", "it said \u{1b}[31mNO\r\npass  all: fine.\r\n", "");
        assert_eq!(
            line.to_string(),
            "fail  login: it said  [31mNO  pass  all: fine"
        );
    }
}
