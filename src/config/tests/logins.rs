//! Who logs in where, with which secret.

use secrecy::ExposeSecret as _;

use super::*;
use crate::redis::{Address, Password, Role};

#[test]
fn a_password_is_given_once() {
    let file = |more: &str| SMALL.replace("redis.url = \"redis://r\"", more);
    let url = "redis.url = \"redis://u:p1@r\"";
    let password_key = "redis.password = \"p2\"";
    let password_file = "redis.password_file = \"f\"";

    for text in [
        format!("{url}\n{password_key}"),
        format!("{url}\n{password_file}"),
        format!("redis.url = \"redis://r\"\n{password_key}\n{password_file}"),
    ] {
        let errors = read(&file(&text), &[]).unwrap_err();
        assert!(
            errors.contains("the password is given twice; keep one"),
            "{errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let errors = read(&file(&format!("{url}\nredis.username = \"v\"")), &[]).unwrap_err();
    assert!(errors.contains("the user is given twice"), "{errors}");
    let errors = read(
        &file("redis.url = \"redis://r\"\nredis.username = \"v\""),
        &[],
    )
    .unwrap_err();
    assert!(
        errors.contains("a.toml:3: redis.username: a user without a password"),
        "{errors}"
    );

    // A variable replaces what the file says, however the file says it.
    let env = [
        ("TANDEM__REDIS__PASSWORD", "p3"),
        ("TANDEM__REDIS__USERNAME", "v"),
    ];
    let config = good(&file(url), &env);
    assert_eq!(password(&config).as_deref(), Some("p3"));
    assert_eq!(config.redis.username.as_deref(), Some("v"));
    let env = [("TANDEM__REDIS__PASSWORD_FILE", "/f")];
    let config = good(
        &file(&format!("redis.url = \"redis://r\"\n{password_key}")),
        &env,
    );
    assert!(matches!(config.redis.password, Password::File(f) if f == Path::new("/f")));
    let env = [
        ("TANDEM__REDIS__PASSWORD", "a"),
        ("TANDEM__REDIS__PASSWORD_FILE", "b"),
    ];
    assert!(
        read(&file(url), &env)
            .unwrap_err()
            .contains("TANDEM__REDIS__PASSWORD")
    );
}

#[test]
fn what_is_read_is_the_primary_or_a_replica() {
    let sentinels = SMALL.replace("redis://r", "redis+sentinel://:p1@s/m");
    let read_from = |text: &str, word: &str| {
        let env = [("TANDEM__REDIS__READ_FROM", word)];
        good(text, &env).read_from
    };
    assert!(matches!(good(SMALL, &[]).read_from, ReadFrom::Primary));
    assert!(matches!(read_from(SMALL, "primary"), ReadFrom::Primary));
    let ReadFrom::Replica(replica) = read_from(&sentinels, "replica") else {
        panic!("not a replica that Sentinels name");
    };
    let Address::Sentinel(named) = &replica.address else {
        panic!("not Sentinels");
    };
    assert_eq!(named.role, Role::Replica);

    // Who logs in at the primary logs in at the replica, unless its URL says otherwise.
    for (url, password) in [("redis://r2", "p1"), ("redis://:p2@r2", "p2")] {
        let ReadFrom::Server(server) = read_from(&sentinels, url) else {
            panic!("not a server by its address");
        };
        assert_eq!(server.address.to_string(), "r2:6379");
        let read = server.password.read().expect("an inline password");
        assert_eq!(read.expect("a password").expose_secret(), password);
    }
}

#[test]
fn secrets_are_never_shown() {
    let lines = [
        "redis.url = \"redis+sentinel://u:hunter2@s/m\"",
        "redis.url = \"redis+sentinel://s/m\"\nredis.password = \"hunter2\"\nredis.sentinel_password = \"hunter2\"",
        "redis.url = \"redis://:hunter2@r\"\nredis.read_from = \"redis://:hunter2@r2\"",
        "redis.url = \"redis://u:hunter2@r\"",
        "redis.url = \"redis://r\"\nredis.password = \"hunter2\"",
    ];
    for line in lines {
        let config = good(&SMALL.replace("redis.url = \"redis://r\"", line), &[]);
        assert_eq!(password(&config).as_deref(), Some("hunter2"));
        let shown = format!("{config:?}\n{config}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("password = \"***\""), "{shown}");
    }
    let broken = [
        "redis.url = \"redis://u:hunter2\"",
        "redis.url = \"redis://u:hunter2@r/hunter2\"",
        "redis.url = \"redis://u:hunter2@r\"\nredis.password = [\"hunter2\"]",
        "redis.url = \"redis://u:hunter2@r\"\nredis.password = \"hunter2\"",
        "redis.url = \"redis://u:hunter2@r",
        "redis.url = hunter2",
        "redis.url = \"\\hunter2\"",
        "redis.url = \"r\"\nredis.url = \"hunter2\"",
    ];
    for line in broken {
        let text = SMALL.replace("redis.url = \"redis://r\"", line);
        let errors = parse(&text, Path::new("a.toml"), &[]).expect_err(line);
        assert!(
            !format!("{errors}\n{errors:?}").contains("hunter2"),
            "{errors}"
        );
    }
}
