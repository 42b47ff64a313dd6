//! A small corpus, damaged a few thousand times a run: what fuzzing does at length, in seconds.
//!
//! The corpus is `tests/data/fuzz`, the entry points are those of the targets in `fuzz`. `SEED=n`
//! repeats a run; `MUTATIONS=n` makes so many of each kind.

#[cfg(test)]
mod entries;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::{env, fs};

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::entries;

    /// How many of each kind, unless the environment says otherwise.
    const MUTATIONS: u64 = 1500;

    /// The files of a kind, in the order of their names.
    fn corpus(kind: &str) -> Vec<Vec<u8>> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let directory = root.join("tests/data/fuzz").join(kind);
        let entries = fs::read_dir(directory).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let files: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(!files.is_empty());
        files
    }

    fn number(name: &str, otherwise: u64) -> u64 {
        env::var(name).map_or(otherwise, |text| text.parse().unwrap())
    }

    /// Feeds the corpus and its mutations; all of a run follows from the seed.
    fn run(kind: &str, feed: fn(&[u8])) {
        let seed = number("SEED", rand::random::<u32>().into());
        println!("SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let corpus = corpus(kind);
        corpus.iter().for_each(|file| feed(file));
        for _ in 0..number("MUTATIONS", MUTATIONS) {
            let mut file = corpus[rng.random_range(0..corpus.len())].clone();
            for _ in 0..rng.random_range(1..5) {
                mutate(&mut file, &corpus, &mut rng);
            }
            feed(&file);
        }
    }

    fn mutate(file: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut StdRng) {
        if file.is_empty() {
            file.push(rng.random());
            return;
        }
        let at = rng.random_range(0..file.len());
        let end = (at + rng.random_range(1..9)).min(file.len());
        match rng.random_range(0..8) {
            0 => file[at] ^= 1 << rng.random_range(0..8),
            1 => file[at] = rng.random(),
            2 => file[at] = file[at].wrapping_add(if rng.random() { 1 } else { 255 }),
            // What lengths and kinds are made of.
            3 => file[at] = [0, 1, 0x7f, 0x80, 0x81, 0xc3, 0xf0, 0xf4, 0xfe, 0xff][at % 10],
            4 => file[at..end].fill(if rng.random() { 0xff } else { 0 }),
            5 => drop(file.drain(at..end)),
            6 => {
                let again = file[at..end].to_vec();
                file.splice(at..at, again);
            }
            _ => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                file.truncate(at);
                file.extend(&other[rng.random_range(0..=other.len())..]);
            }
        }
    }

    #[test]
    fn snapshots() {
        run("snapshot", entries::snapshot);
    }

    #[test]
    fn values() {
        run("value", entries::value);
    }

    #[test]
    fn streams() {
        run("stream", entries::stream);
    }
}
