//! What the writers write: one random operation after another.
//!
//! Both sites write the `demo:shared:` keys, with operations that commute. Everything below
//! `demo:<site>:` belongs to that site, so its operations need not.

use rand::Rng;
use rand::rngs::StdRng;

use super::client::{Command, command};

/// The counter that both sites increment and the view shows.
pub(super) const SHARED: &str = "demo:shared:counter";

/// What is sent and acknowledged as one.
#[derive(Clone, Debug, Default)]
pub(super) struct Operation {
    /// One command, or MULTI, commands, EXEC.
    pub(super) commands: Vec<Command>,
    /// How many writes these are.
    pub(super) writes: u64,
    /// Key, field and amount of each increment among them.
    pub(super) increments: Vec<(String, Option<String>, i64)>,
}

impl Operation {
    fn one(words: &[&str]) -> Self {
        Self {
            commands: vec![command(words)],
            writes: 1,
            increments: Vec::new(),
        }
    }

    fn transaction(parts: Vec<Self>) -> Self {
        let mut whole = Self {
            commands: vec![command(&["MULTI"])],
            ..Self::default()
        };
        for part in parts {
            whole.commands.extend(part.commands);
            whole.writes += part.writes;
            whole.increments.extend(part.increments);
        }
        whole.commands.push(command(&["EXEC"]));
        whole
    }

    fn increment(key: &str, amount: i64) -> Self {
        let text = amount.to_string();
        let mut operation = match amount {
            1 => Self::one(&["INCR", key]),
            -1 => Self::one(&["DECR", key]),
            _ => Self::one(&["INCRBY", key, &text]),
        };
        operation.increments.push((key.to_owned(), None, amount));
        operation
    }

    fn increment_field(key: &str, field: &str, amount: i64) -> Self {
        let mut operation = Self::one(&["HINCRBY", key, field, &amount.to_string()]);
        let field = Some(field.to_owned());
        operation.increments.push((key.to_owned(), field, amount));
        operation
    }
}

/// The next operation of a writer. `sequence` is new with every call of this writer.
pub(super) fn draw(random: &mut StdRng, site: &str, sequence: u64) -> Operation {
    match random.random_range(0..100) {
        0..30 => shared(random, site),
        30..50 => string(random, site),
        50..58 => expiring(random, site, sequence),
        58..68 => list(random, site, sequence),
        68..76 => hash(random, site),
        76..82 => set(random, site),
        82..88 => sorted_set(random, site),
        88..94 => stream(random, site, sequence),
        _ => transaction(random, site),
    }
}

/// Keys of both sites: only what commutes.
fn shared(random: &mut StdRng, site: &str) -> Operation {
    let member = format!("{site}:{}", random.random_range(0..500));
    match random.random_range(0..10) {
        0..5 => Operation::increment(SHARED, 1),
        5..7 => {
            let key = format!("{SHARED}:{}", random.random_range(0..10));
            Operation::increment(&key, random.random_range(-20..40))
        }
        7 => Operation::one(&["SADD", "demo:shared:set", &member]),
        8 => Operation::one(&["HSET", "demo:shared:hash", &member, &value(random)]),
        _ => Operation::increment_field("demo:shared:hash", &format!("{site}:total"), 3),
    }
}

fn string(random: &mut StdRng, site: &str) -> Operation {
    let key = format!("demo:{site}:string:{}", random.random_range(0..300));
    match random.random_range(0..20) {
        0..14 => Operation::one(&["SET", &key, &value(random)]),
        14..16 => Operation::one(&["APPEND", &key, "+"]),
        16 => Operation::one(&["SETRANGE", &key, "5", "tandem"]),
        17 => Operation::one(&["DEL", &key]),
        18 => Operation::one(&["MSET", &key, &value(random), &format!("{key}:b"), "b"]),
        _ => Operation::one(&["SETBIT", &format!("demo:{site}:bits"), "4095", "1"]),
    }
}

/// TTLs. A key that may expire while the demo runs is written only once.
fn expiring(random: &mut StdRng, site: &str, sequence: u64) -> Operation {
    let once = format!("demo:{site}:brief:{sequence}");
    let session = format!("demo:{site}:session:{}", random.random_range(0..300));
    let brief = random.random_range(500..3_000).to_string();
    let long = random.random_range(90_000..100_000).to_string();
    match random.random_range(0..8) {
        0..2 => Operation::one(&["SET", &once, &value(random), "PX", &brief]),
        2..5 => Operation::one(&["SET", &session, &value(random), "EX", &long]),
        5 => Operation::one(&["SETEX", &session, &long, &value(random)]),
        6 => Operation::one(&["EXPIRE", &session, &long]),
        _ => Operation::one(&["PERSIST", &session]),
    }
}

fn list(random: &mut StdRng, site: &str, sequence: u64) -> Operation {
    let key = format!("demo:{site}:list:{}", random.random_range(0..5));
    let next = format!("demo:{site}:list:{}", random.random_range(0..5));
    let element = format!("{site}:{sequence}");
    match random.random_range(0..12) {
        0..4 => Operation::one(&["RPUSH", &key, &element, "twin"]),
        4..7 => Operation::one(&["LPUSH", &key, &element]),
        7 => Operation::one(&["LPOP", &key]),
        8 => Operation::one(&["RPOP", &key]),
        9 => Operation::one(&["RPOPLPUSH", &key, &next]),
        10 => Operation::one(&["LREM", &key, "1", "twin"]),
        _ => Operation::one(&["LTRIM", &key, "0", "99"]),
    }
}

fn hash(random: &mut StdRng, site: &str) -> Operation {
    let key = format!("demo:{site}:hash:{}", random.random_range(0..50));
    let field = format!("f{}", random.random_range(0..20));
    match random.random_range(0..8) {
        0..4 => Operation::one(&["HSET", &key, &field, &value(random), "last", &field]),
        4 => Operation::one(&["HDEL", &key, &field]),
        5 => Operation::one(&["HINCRBYFLOAT", &key, "weight", "0.25"]),
        _ => Operation::increment_field(&key, "visits", random.random_range(1..5)),
    }
}

fn set(random: &mut StdRng, site: &str) -> Operation {
    let key = format!("demo:{site}:set:{}", random.random_range(0..10));
    let other = format!("demo:{site}:set:{}", random.random_range(0..10));
    let member = random.random_range(0..200).to_string();
    match random.random_range(0..8) {
        0..4 => Operation::one(&["SADD", &key, &member, "always"]),
        4..6 => Operation::one(&["SREM", &key, &member]),
        6 => Operation::one(&["SPOP", &key]),
        _ => Operation::one(&["SMOVE", &key, &other, &member]),
    }
}

fn sorted_set(random: &mut StdRng, site: &str) -> Operation {
    let key = format!("demo:{site}:zset:{}", random.random_range(0..10));
    let member = format!("m{}", random.random_range(0..200));
    let score = random.random_range(0..10_000).to_string();
    match random.random_range(0..8) {
        0..5 => Operation::one(&["ZADD", &key, &score, &member]),
        5 => Operation::one(&["ZINCRBY", &key, "5", &member]),
        6 => Operation::one(&["ZREM", &key, &member]),
        _ => Operation::one(&["ZPOPMIN", &key]),
    }
}

fn stream(random: &mut StdRng, site: &str, sequence: u64) -> Operation {
    let key = format!("demo:{site}:stream:{}", random.random_range(0..3));
    let number = sequence.to_string();
    Operation::one(&["XADD", &key, "MAXLEN", "300", "*", "n", &number])
}

/// Whole transactions, some of which touch what both sites write.
fn transaction(random: &mut StdRng, site: &str) -> Operation {
    let own = |name: &str| format!("demo:{site}:{name}");
    match random.random_range(0..3) {
        0 => Operation::transaction(vec![
            Operation::increment(&own("pair:a"), 1),
            Operation::increment(&own("pair:b"), 1),
        ]),
        1 => Operation::transaction(vec![
            Operation::increment(SHARED, 1),
            Operation::one(&["RPUSH", &own("journal"), &value(random)]),
            Operation::one(&["LTRIM", &own("journal"), "-50", "-1"]),
        ]),
        _ => Operation::transaction(vec![
            Operation::one(&["SET", &own("draft"), &value(random)]),
            Operation::one(&["RENAME", &own("draft"), &own("published")]),
        ]),
    }
}

/// A value of 16 to 100 bytes; one in a hundred has 4 KiB.
fn value(random: &mut StdRng) -> String {
    let length = if random.random_ratio(1, 100) {
        4096
    } else {
        random.random_range(16..=100)
    };
    let letter = |_| char::from(random.random_range(b'a'..=b'z'));
    (0..length).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// Shared keys must only see operations that commute, or the verdict would be about chance.
    #[test]
    fn shared_keys_only_see_what_commutes() {
        let mut random = StdRng::seed_from_u64(1);
        for sequence in 0..20_000 {
            let operation = draw(&mut random, "here", sequence);
            for words in &operation.commands {
                let word = |at: usize| String::from_utf8(words[at].to_vec()).unwrap();
                let Some(key) = (words.len() > 1).then(|| word(1)) else {
                    continue;
                };
                assert!(key.starts_with("demo:"), "{key}");
                if key.starts_with("demo:shared:") {
                    let commutes = match word(0).as_str() {
                        "INCR" | "DECR" | "INCRBY" => true,
                        "SADD" | "HSET" | "HINCRBY" => word(2).starts_with("here:"),
                        _ => false,
                    };
                    assert!(commutes, "{words:?}");
                } else {
                    assert!(key.starts_with("demo:here:"), "{key}");
                }
            }
        }
    }

    #[test]
    fn a_transaction_counts_what_is_in_it() {
        let both = vec![Operation::increment("a", 1), Operation::increment("b", -3)];
        let whole = Operation::transaction(both);
        assert_eq!((whole.commands.len(), whole.writes), (4, 2));
        assert_eq!(whole.increments.len(), 2);
    }
}
