//! Sites in memory, and everything that may happen between them, in any order: the pure cores of the crate
//! decide, and what the asynchronous parts do around them is done here step by step, in their order.
//!
//! All of a schedule follows from its seed: what clients write and where, which site takes its turn, what is
//! cut off and killed. At rest the sites must be equal, and nobody may wait for anything. `SIM_SCHEDULES=n`
//! runs so many of each kind, beginning with a random seed, or with `FIRST=n`. `SEED=n SITES=n` repeats one that
//! has failed, with `TRACE=1` it tells all that happens, and `STEPS=n` ends the writing and the faults earlier.
//! `MIX=moves` keeps to what clients do in one mix of [`mixes::MIXES`], `COPIES=never`, `meeting`, `losses` or
//! `drops` to schedules without copies, to those in which sites with data meet, in which servers lose something, or
//! in which journals do.
//! With `LOSSES=several`, servers of three sites and more lose something up to three times, which a few in ten
//! thousand schedules do not survive yet, nearly all of them because all sites have lost everything:
//!
//! `SEED=17 SITES=3 TRACE=1 cargo test --test sim again -- --nocapture`

#[cfg(test)]
mod answer;
#[cfg(test)]
mod apply;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod copied;
#[cfg(test)]
mod copier;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod intake;
#[cfg(test)]
mod link;
#[cfg(test)]
mod loss;
#[cfg(test)]
mod meeting;
#[cfg(test)]
mod mixes;
#[cfg(test)]
mod pairs;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod site;
#[cfg(test)]
mod sums;
#[cfg(test)]
mod world;

/// What a future comes to, if it does not wait; what waits is given up.
#[cfg(test)]
fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// What a future that never waits comes to.
#[cfg(test)]
fn now<T>(future: impl Future<Output = T>) -> T {
    soon(future).expect("nobody else has a turn here")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::env;
    use std::time::Instant;

    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use crate::pairs::{self, FOUND, MEANWHILE, Meanwhile, Pair, WRITES};
    use crate::schedule::{Copies, Only, run};
    use crate::world::End;

    fn number(name: &str) -> Option<u64> {
        env::var(name).ok().map(|text| text.parse().unwrap())
    }

    /// Says which schedule it was when something has panicked.
    struct Running(u64, usize);

    impl Drop for Running {
        fn drop(&mut self) {
            let Self(seed, sites) = self;
            if std::thread::panicking() {
                println!(
                    "SEED={seed} SITES={sites} TRACE=1 cargo test --test sim again -- --nocapture"
                );
            }
        }
    }

    /// Runs so many schedules of so many sites, unless the environment says how many.
    fn many(sites: usize, count: u64, only: &Only) {
        if number("SEED").is_some() {
            return;
        }
        let (first, count) = match number("SIM_SCHEDULES") {
            Some(count) => {
                let first = number("FIRST");
                (first.unwrap_or_else(|| rand::random::<u32>().into()), count)
            }
            None => (0, count),
        };
        let (mut failed, mut states, mut torn, mut rounds) = (Vec::new(), 0, 0, 0);
        let begun = Instant::now();
        let mut of_kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in first..first + count {
            let running = Running(seed, sites);
            let ran = run((seed, only), sites, None, false);
            drop(running);
            states += ran.states;
            rounds = rounds.max(ran.rounds);
            match ran.result {
                Ok(End::Equal) => {}
                Ok(End::Torn) => torn += 1,
                Err(why) => {
                    *of_kinds.entry(ran.mix).or_default() += 1;
                    println!(
                        "SEED={seed} SITES={sites}: {}, {:?}, {:?}: {why}",
                        ran.mix, ran.faults, ran.copies
                    );
                    failed.push(seed);
                }
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{sites} sites: {count} schedules, {states} states, {torn} torn, {rounds} rounds at most, {seconds:.1} s"
        );
        assert!(
            failed.is_empty(),
            "{} of {count} have failed ({of_kinds:?}): SEED={} SITES={sites} TRACE=1 cargo test --test sim again -- --nocapture",
            failed.len(),
            failed[0],
        );
    }

    #[test]
    fn two_sites() {
        many(2, 1500, &Only::wanted());
    }

    #[test]
    fn three_sites() {
        many(3, 1200, &Only::wanted());
    }

    #[test]
    fn four_sites() {
        many(4, 400, &Only::wanted());
    }

    #[test]
    fn five_sites() {
        many(5, 200, &Only::wanted());
    }

    /// What is dropped while a peer is away comes as a copy.
    #[test]
    fn journals_that_are_too_small() {
        let only = Only {
            copies: Some(Copies::Drops),
            ..Only::wanted()
        };
        many(2, 1200, &only);
        many(3, 600, &only);
    }

    /// Schedules that did not end well once: something that clients had added was lost, or the sites differed.
    #[test]
    fn what_went_wrong_once() {
        const LOST: &[(&str, usize, &[u64])] = &[
            ("sums", 2, &[2274, 5145, 6960]),
            ("additions", 2, &[64, 8037, 8327]),
            ("members", 3, &[7055582]),
            ("sums", 3, &[7402, 9747, 10996, 30001843]),
            (
                "additions",
                3,
                &[
                    126, 1353, 3139, 4257, 4789, 7359, 9778, 11181, 20010432, 20017663, 20044292,
                    20044709,
                ],
            ),
            ("flushes", 3, &[2019, 16561, 17184]),
            ("flushes of one key", 3, &[16561, 17100]),
            ("flushes beside transactions", 3, &[14225, 7001034]),
            ("streams", 3, &[13430]),
            ("lives in databases", 3, &[16578]),
        ];
        const DROPPED: &[(&str, usize, &[u64])] = &[
            ("conditions", 2, &[9358, 7006074]),
            ("conditions", 3, &[256]),
            ("lives of several keys", 3, &[7008057]),
            ("lives of elements", 2, &[9373]),
            ("chains", 2, &[14974]),
            ("chains", 3, &[2828, 3923]),
            ("copies", 3, &[703]),
            ("moves", 3, &[1170, 6221]),
            ("additions", 3, &[5871]),
        ];
        let lost = LOST.iter().map(|once| (Copies::Losses, once));
        let dropped = DROPPED.iter().map(|once| (Copies::Drops, once));
        for (copies, &(mix, sites, seeds)) in lost.chain(dropped) {
            let only = Only {
                mix: Some(mix.to_owned()),
                copies: Some(copies),
            };
            for seed in seeds {
                let ran = run((*seed, &only), sites, None, false);
                assert_eq!(
                    ran.result,
                    Ok(End::Equal),
                    "{copies:?}, {mix}, {sites} sites, {seed}"
                );
            }
        }
    }

    /// All pairs of writes, in both orders, by two of so many sites; of `part` of them one.
    fn all_pairs(sites: usize, part: usize) {
        let begun = Instant::now();
        let (mut count, mut failed, mut number) = (0, Vec::new(), 0);
        for (found, first, then) in pairs() {
            for writers in (0..sites).flat_map(|a| (0..sites).map(move |b| [a, b])) {
                number += 1;
                if writers[0] == writers[1] || number % part > 0 {
                    continue;
                }
                let filled = pairs::filled([first, then]);
                let pair = Pair {
                    found,
                    lines: [&filled[0], &filled[1]],
                    writers,
                    sites,
                    is_turned: number % 2 > 0,
                    meanwhile: None,
                    seed: number as u64,
                };
                count += 1;
                if let Err(why) = pairs::run(&pair, false) {
                    println!("{found:?}, {filled:?} at {writers:?} of {sites}: {why}");
                    failed.push(filled);
                }
            }
        }
        println!(
            "{sites} sites: {count} pairs, {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        assert!(failed.is_empty(), "{} of {count} have failed", failed.len());
    }

    /// What is found, and what two writers do to it, each with some effect.
    fn pairs() -> impl Iterator<Item = (&'static [&'static str], &'static str, &'static str)> {
        let writes = |found: &'static [&str]| {
            let all = WRITES.iter();
            all.filter(move |line| pairs::has_effect(found, &line.replace('#', "9")))
        };
        FOUND.iter().flat_map(move |found| {
            let firsts = writes(found);
            firsts.flat_map(move |first| writes(found).map(move |then| (*found, *first, *then)))
        })
    }

    #[test]
    fn two_writers_of_two_sites() {
        all_pairs(2, 1);
    }

    #[test]
    fn two_writers_of_three_sites() {
        all_pairs(3, 3);
    }

    /// Pairs of writes, and a third one at any moment while it is mended who is right.
    #[test]
    fn a_third_write_in_the_meantime() {
        let (begun, all) = (Instant::now(), pairs().collect::<Vec<_>>());
        let (first, count) = match number("SIM_SCHEDULES") {
            Some(count) => (rand::random::<u32>().into(), count),
            None => (0, 1500),
        };
        let mut failed = Vec::new();
        for seed in first..first + count {
            let rng = &mut StdRng::seed_from_u64(seed);
            let (found, first, then) = *all.choose(rng).unwrap();
            let (filled, sites) = (pairs::filled([first, then]), rng.random_range(2..4));
            let meanwhile = Meanwhile {
                line: MEANWHILE.choose(rng).unwrap(),
                writer: rng.random_range(0..sites),
                steps: rng.random_range(0..80 * sites as u64),
            };
            let pair = Pair {
                found,
                lines: [&filled[0], &filled[1]],
                writers: [[0, 1], [1, 0]][rng.random_range(0..2)],
                sites,
                is_turned: rng.random(),
                meanwhile: Some(meanwhile),
                seed,
            };
            if let Err(why) = pairs::run(&pair, false) {
                println!("{seed}: {found:?}, {filled:?}, then {meanwhile:?}: {why}");
                failed.push(seed);
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!("{count} third writes, {seconds:.1} s");
        assert!(failed.is_empty(), "{} of {count} have failed", failed.len());
    }

    /// One schedule, if `SEED` says which.
    #[test]
    fn again() {
        let Some(seed) = number("SEED") else {
            return;
        };
        let sites = usize::try_from(number("SITES").unwrap_or(3)).unwrap();
        let steps = number("STEPS").map(|steps| usize::try_from(steps).unwrap());
        let traces = env::var("TRACE").is_ok();
        let ran = run((seed, &Only::wanted()), sites, steps, traces);
        println!("{}, {:?}, {:?}", ran.mix, ran.faults, ran.copies);
        assert_eq!(ran.result, Ok(End::Equal));
    }
}
