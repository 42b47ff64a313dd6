//! The commands that read the configuration or ask a running tandem.

use std::io::{self, Write};
use std::path::Path;

use super::{ConfigFile, Exit, StatusArgs};
use crate::admin::{client, render};
use crate::config::{self, Config};
use crate::status::Status;

/// Reads the configuration; prints what is wrong with it.
///
/// # Errors
/// It is wrong, and what is wrong was printed.
pub fn load(path: &Path) -> Result<Config, Exit> {
    config::load(path).map_err(|errors| {
        print(&mut io::stderr(), &errors.to_string());
        Exit::Config
    })
}

/// Says on stderr what went wrong, causes included.
pub fn complain(error: &dyn std::error::Error) {
    let mut text = format!("tandem: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many of our errors name their cause themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    print(&mut io::stderr(), &text);
}

/// `tandem status`.
#[must_use]
pub fn status(args: &StatusArgs) -> Exit {
    match ask_status(args) {
        Ok(text) => print(&mut io::stdout(), &text),
        Err(exit) => exit,
    }
}

/// `tandem healthcheck`: whether the process answers. That Redis or a peer is away is no reason to
/// restart it. Docker knows 0 and 1 only, so every failure is 1.
#[must_use]
pub fn healthcheck(args: &ConfigFile) -> Exit {
    let alive = load(&args.config).and_then(|c| get(&client::url(c.admin.listen), "/livez"));
    alive.map_or(Exit::Failed, |_| Exit::Done)
}

fn ask_status(args: &StatusArgs) -> Result<String, Exit> {
    let url = match (&args.url, &args.config) {
        (Some(url), _) => url.clone(),
        (None, Some(path)) => client::url(load(path)?.admin.listen),
        (None, None) => return Err(failed("give --config or --url", Exit::Usage)),
    };
    let body = get(&url, "/status")?;
    if args.json {
        return Ok(body);
    }
    let status: Status = serde_json::from_str(&body).map_err(|error| {
        let message = format!("{url} sent no status that this version knows ({error}); try --json");
        failed(&message, Exit::Failed)
    })?;
    Ok(render::render(&status))
}

fn get(url: &str, path: &str) -> Result<String, Exit> {
    let answer = client::get(url, path).map_err(|error| match error {
        client::Error::Url(_) => failed(&error.to_string(), Exit::Usage),
        _ => failed(&error.to_string(), Exit::Failed),
    })?;
    if answer.status != 200 {
        let message = format!("{url}{path} answered {}", answer.status);
        return Err(failed(&message, Exit::Failed));
    }
    Ok(answer.body)
}

pub(super) fn failed(message: &str, exit: Exit) -> Exit {
    print(&mut io::stderr(), &format!("error: {message}"));
    exit
}

/// Not `println!`, which panics when the reader has gone (`tandem status | head -1`).
pub(super) fn print(out: &mut impl Write, text: &str) -> Exit {
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin;
    use crate::model::{InstanceId, SiteId};
    use crate::status::Board;

    fn running() -> (admin::Handle, tempfile::NamedTempFile) {
        let site = |name| SiteId::try_new(name).unwrap();
        let board = Board::new(site("a"), InstanceId::new(1), &[site("b")]);
        let bound = admin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "site = \"a\"\nredis.url = \"redis://h\"\njournal.dir = \"j\"\n\
             admin.listen = \"{}\"\n[[peer]]\nsite = \"b\"",
            bound.local_addr()
        )
        .unwrap();
        (bound.spawn(board, admin::Repairs::default()), file)
    }

    fn arguments(file: Option<&Path>, json: bool) -> StatusArgs {
        StatusArgs {
            config: file.map(Path::to_owned),
            url: None,
            json,
        }
    }

    #[test]
    fn a_running_tandem_is_asked() {
        let (handle, file) = running();
        let text = ask_status(&arguments(Some(file.path()), false)).unwrap();
        assert!(text.starts_with("a  tandem "), "{text}");
        let text = ask_status(&arguments(Some(file.path()), true)).unwrap();
        assert!(text.starts_with("{\"site\":\"a\""), "{text}");
        let config = ConfigFile {
            config: file.path().to_owned(),
        };
        assert_eq!(healthcheck(&config), Exit::Done);
        handle.stop();
        assert_eq!(healthcheck(&config), Exit::Failed);
        assert_eq!(status(&arguments(Some(file.path()), false)), Exit::Failed);
    }

    #[test]
    fn what_cannot_be_asked_has_its_exit_code() {
        assert_eq!(status(&arguments(None, false)), Exit::Usage);
        let missing = Path::new("/no/such.toml");
        assert_eq!(status(&arguments(Some(missing), false)), Exit::Config);
        let url = StatusArgs {
            url: Some("h:1".to_owned()),
            ..arguments(None, false)
        };
        assert_eq!(status(&url), Exit::Usage);
    }
}
