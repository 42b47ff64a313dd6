//! `tandem verify`: from the command line to sites, and from what was found to words and an exit code.

use std::io;
use std::time::Duration;

use super::ask::{failed, print};
use super::{Exit, VerifyArgs, complain, load};
use crate::admin::client;
use crate::config::Config;
use crate::redis::Settings;
use crate::verify::compare::{Comparison, Selection};
use crate::verify::progress::Progress;
use crate::verify::repair::{Target, repair};
use crate::verify::report::Report;
use crate::verify::site::{Error, Site};

/// A server that was named on the command line.
struct Named {
    name: String,
    settings: Settings,
    /// Its configuration, where that is here.
    config: Option<Config>,
}

/// `tandem verify`.
pub async fn verify(args: VerifyArgs) -> Exit {
    let named = match named(&args) {
        Ok(named) => named,
        Err(exit) => return exit,
    };
    let targets = match targets(&args, &named) {
        Ok(targets) => targets,
        Err(message) => return failed(&message, Exit::Usage),
    };
    match compared(&args, &named, &targets).await {
        Ok(report) => {
            let text = match args.json {
                true => serde_json::to_string(&report).unwrap_or_default(),
                false => report.text(),
            };
            match (print(&mut io::stdout(), &text), report.equal) {
                (Exit::Done, true) => Exit::Done,
                _ => Exit::Failed,
            }
        }
        Err(error) => {
            complain(&error);
            Exit::Unavailable
        }
    }
}

/// The sites that are to be compared.
fn named(args: &VerifyArgs) -> Result<Vec<Named>, Exit> {
    let mut named = Vec::new();
    for path in &args.config {
        let config = load(path)?;
        named.push(Named {
            name: config.site.to_string(),
            settings: config.redis.clone(),
            config: Some(config),
        });
    }
    for settings in &args.redis {
        named.push(Named {
            name: settings.address.url(),
            settings: settings.clone(),
            config: None,
        });
    }
    let usage = |message: &str| Err(failed(message, Exit::Usage));
    if named.len() < 2 {
        return usage("nothing to compare; give --config for each of two sites, or --redis URL");
    }
    for (index, one) in named.iter().enumerate() {
        let others = named.get(index + 1..).unwrap_or_default();
        if others.iter().any(|other| other.name == one.name) {
            return usage(&format!("{} is given twice; name each site once", one.name));
        }
        if others
            .iter()
            .any(|o| o.settings.address == one.settings.address)
        {
            let address = &one.settings.address;
            return usage(&format!(
                "two sites have the Redis at {address}; it would be compared with itself"
            ));
        }
    }
    Ok(named)
}

/// The sites that are to fetch what is right elsewhere.
fn targets(args: &VerifyArgs, named: &[Named]) -> Result<Vec<Target>, String> {
    let Some(right) = &args.repair else {
        return Ok(Vec::new());
    };
    let is_right = |each: &&Named| each.name == *right && each.config.is_some();
    if !named.iter().any(|each| is_right(&each)) {
        return Err(format!(
            "--repair {right}: no configuration file names this site; give it with --config"
        ));
    }
    let others = named.iter().filter(|each| each.name != *right);
    let target = |each: &Named| {
        let name = &each.name;
        let Some(config) = &each.config else {
            return Err(format!(
                "--repair: {name} cannot be repaired, because its running tandem does that; give \
                 its configuration file with --config instead of --redis"
            ));
        };
        if !config.peers.iter().any(|peer| peer.site.as_str() == right) {
            return Err(format!(
                "--repair: {right} is no peer of {name} by its file"
            ));
        }
        Ok(Target {
            name: name.clone(),
            url: client::url(config.admin.listen),
        })
    };
    others.map(target).collect()
}

async fn compared(args: &VerifyArgs, named: &[Named], targets: &[Target]) -> Result<Report, Error> {
    let mut sites = Vec::new();
    for each in named {
        sites.push(Site::open(each.name.clone(), &each.settings).await?);
    }
    let first = named.iter().find_map(|each| each.config.as_ref());
    let sync = first.map(|config| &config.sync);
    let selection = Selection::new(sync, args.sample);
    let patience = Duration::from_secs(args.patience);
    let comparison = Comparison::new(sites, selection, patience, args.rate, Progress::default());
    let (findings, mut sites) = Box::pin(comparison.run()).await?;
    let names: Vec<String> = named.iter().map(|each| each.name.clone()).collect();
    let (show, limit) = (args.show_keys, args.limit);
    let mut report = Report::new(&names, args.sample, show, limit, &findings);
    if let (Some(right), false) = (&args.repair, findings.found.is_empty()) {
        let found = &findings.found;
        let (left, complaints) =
            Box::pin(repair(&mut sites, right, targets, found, patience)).await?;
        for complaint in complaints {
            print(&mut io::stderr(), &format!("error: {complaint}"));
        }
        report.repaired(&names, show, limit, &left);
    }
    Ok(report)
}
