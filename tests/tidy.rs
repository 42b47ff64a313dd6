//! Rules about the code itself. What is read here is text: a rule that needs more than that
//! belongs to clippy.
#![expect(
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "places are those of ASCII that was found; what cannot be read fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each top-level module of the crate may import, in the order of the data path. Nothing
/// here may be imported in a circle. `crate::<module>` of whatever is not listed is refused, and
/// so is a module without a line here.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // The words.
    ("model", &[]),
    ("status", &["model"]),
    ("progress", &["model"]),
    ("redis", &["model"]),
    // The words of the configuration are those of the hello: the two sites compare them.
    ("config", &["model", "redis"]),
    // The way of the data. What has been read goes into the table of recent writes and into the
    // journal, which is all that intake knows of what follows it.
    ("replica", &["model", "redis"]),
    ("rdb", &["model"]),
    ("command", &["model", "redis", "rdb"]),
    ("journal", &["model"]),
    ("converge", &["model", "command"]),
    (
        "intake",
        &[
            "model", "redis", "status", "progress", "replica", "rdb", "command", "converge",
            "journal",
        ],
    ),
    ("link", &["model", "rdb", "status", "progress", "config"]),
    (
        "apply",
        &[
            "model", "redis", "status", "progress", "config", "rdb", "command", "converge",
            "journal", "intake", "link",
        ],
    ),
    // What the applier is owed, the answering side must not give away: it shares its debts.
    (
        "fullsync",
        &[
            "model", "redis", "progress", "replica", "rdb", "command", "converge", "intake",
            "link", "apply",
        ],
    ),
    (
        "peer",
        &[
            "model", "redis", "status", "progress", "config", "replica", "journal", "converge",
            "intake", "link", "apply", "fullsync",
        ],
    ),
    // Around it.
    ("precheck", &["model", "redis", "config", "journal", "link"]),
    ("metrics", &["model", "status"]),
    // It hands an operator's order to repair keys to the applier, by the docket.
    ("admin", &["model", "status", "metrics", "converge"]),
    ("logging", &[]),
    ("demo", &["status"]),
    ("verify", &["model", "redis", "config", "rdb", "admin"]),
    (
        "cli",
        &[
            "model", "logging", "status", "config", "admin", "redis", "verify",
        ],
    ),
    ("app", ANY),
    ("main", ANY),
    ("lib", &[]),
];

/// Only for those that put the parts together.
const ANY: &[&str] = &["*"];

/// The longest file of `src` and `benches`, in lines: what a reader can hold in mind.
const MAX_LINES: usize = 600;

/// Names that say nothing, and so attract everything.
const VAGUE: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc"];

struct File {
    /// From the top of the repository, with `/`.
    path: String,
    text: String,
}

impl File {
    /// Its top-level module: `src/link/frame.rs` and `src/link.rs` are both of `link`.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below
            .split('/')
            .next()
            .unwrap_or(below)
            .trim_end_matches(".rs")
    }

    /// Its lines of code, with their numbers: comments and what is quoted in them left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = (1..).zip(self.text.lines());
        lines.map(|(number, line)| (number, line.split("//").next().unwrap_or(line)))
    }
}

#[test]
fn modules_import_only_what_stands_before_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let known: BTreeSet<&str> = allowed.keys().copied().collect();
    let mut wrong = Vec::new();
    for file in files("src") {
        let module = file.module();
        let Some(may) = allowed.get(module) else {
            wrong.push(format!(
                "{}: say in MAY_IMPORT what {module} may import",
                file.path
            ));
            continue;
        };
        if *may == ANY {
            continue;
        }
        for (number, imported) in imports(&file) {
            let fine = imported == module || may.contains(&imported.as_str());
            // What is no module is a macro or an item of the crate's root.
            if !fine && known.contains(imported.as_str()) {
                wrong.push(format!(
                    "{}:{number}: {module} imports {imported}",
                    file.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_allowed_imports_have_no_circle() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    assert_eq!(allowed.len(), MAY_IMPORT.len(), "a module is listed twice");
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let bound = |may: &[&str]| may != ANY;
    while done.len() < allowed.len() {
        let ready: Vec<&str> = allowed
            .iter()
            .filter(|(module, may)| {
                !done.contains(*module)
                    && (!bound(may) || may.iter().all(|imported| done.contains(imported)))
            })
            .map(|(module, _)| *module)
            .collect();
        let left = || {
            allowed
                .keys()
                .filter(|m| !done.contains(*m))
                .collect::<Vec<_>>()
        };
        assert!(
            !ready.is_empty(),
            "a circle, or an unknown module, among {:?}",
            left()
        );
        done.extend(ready);
    }
}

#[test]
fn files_are_short() {
    let all = files("src").into_iter().chain(files("benches"));
    let long = all.map(|file| (file.text.lines().count(), file.path));
    let long: Vec<_> = long.filter(|(lines, _)| *lines > MAX_LINES).collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines: {long:?}");
}

#[test]
fn nothing_is_left_over() {
    // Put together here, so that this file does not find itself.
    let leftovers = [
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["dbg", "!("].concat(),
        ["#[ig", "nore"].concat(),
    ];
    let mut found = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(files) {
        for (number, line) in file.code() {
            let bad = leftovers.iter().filter(|l| line.contains(l.as_str()));
            found.extend(bad.map(|l| format!("{}:{number}: {l}", file.path)));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn names_say_something() {
    let vague = |path: &str| {
        let mut parts = path.split('/');
        parts.any(|part| VAGUE.contains(&part.trim_end_matches(".rs")))
    };
    let all = ["src", "tests", "benches"].into_iter().flat_map(files);
    let found: Vec<String> = all.map(|f| f.path).filter(|p| vague(p)).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// A file that no `mod` names is not compiled, and rots.
#[test]
fn every_file_is_declared() {
    let all = files("src");
    let mut declared: BTreeSet<String> =
        BTreeSet::from(["src/lib.rs", "src/main.rs"].map(String::from));
    for file in &all {
        let (directory, name) = file.path.rsplit_once('/').unwrap_or_default();
        let directory = match name {
            "mod.rs" | "lib.rs" | "main.rs" => directory.to_owned(),
            _ => file.path.trim_end_matches(".rs").to_owned(),
        };
        for (_, line) in file.code() {
            if let Some(module) = declared_module(line) {
                declared.insert(format!("{directory}/{module}.rs"));
                declared.insert(format!("{directory}/{module}/mod.rs"));
            }
        }
    }
    let dead = all.into_iter().map(|f| f.path);
    let dead: Vec<String> = dead
        .filter(|p| !declared.contains(p) && !p.starts_with("src/bin/"))
        .collect();
    assert!(dead.is_empty(), "no mod declares {dead:?}");
}

#[test]
fn the_readme_names_both_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for target in ["demo", "test"] {
        assert!(readme.contains(&format!("make {target}")), "make {target}");
        assert!(makefile.contains(&format!("\n{target}:")), "{target}:");
    }
}

#[test]
fn imports_and_modules_are_recognised() {
    let file = File {
        path: "src/link/frame.rs".to_owned(),
        text: "use crate::model::Hlc;\n\
               use crate::{journal::Segment, status};\n\
               // crate::apply is only mentioned\n\
               let x = crate::redis::open();\n"
            .to_owned(),
    };
    assert_eq!(file.module(), "link");
    let found: Vec<String> = imports(&file).into_iter().map(|(_, m)| m).collect();
    assert_eq!(found, ["model", "journal", "status", "redis"]);
    assert_eq!(declared_module("pub(crate) mod frame;"), Some("frame"));
    assert_eq!(declared_module("mod tests {"), None);
}

/// The top-level modules that a file names after `crate::`, with the lines where it does.
fn imports(file: &File) -> Vec<(usize, String)> {
    let word = |text: &str| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
        text.get(..end).unwrap_or_default().to_owned()
    };
    // A list in braces may go on over lines: the whole text is searched, comments blanked.
    let text: String = file.code().map(|(_, line)| format!("{line}\n")).collect();
    let mut found = Vec::new();
    for (at, prefix) in text.match_indices("crate::") {
        let number = text[..at].matches('\n').count() + 1;
        let rest = &text[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => found.push((number, word(rest))),
            Some(list) => {
                let mut depth = 0_usize;
                let mut first = true;
                for (start, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => first = true,
                        c if first && !c.is_whitespace() => {
                            found.push((number, word(&list[start..])));
                            first = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// The module that a line declares to be in a file of its own.
fn declared_module(line: &str) -> Option<&str> {
    let line = line.trim().strip_suffix(';')?;
    let at = line.find("mod ")?;
    let (visibility, name) = line.split_at(at);
    let visible = visibility.trim().is_empty() || visibility.trim_start().starts_with("pub");
    visible.then(|| name["mod ".len()..].trim())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a directory of the repository.
fn files(below: &str) -> Vec<File> {
    let mut found = Vec::new();
    collect(&root().join(below), &mut found);
    assert!(!found.is_empty(), "no file below {below}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(directory: &Path, found: &mut Vec<File>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap();
            let path = path.to_str().unwrap().to_owned();
            found.push(File { path, text });
        }
    }
}
