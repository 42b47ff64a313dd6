//! Whole files, good and bad.

mod logins;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use secrecy::ExposeSecret as _;

use super::*;
use crate::redis::Address;

const SAMPLE: &str = r#"site = "hangzhou"                      # unique among the sites
[redis]
url = "redis://127.0.0.1:6379"         # redis:// or unix://; user:password in it, or:
# username = "tandem"
# password_file = "/run/secrets/redis"
[link]
listen = "0.0.0.0:7480"
[[peer]]
site = "singapore"
address = "127.0.0.1:7481"             # leave out to wait to be dialled
[sync]
initial = "auto"                       # auto | send | receive | none
existing = "refuse"                    # refuse | overwrite | keep: what to do when both sites hold data
databases = "all"                      # or [0, 3]
[journal]
dir = "/var/lib/tandem/hangzhou"
max_size = "10GiB"
[admin]
listen = "127.0.0.1:9480"
"#;

const SMALL: &str = r#"site = "a"
redis.url = "redis://r"
journal.dir = "j"
[[peer]]
site = "b"
"#;

fn read(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let env: Vec<(OsString, OsString)> = env.iter().map(|(n, v)| (n.into(), v.into())).collect();
    parse(text, Path::new("a.toml"), &env).map_err(|e| e.to_string())
}

fn good(text: &str, env: &[(&str, &str)]) -> Config {
    read(text, env).expect("a good configuration")
}

/// The errors of the small file with `old` replaced.
fn bad(old: &str, new: &str) -> String {
    let text = SMALL.replacen(old, new, 1);
    assert_ne!(text, SMALL);
    read(&text, &[]).expect_err(new)
}

fn password(config: &Config) -> Option<String> {
    let password = config.redis.password.read().expect("an inline password");
    password.map(|p| p.expose_secret().to_owned())
}

#[test]
fn conflicts_are_written_down_where_it_says() {
    let config = good(SMALL, &[]).conflicts;
    assert_eq!((config.log, config.keys), (None, ShownKeys::Hash));
    assert_eq!(config.max_rate, DEFAULT_CONFLICT_RATE);
    assert_eq!(config.remember, DEFAULT_REMEMBERED);
    let few = good(&format!("{SMALL}[conflicts]\nremember = 1024\n"), &[]);
    assert_eq!(few.conflicts.remember, 1024);
    let set = good(SMALL, &[("TANDEM__CONFLICTS__REMEMBER", "2048")]);
    assert_eq!(set.conflicts.remember, 2048);
    let text = format!("{SMALL}[conflicts]\nlog = \"/c\"\nkeys = \"full\"\nmax_rate = 7\n");
    let config = good(&text, &[]).conflicts;
    assert_eq!(config.log.as_deref(), Some(Path::new("/c")));
    assert_eq!((config.keys, config.max_rate), (ShownKeys::Full, 7));
    let off = good(&text, &[("TANDEM__CONFLICTS__LOG", "off")]);
    assert_eq!(off.conflicts.log, None);
    for (wrong, message) in [
        ("keys = \"some\"", "conflicts.keys"),
        ("max_rate = 0", "from 1 to 10000"),
        ("max_rate = 10001", "from 1 to 10000"),
        ("log = \"\"", "conflicts.log"),
        ("remember = 1023", "from 1024 to 16777216"),
    ] {
        let text = format!("{SMALL}[conflicts]\n{wrong}\n");
        let told = read(&text, &[]).expect_err(wrong);
        assert!(told.contains(message), "{told}");
    }
}

#[test]
fn the_sample_is_read() {
    let config = good(SAMPLE, &[]);
    assert_eq!(config.site.as_str(), "hangzhou");
    assert_eq!(config.redis.address.to_string(), "127.0.0.1:6379");
    assert!(config.redis.username.is_none() && config.redis.password.is_none());
    assert_eq!(config.link.listen, Some(DEFAULT_LINK));
    assert_eq!(config.peers[0].site.as_str(), "singapore");
    assert_eq!(config.peers[0].address.as_deref(), Some("127.0.0.1:7481"));
    let sync = Sync {
        initial: Initial::Auto,
        existing: Existing::Refuse,
        databases: Databases::All,
        keys: Keys::default(),
        flush: Flush::Forward,
        publish: Publish::Forward,
        evictions: Evictions::Forward,
        acknowledge: Acknowledge::Journal,
        max_rate: None,
        big_value: DEFAULT_BIG_VALUE,
    };
    assert_eq!(config.sync, sync);
    assert_eq!(config.journal.dir, Path::new("/var/lib/tandem/hangzhou"));
    assert_eq!(config.journal.max_size, DEFAULT_JOURNAL);
    assert_eq!(config.journal.fsync, Fsync::Everysec);
    assert_eq!(config.journal.when_full, WhenFull::FullSync);
    assert_eq!(config.admin.listen, DEFAULT_ADMIN);
}

#[test]
fn evictions_stay_here_where_that_is_wanted() {
    let evictions = |words: &str| read(&format!("{SMALL}[sync]\nevictions = {words}\n"), &[]);
    let config = evictions("\"keep_local\"").unwrap();
    assert_eq!(config.sync.evictions, Evictions::KeepLocal);
    let told = evictions("\"keep\"").unwrap_err();
    assert!(told.contains("forward, keep_local"), "{told}");
}

#[test]
fn what_is_left_out_is_the_sample() {
    let config = good(SMALL, &[]);
    let sample = good(SAMPLE, &[]);
    assert_eq!(config.sync, sample.sync);
    assert_eq!(config.link, sample.link);
    assert_eq!(config.admin, sample.admin);
    assert_eq!(config.journal.max_size, sample.journal.max_size);
}

#[test]
fn repairs_are_taken_from_this_machine_or_where_they_are_allowed() {
    let takes = |admin: &str| {
        let text = SMALL.replace("journal.dir", &format!("{admin}\njournal.dir"));
        good(&text, &[]).admin.takes_repairs()
    };
    assert!(takes("") && takes("admin.listen = \"[::1]:9480\""));
    assert!(!takes("admin.listen = \"0.0.0.0:9480\""));
    assert!(takes(
        "admin.listen = \"0.0.0.0:9480\"\nadmin.allow_repair = true"
    ));
    let env = [("TANDEM__ADMIN__ALLOW_REPAIR", "true")];
    assert!(good(SMALL, &env).admin.allow_repair);
    let text = SMALL.replace("journal.dir", "admin.allow_repair = 1\njournal.dir");
    assert!(
        read(&text, &[])
            .unwrap_err()
            .contains("neither true nor false")
    );
}

#[test]
fn the_files_of_the_compose_setup_are_read() {
    let a = good(include_str!("../../../config/site-a.toml"), &[]);
    let b = good(include_str!("../../../config/site-b.toml"), &[]);
    assert_eq!(a.peers[0].site, b.site);
    assert_eq!(b.peers[0].site, a.site);
}

#[test]
fn three_mistakes_are_three_lines() {
    let text = SAMPLE
        .replace("hangzhou\" ", "Hangzhou\"")
        .replace("127.0.0.1:7481", "127.0.0.1")
        .replace("existing = \"refuse\"", "exsting = \"refuse\"");
    let expected = "\
a.toml:1: site: \"Hangzhou\" is not a site name: use 1 to 64 of a-z, 0-9, '-', '_' and '.', \
beginning with a letter or a digit
a.toml:10: peer.address: not a host and a port; write for example tandem-b:7480 or 192.0.2.1:7480
a.toml:13: sync.exsting: unknown key; sync takes initial, existing, databases, keys, exclude_keys, flush, publish, evictions, acknowledge, max_rate, big_value";
    assert_eq!(read(&text, &[]).unwrap_err(), expected);
}

#[test]
fn an_empty_file_says_all_that_is_needed() {
    let expected = "\
a.toml: journal.dir: missing; write dir = \"/var/lib/tandem\", on a disk that outlives a restart
a.toml: peer: missing; add [[peer]] with site and address, for each other site
a.toml: redis.url: missing; write url = \"redis://127.0.0.1:6379\"
a.toml: site: missing; write site = \"name\"";
    assert_eq!(read("", &[]).unwrap_err(), expected);
}

/// What to replace in the small file, with what, and how the one line begins then.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "site = \"a\"",
        "site = 1",
        "a.toml:1: site: a number, not a text",
    ),
    (
        "site = \"a\"",
        "site = [1]",
        "a.toml:1: site: a list, not a text",
    ),
    (
        "site = \"a\"",
        "site = true",
        "a.toml:1: site: boolean, not a text",
    ),
    (
        "site = \"a\"",
        "site = \"b\"",
        "a.toml:5: peer.site: the name of this site",
    ),
    (
        "site = \"a\"",
        "site = \"a\"\nx = 1",
        "a.toml:2: x: unknown key; there is site",
    ),
    (
        "site = \"a\"",
        "site = \"a\"\ntls.x = 1",
        "a.toml:2: tls: unknown section; there are redis",
    ),
    (
        "redis.url",
        "redis.\"a\\nb\" = 1\nredis.url",
        "a.toml:2: redis.a\\nb: unknown key",
    ),
    (
        "redis.url",
        "redis",
        "a.toml:2: redis: not a section; write [redis]",
    ),
    (
        "redis://r",
        "redis://r/3",
        "a.toml:2: redis.url: a database in the URL",
    ),
    (
        "redis://r",
        "redis://u@r",
        "a.toml:2: redis.url: a user without a password",
    ),
    (
        "redis://r\"",
        "redis://r\"\nredis.sentinel_password = \"x\"",
        "a.toml:3: redis.sentinel_password: url names no Sentinels",
    ),
    (
        "redis://r\"",
        "redis+sentinel://s/m\"\nredis.sentinel_username = \"x\"",
        "a.toml:3: redis.sentinel_username: a user without a password",
    ),
    (
        "redis://r\"",
        "redis://r\"\nredis.read_from = \"replica\"",
        "a.toml:3: redis.read_from: url names no Sentinels that know one",
    ),
    (
        "redis://r\"",
        "redis://r\"\nredis.read_from = \"r2\"",
        "a.toml:3: redis.read_from: must be primary, replica or the URL",
    ),
    (
        "redis://r\"",
        "redis://r\"\nredis.read_from = \"redis+sentinel://s/m\"",
        "a.toml:3: redis.read_from: write replica, and the Sentinels in url",
    ),
    (
        "redis://r\"",
        "redis://r\"\nredis.read_from = \"redis://r2\"\nsync.acknowledge = \"peers\"",
        "a.toml:4: sync.acknowledge: peers, but [redis] read_from is a replica",
    ),
    (
        "journal.dir = \"j\"",
        "journal.dir = \"\"",
        "a.toml:3: journal.dir: empty",
    ),
    (
        "journal.dir = \"j\"",
        "journal = {}",
        "a.toml:3: journal.dir: missing",
    ),
    (
        "journal.dir",
        "journal.max_size = \"15MiB\"\njournal.dir",
        "a.toml:3: journal.max_size: too small; write 16MiB",
    ),
    (
        "journal.dir",
        "journal.max_size = 99999999\njournal.dir",
        "a.toml:3: journal.max_size: a number, not a text",
    ),
    (
        "journal.dir",
        "admin.listen = \":9480\"\njournal.dir",
        "a.toml:3: admin.listen: not an IP address and a port",
    ),
    (
        "journal.dir",
        "admin.listen = \"[::]:7480\"\njournal.dir",
        "a.toml:3: admin.listen: the port of link.listen",
    ),
    (
        "journal.dir",
        "link.listen = \"none\"\njournal.dir",
        "a.toml:3: link.listen: not an IP address",
    ),
    (
        "journal.dir",
        "link.listen = \"off\"\njournal.dir",
        "a.toml:5: peer.address: missing, and link.listen is off",
    ),
    (
        "journal.dir",
        "sync.databases = []\njournal.dir",
        "a.toml:3: sync.databases: an empty list",
    ),
    (
        "journal.dir",
        "sync.databases = [-1]\njournal.dir",
        "a.toml:3: sync.databases: not databases",
    ),
    (
        "[[peer]]",
        "[peer]",
        "a.toml:4: peer: not a list of sections; write [[peer]]",
    ),
    (
        "[[peer]]\nsite = \"b\"",
        "peer = [1]",
        "a.toml:4: peer: not a list of sections",
    ),
    (
        "[[peer]]\nsite = \"b\"",
        "peer = []",
        "a.toml:4: peer: not a list of sections",
    ),
    (
        "[[peer]]\nsite = \"b\"",
        "[[peer]]",
        "a.toml:4: peer.site: missing",
    ),
    (
        "site = \"b\"",
        "site = \"b\"\n[[peer]]\nsite = \"b\"",
        "a.toml:7: peer.site: another peer",
    ),
    (
        "site = \"b\"",
        "site = \"b\"\naddress = \"redis://h:1\"",
        "a.toml:6: peer.address: not a host",
    ),
    ("site = \"b\"", "site = b", "a.toml:5: not TOML: "),
];

#[test]
fn every_mistake_has_its_place() {
    for (old, new, expected) in MISTAKES {
        let errors = bad(old, new);
        assert!(errors.starts_with(expected), "{new}\n{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn every_choice_is_a_word() {
    for (word, value) in Initial::WORDS {
        let config = good(&format!("sync.initial = \"{word}\"\n{SMALL}"), &[]);
        assert_eq!(
            (config.sync.initial, value.to_string().as_str()),
            (*value, *word)
        );
    }
    for (word, value) in Existing::WORDS {
        let config = good(&format!("sync.existing = \"{word}\"\n{SMALL}"), &[]);
        assert_eq!(config.sync.existing, *value);
    }
    for (word, value) in Fsync::WORDS {
        let config = good(SMALL, &[("TANDEM__JOURNAL__FSYNC", word)]);
        assert_eq!(
            (config.journal.fsync, value.to_string().as_str()),
            (*value, *word)
        );
    }
    for (word, value) in WhenFull::WORDS {
        let config = good(SMALL, &[("TANDEM__JOURNAL__WHEN_FULL", word)]);
        assert_eq!(config.journal.when_full, *value);
    }
    let error = read(&format!("sync.initial = \"both\"\n{SMALL}"), &[]).unwrap_err();
    let expected = "sync.initial: not a choice; write one of auto, send, receive, none";
    assert!(error.contains(expected), "{error}");
    for (text, only) in [("[0, 3]", vec![0, 3]), ("[3, 3]", vec![3]), ("7", vec![7])] {
        let config = good(&format!("sync.databases = {text}\n{SMALL}"), &[]);
        assert_eq!(
            config.sync.databases,
            Databases::Only(only.into_iter().collect())
        );
    }
}

#[test]
fn peers_are_reached_by_names_and_addresses() {
    for address in ["tandem-b:7480", "192.0.2.1:1", "[2001:db8::1]:65535"] {
        let config = good(&format!("{SMALL}address = \"{address}\""), &[]);
        assert_eq!(config.peers[0].address.as_deref(), Some(address));
    }
    for address in [
        "", "b", ":1", "b:0", "b:65536", "::1:7480", "[b]:1", "b:1/", "u@b:1",
    ] {
        let result = read(&format!("{SMALL}address = \"{address}\""), &[]);
        assert!(result.is_err(), "{address}");
    }
    let text = format!("link.listen = \"off\"\n{SMALL}address = \"b:7480\"");
    assert_eq!(good(&text, &[]).link.listen, None);
}

#[test]
fn a_variable_wins_over_the_file() {
    let env = [
        ("TANDEM__SITE", "c"),
        ("TANDEM__REDIS__URL", "unix:///run/r.sock"),
        ("TANDEM__REDIS__USERNAME", "u"),
        ("TANDEM__REDIS__PASSWORD", "hunter2"),
        ("TANDEM__SYNC__DATABASES", "0, 3"),
        ("TANDEM__JOURNAL__MAX_SIZE", "1GB"),
        ("TANDEM__ADMIN__LISTEN", ""),
        ("TANDEM_LOG", "debug"),
        ("PATH", "/bin"),
    ];
    let config = good(SAMPLE, &env);
    assert_eq!(config.site.as_str(), "c");
    assert_eq!(config.redis.address, Address::Unix("/run/r.sock".into()));
    assert_eq!(config.redis.username.as_deref(), Some("u"));
    assert_eq!(password(&config).as_deref(), Some("hunter2"));
    assert_eq!(config.sync.databases, Databases::Only([0, 3].into()));
    assert_eq!(config.journal.max_size, 1_000_000_000);
    assert_eq!(config.admin.listen, DEFAULT_ADMIN);
}

#[test]
fn a_mistake_in_a_variable_names_it() {
    let env = [
        ("TANDEM__JOURNAL__MAX_SIZE", "10"),
        ("TANDEM__REDIS__PASWORD", "hunter2"),
        ("TANDEM__PEER__SITE", "b"),
        ("TANDEM__X__Y__Z", "1"),
    ];
    let expected = "\
TANDEM__JOURNAL__MAX_SIZE: journal.max_size: not a size; write a whole number with B, KB, MB, GB, \
TB, KiB, MiB, GiB or TiB
TANDEM__PEER__SITE: peers cannot be set by a variable; set them in the file, under [[peer]]
TANDEM__REDIS__PASWORD: unknown variable; its name is TANDEM__SECTION__KEY, with a key of the file
TANDEM__X__Y__Z: unknown variable; its name is TANDEM__SECTION__KEY, with a key of the file";
    assert_eq!(read(SAMPLE, &env).unwrap_err(), expected);

    let name = OsString::from("TANDEM__REDIS__PASSWORD");
    let env = [(name, OsString::from_vec(b"hunter2\xff".to_vec()))];
    let errors = parse(SAMPLE, Path::new("a.toml"), &env)
        .unwrap_err()
        .to_string();
    assert_eq!(
        errors,
        "TANDEM__REDIS__PASSWORD: redis.password: not UTF-8; change it"
    );
}

#[test]
fn what_is_shown_can_be_read_again() {
    let other = "link.listen = \"off\"\nsync.databases = [1, 2]\nredis.username = \"u\"\n\
                 redis.password_file = \"/f\"\njournal.max_size = \"17MB\"";
    let other = format!("{other}\n{SMALL}address = \"b:1\"");
    let sentinels = SMALL.replace("redis://r", "redis+sentinel://s1,[::1]:7/m%20y");
    let replica = "redis.read_from = \"replica\"\nredis.sentinel_username = \"u\"\n\
                   redis.sentinel_password_file = \"/f\"";
    let replica = format!("{replica}\n{sentinels}");
    let server = SMALL.replace(
        "redis://r\"",
        "redis://r\"\nredis.read_from = \"redis://r2\"",
    );
    for text in [SAMPLE, SMALL, &other, &sentinels, &replica, &server] {
        let shown = good(text, &[]).to_string();
        assert_eq!(good(&shown, &[]).to_string(), shown);
    }
}

#[test]
fn a_file_that_is_not_there_is_a_clear_error() {
    let error = load(Path::new("/no/such.toml")).unwrap_err().to_string();
    assert!(
        error.starts_with("/no/such.toml: cannot read it: "),
        "{error}"
    );
}
