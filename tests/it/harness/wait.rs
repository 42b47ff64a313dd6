//! Waiting for conditions, and randomness that can be repeated.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// A deadline of so many seconds on an ordinary machine; `TANDEM_PATIENCE=3` triples it.
pub(crate) fn patience(seconds: u64) -> Duration {
    let factor = env::var("TANDEM_PATIENCE").map_or(1.0, |text| {
        text.parse::<f64>().expect("TANDEM_PATIENCE is a number")
    });
    Duration::from_secs(seconds).mul_f64(factor)
}

/// Looks again and again until the probe has an answer; fails with its last reason.
pub(crate) fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(answer) => return answer,
            Err(reason) if start.elapsed() >= deadline => {
                panic!("waited {deadline:?} for {what}; at the end: {reason}")
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Looks again and again until the condition holds.
pub(crate) fn wait_for(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    wait_until(what, deadline, || {
        if holds() {
            Ok(())
        } else {
            Err("it does not hold".to_owned())
        }
    });
}

/// Lets time pass where time itself is what the test is about; never to wait for an effect.
pub(crate) fn let_pass(span: Duration) {
    thread::sleep(span);
}

/// A generator whose seed is printed, and taken from `SEED` to repeat a failure.
pub(crate) fn rng_from_seed(test: &str) -> StdRng {
    StdRng::seed_from_u64(seed(test))
}

/// A seed that is printed, and taken from `SEED` to repeat a failure.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = env::var("SEED").map_or_else(
        |_| rand::random::<u32>().into(),
        |text| text.parse::<u64>().expect("SEED is a number"),
    );
    println!("{test}: SEED={seed}");
    seed
}
