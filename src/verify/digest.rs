//! The digest of a value: the same for the same value, however a server has packed it, of whatever
//! version the server is, and whether the value was read whole or in pieces. No I/O.
//!
//! Not part of it, because it is no part of the value or does not travel: the count that a
//! HyperLogLog caches in its head, when consumers of a stream were last seen, consumers that have
//! nothing pending, and what a stream counts of its past (entries added, the greatest deleted id).

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::rdb::decode::{Error, Fields, Id, Items, Scores, Stream, Value, decode};

/// What stands for a value: equal values have equal ones.
pub type Digest = u128;

/// Strings are taken in blocks of so many bytes, so that one that is read in pieces of this size
/// has the digest of one that is read whole.
pub const BLOCK: usize = 1 << 20;

/// What DUMP puts behind a value: the version of the server's format, and a checksum.
pub const FOOTER: usize = 10;

/// A value that is being read, element by element.
#[derive(Debug, Default)]
pub struct Tally {
    /// The element that is being put together.
    row: Vec<u8>,
    /// Of elements whose order counts.
    chain: u128,
    /// Of elements whose order does not count.
    sum: u128,
    count: u64,
}

impl Tally {
    /// A part of an element. Its length is part of it: `ab, c` is not `a, bc`.
    pub fn put(&mut self, part: &[u8]) {
        self.row
            .extend_from_slice(&(part.len() as u64).to_le_bytes());
        self.row.extend_from_slice(part);
    }

    /// The element is complete, and comes after those before it.
    pub fn in_order(&mut self) {
        let mut both = [0; 32];
        let (before, this) = both.split_at_mut(16);
        before.copy_from_slice(&self.chain.to_le_bytes());
        this.copy_from_slice(&xxh3_128(&self.row).to_le_bytes());
        self.chain = xxh3_128(&both);
        self.end_row();
    }

    /// The element is complete, and its place says nothing. A sum and not an exclusive or: an
    /// element that is there twice must not vanish.
    pub fn in_any_order(&mut self) {
        self.sum = self.sum.wrapping_add(xxh3_128(&self.row));
        self.end_row();
    }

    fn end_row(&mut self) {
        self.row.clear();
        self.count += 1;
    }

    /// A block of a string: all but the last have [`BLOCK`] bytes.
    pub fn block(&mut self, bytes: &[u8]) {
        if self.count == 0 && is_hyper_log_log(bytes) {
            let mut masked = bytes.to_vec();
            if let Some(cached) = masked.get_mut(HLL_CACHED) {
                cached.fill(0);
            }
            self.put(&masked);
        } else {
            self.put(bytes);
        }
        self.in_order();
    }

    /// A member of a sorted set.
    pub fn scored(&mut self, member: &[u8], score: f64) {
        self.put(member);
        // Zero has two signs, and not every packing keeps it.
        self.put(&(score + 0.0).to_bits().to_le_bytes());
        self.in_any_order();
    }

    /// A field of a hash, and when it expires in milliseconds since 1970.
    pub fn field(&mut self, name: &[u8], value: &[u8], expire_at_ms: Option<u64>) {
        self.put(name);
        self.put(value);
        if let Some(at) = expire_at_ms {
            self.put(&at.to_le_bytes());
        }
        self.in_any_order();
    }

    /// An id of a stream, as part of an element.
    pub fn id(&mut self, id: Id) {
        self.put(&id.ms.to_le_bytes());
        self.put(&id.seq.to_le_bytes());
    }

    /// A group of a stream: what is pending in it is a tally of its own.
    pub fn group(&mut self, name: &[u8], last_id: Id, pending: &Self) {
        self.put(b"group");
        self.put(name);
        self.id(last_id);
        self.put(&pending.digest().to_le_bytes());
        self.in_any_order();
    }

    /// An entry that a consumer has not acknowledged.
    pub fn pending(&mut self, id: Id, consumer: &[u8], deliveries: u64) {
        self.id(id);
        self.put(consumer);
        self.put(&deliveries.to_le_bytes());
        self.in_any_order();
    }

    /// The last id of a stream.
    pub fn last_id(&mut self, id: Id) {
        self.put(b"last");
        self.id(id);
        self.in_any_order();
    }

    /// The digest of all that was taken.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut all = [0; 40];
        let parts = [&self.chain.to_le_bytes()[..], &self.sum.to_le_bytes()];
        let count = self.count.to_le_bytes();
        let bytes = parts.into_iter().flatten().chain(&count);
        all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        xxh3_128(&all)
    }
}

/// What only its module can read: its bytes as DUMP gives them, but for the footer. They may come in
/// pieces of any size.
#[derive(Default)]
pub struct Opaque {
    hash: Xxh3,
    /// The last bytes so far, which may be the footer.
    last: Vec<u8>,
}

impl Opaque {
    /// The next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.last.extend_from_slice(bytes);
        let body = self.last.len().saturating_sub(FOOTER);
        self.hash.update(self.last.get(..body).unwrap_or_default());
        self.last.drain(..body);
    }

    /// The digest of all but the footer.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hash.digest128()
    }
}

/// The digest of a value as DUMP gave it.
#[must_use]
pub fn of_dump(payload: &[u8]) -> Digest {
    // What cannot be decoded is of a module, or newer than this program.
    of_decoded(payload).unwrap_or_else(|_| {
        let mut opaque = Opaque::default();
        opaque.take(payload);
        opaque.digest()
    })
}

fn of_decoded(payload: &[u8]) -> Result<Digest, Error> {
    let mut tally = Tally::default();
    match decode(payload)?.value {
        Value::String(text) => {
            let text = text.into_bytes();
            text.chunks(BLOCK).for_each(|block| tally.block(block));
        }
        Value::List(items) => each_item(items, &mut tally, Tally::in_order)?,
        Value::Set(items) => each_item(items, &mut tally, Tally::in_any_order)?,
        Value::SortedSet(scores) => each_member(scores, &mut tally)?,
        Value::Hash(fields) => each_field(fields, &mut tally)?,
        Value::Stream(stream) => whole_stream(*stream, &mut tally)?,
    }
    Ok(tally.digest())
}

fn each_item(mut items: Items<'_>, tally: &mut Tally, end: fn(&mut Tally)) -> Result<(), Error> {
    let mut digits = itoa::Buffer::new();
    while let Some(item) = items.next_item()? {
        tally.put(item.bytes(&mut digits));
        end(tally);
    }
    Ok(())
}

fn each_member(mut scores: Scores<'_>, tally: &mut Tally) -> Result<(), Error> {
    let mut digits = itoa::Buffer::new();
    while let Some((member, score)) = scores.next_member()? {
        tally.scored(member.bytes(&mut digits), score);
    }
    Ok(())
}

fn each_field(mut fields: Fields<'_>, tally: &mut Tally) -> Result<(), Error> {
    let (mut digits, mut more_digits) = (itoa::Buffer::new(), itoa::Buffer::new());
    while let Some(field) = fields.next_field()? {
        let name = field.name.bytes(&mut digits);
        let value = field.value.bytes(&mut more_digits);
        tally.field(name, value, field.expire_at_ms);
    }
    Ok(())
}

fn whole_stream(mut stream: Stream<'_>, tally: &mut Tally) -> Result<(), Error> {
    let mut digits = itoa::Buffer::new();
    while let Some(entry) = stream.next_entry()? {
        tally.id(entry.id);
        while let Some((name, value)) = stream.next_field()? {
            tally.put(name.bytes(&mut digits));
            tally.put(value.bytes(&mut digits));
        }
        tally.in_order();
    }
    tally.last_id(stream.last_id);
    while let Some(group) = stream.next_group()? {
        let mut pending = Tally::default();
        while let Some(consumer) = stream.next_consumer()? {
            for id in consumer.pending() {
                let at = group.pending.binary_search_by_key(&id, |p| p.id);
                let found = at.ok().and_then(|at| group.pending.get(at));
                let deliveries = found.map_or(0, |p| p.deliveries);
                pending.pending(id, consumer.name.bytes(&mut digits), deliveries);
            }
        }
        tally.group(group.name.bytes(&mut digits), group.last_id, &pending);
    }
    Ok(())
}

/// Where a HyperLogLog keeps the last answer to PFCOUNT.
const HLL_CACHED: std::ops::Range<usize> = 8..16;

/// Whether a string has the head of one: the magic, one of two encodings, three bytes of zero.
fn is_hyper_log_log(bytes: &[u8]) -> bool {
    matches!(bytes, [b'H', b'Y', b'L', b'L', 0 | 1, 0, 0, 0, ..]) && bytes.len() >= HLL_CACHED.end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rdb::payload;

    /// A string as it stands in a value.
    fn text(out: &mut Vec<u8>, bytes: &[u8]) {
        out.push(0x80);
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        out.extend_from_slice(bytes);
    }

    /// A value that is so many strings.
    fn plain(type_byte: u8, count: usize, strings: &[&[u8]], version: u16) -> Digest {
        let mut body = vec![0x80];
        body.extend_from_slice(&u32::try_from(count).unwrap().to_be_bytes());
        strings.iter().for_each(|string| text(&mut body, string));
        of_dump(&payload(type_byte, &body, version))
    }

    /// Small integers of a set, packed.
    fn intset(members: &[i16]) -> Digest {
        let mut set = 2_u32.to_le_bytes().to_vec();
        set.extend_from_slice(&u32::try_from(members.len()).unwrap().to_le_bytes());
        members
            .iter()
            .for_each(|m| set.extend_from_slice(&m.to_le_bytes()));
        let mut body = Vec::new();
        text(&mut body, &set);
        of_dump(&payload(11, &body, 9))
    }

    fn scores(members: &[(Vec<u8>, f64)]) -> Digest {
        let (mut binary, mut digits) = (vec![0x80], vec![0x80]);
        for out in [&mut binary, &mut digits] {
            out.extend_from_slice(&u32::try_from(members.len()).unwrap().to_be_bytes());
        }
        for (member, score) in members {
            text(&mut binary, member);
            binary.extend_from_slice(&score.to_le_bytes());
            text(&mut digits, member);
            let written = score.to_string();
            digits.push(u8::try_from(written.len()).unwrap());
            digits.extend_from_slice(written.as_bytes());
        }
        let digest = of_dump(&payload(5, &binary, 11));
        assert_eq!(digest, of_dump(&payload(3, &digits, 9)));
        digest
    }

    #[test]
    fn the_packing_and_the_version_do_not_count() {
        let strings: [&[u8]; 3] = [b"-7", b"1", b"300"];
        assert_eq!(intset(&[-7, 1, 300]), plain(2, 3, &strings, 9));
        assert_eq!(plain(2, 3, &strings, 9), plain(2, 3, &strings, 80));
        assert_ne!(intset(&[-7, 1, 301]), plain(2, 3, &strings, 9));
        // The number 7 in one byte, and as text.
        let number = of_dump(&payload(0, &[0xc0, 7], 9));
        assert_eq!(number, of_dump(&payload(0, b"\x017", 9)));
        assert_eq!(
            scores(&[(b"a".to_vec(), -0.0)]),
            scores(&[(b"a".to_vec(), 0.0)])
        );
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(
            plain(1, 2, &[b"ab", b"c"], 9),
            plain(1, 2, &[b"a", b"bc"], 9)
        );
        assert_ne!(
            plain(4, 1, &[b"ab", b"c"], 9),
            plain(4, 1, &[b"a", b"bc"], 9)
        );
        assert_ne!(plain(1, 0, &[], 9), plain(1, 1, &[b""], 9));
    }

    #[test]
    fn what_a_hyper_log_log_caches_does_not_count() {
        let with = |encoding: u8, cached: u8, register: u8| {
            let mut bytes = b"HYLL".to_vec();
            bytes.extend_from_slice(&[encoding, 0, 0, 0]);
            bytes.extend_from_slice(&[cached; 8]);
            bytes.push(register);
            let mut body = Vec::new();
            text(&mut body, &bytes);
            of_dump(&payload(0, &body, 9))
        };
        assert_eq!(with(1, 5, 1), with(1, 9, 1));
        assert_ne!(with(1, 5, 1), with(1, 5, 2));
        assert_ne!(with(b'!', 5, 1), with(b'!', 9, 1), "no HyperLogLog");
    }

    #[test]
    fn what_is_of_a_module_is_its_bytes_without_the_footer() {
        let value = |body: &[u8], version| of_dump(&payload(7, body, version));
        assert_eq!(value(b"some module", 9), value(b"some module", 80));
        assert_ne!(value(b"some module", 9), value(b"some modulf", 9));
        let whole = payload(7, b"some module", 11);
        let mut opaque = Opaque::default();
        whole.chunks(3).for_each(|piece| opaque.take(piece));
        assert_eq!(opaque.digest(), value(b"some module", 9));
    }

    #[test]
    fn a_string_in_blocks_is_the_string() {
        let bytes: Vec<u8> = (0..BLOCK + 1000)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let mut body = Vec::new();
        text(&mut body, &bytes);
        let mut tally = Tally::default();
        bytes.chunks(BLOCK).for_each(|block| tally.block(block));
        assert_eq!(tally.digest(), of_dump(&payload(0, &body, 9)));
    }

    proptest! {
        #[test]
        fn order_counts_where_there_is_one(
            mut items in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 0..20), 2..20)
                .prop_map(|set| set.into_iter().collect::<Vec<_>>()),
            turn in 1_usize..19,
            change in any::<prop::sample::Index>(),
        ) {
            let strings = |items: &[Vec<u8>]| items.iter().map(Vec::clone).collect::<Vec<_>>();
            let of = |kind, items: &[Vec<u8>]| {
                let slices: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
                plain(kind, items.len(), &slices, 9)
            };
            let before = strings(&items);
            let turned = { items.rotate_left(turn % before.len()); strings(&items) };
            prop_assert_eq!(of(2, &before), of(2, &turned));
            prop_assert_eq!(of(1, &before) == of(1, &turned), before == turned);
            let numbered = |items: &[Vec<u8>]| {
                items.iter().map(|i| (i.clone(), i.len() as f64 / 3.0)).collect::<Vec<_>>()
            };
            prop_assert_eq!(scores(&numbered(&before)), scores(&numbered(&turned)));
            // One element that is another.
            let mut other = before.clone();
            change.get_mut(&mut other).push(7);
            prop_assert_ne!(of(2, &before), of(2, &other));
            prop_assert_ne!(of(1, &before), of(1, &other));
            let mut scored = numbered(&before);
            change.get_mut(&mut scored).1 += 0.5;
            prop_assert_ne!(scores(&numbered(&before)), scores(&scored));
        }
    }
}
