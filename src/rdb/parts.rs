//! Large values in parts, so that nobody has to hold one whole.
//!
//! A collection is divided between its elements into collections of the same type, a string into
//! strings, a stream between its nodes; its groups go before its entries ([`groups`](super::groups)).
//! [`Rebuild`](super::commands::Rebuild) puts parts together. An element is never divided, and
//! neither is a structure that is packed into one string: servers keep those small.

use std::io::Read;
use std::mem;

use bytes::Bytes;

use super::block::SMALL;
use super::error::Error;
use super::groups::{Again, Ahead, Groups};
use super::input::{BUFFER_SIZE, Input};
use super::payload::{FOOTER_SIZE, lowest_version, seal};
use super::value::{STREAM_4, STREAM_FIRST, is_one_string, is_stream};
use super::{Reader, Value};

/// Which part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first.
    First,
    /// Neither the first nor the last.
    Middle,
    /// The last.
    Last,
}

/// What the reader gives of a value at once.
pub(super) enum Body {
    /// All of it: type byte and body, with room for the footer.
    Whole(Vec<u8>),
    /// The first part, as a payload, and what is left.
    First(Vec<u8>, Rest),
}

/// What is left of a value of which parts were given.
pub(super) struct Rest {
    /// What is known of the value; without payload.
    pub(super) value: Value,
    held: Option<Box<Held>>,
    /// None: there is nothing behind what is held.
    kind: Option<Kind>,
}

/// A part of a stream that waits for the stream's groups.
struct Held {
    groups: Groups,
    body: Vec<u8>,
}

/// How values are divided.
pub(super) struct Dividing {
    /// How large a value may be that is given whole, and how large parts are.
    size: usize,
    /// The same bytes, to look ahead.
    ahead: Ahead,
}

impl Dividing {
    pub(super) fn new(size: usize, again: impl Again + 'static) -> Self {
        Self {
            size: size.max(1),
            ahead: Input::new(Box::new(again), BUFFER_SIZE),
        }
    }
}

enum Kind {
    /// Elements of a collection, or nodes of a stream.
    Elements {
        /// The type, and what stands before the number of elements.
        lead: Vec<u8>,
        left: u64,
    },
    /// Bytes of a string.
    Plain { left: u64 },
    /// Bytes of a compressed string.
    Packed(Unpacking),
}

/// A string.
const STRING: u8 = 0;
/// The bytes of an integer in place of a string: they are not to be divided.
const INTEGER_MAX: usize = 4;
/// A hash with expiring fields, as Redis saves it: the earliest instant comes first.
const HASH_METADATA: u8 = 24;
/// What a stream has behind its nodes when it has nothing: length, last id, no groups.
const NO_TAIL: &[u8] = &[0, 0, 0, 0];
/// What stands for the groups of a stream that has none: their number.
const NO_GROUPS: &[u8] = &[0];

/// Whether values of a type are divided.
pub(super) const fn is_divisible(type_byte: u8) -> bool {
    type_byte == STRING || has_elements(type_byte)
}

const fn has_elements(type_byte: u8) -> bool {
    matches!(type_byte, 1 | 2 | 4 | 5 | 14 | 18 | 22 | HASH_METADATA) || is_stream(type_byte)
}

impl<R: Read> Reader<R> {
    /// Reads a value that is one small string, as small values of most types are, if it is in the
    /// buffer already; gives its payload.
    pub(super) fn small_payload(&mut self, type_byte: u8, version: u16) -> Option<Bytes> {
        let most = self
            .dividing
            .as_ref()
            .map_or(SMALL, |by| by.size.min(SMALL));
        let body = match is_one_string(type_byte) {
            true => self.input.string_here(most),
            false => None,
        };
        body.map(|body| self.block.payload(type_byte, body, version))
    }

    /// Reads a value, or its first part. `lead` is what a payload has before the body.
    pub(super) fn read_body(&mut self, type_byte: u8, lead: Vec<u8>) -> Result<Body, Error> {
        // Metadata of modules belong to the whole.
        let dividing = self.dividing.as_mut().filter(|_| lead.len() == 1);
        match dividing {
            Some(by) if type_byte == STRING => self.input.read_string(lead, by.size),
            Some(by) if is_stream(type_byte) => self.input.read_stream(lead, by),
            Some(by) if has_elements(type_byte) => self.input.read_elements(lead, by.size),
            _ => {
                self.input.start_capture(lead);
                self.input.skip_value(type_byte)?;
                Ok(Body::Whole(self.input.end_capture(FOOTER_SIZE)))
            }
        }
    }

    /// The next part, and what is left behind it.
    pub(super) fn read_part(&mut self, rest: Rest) -> Result<(Value, Place, Option<Rest>), Error> {
        let Rest {
            mut value,
            held,
            kind,
        } = rest;
        let (body, held, kind) = match (held, &mut self.dividing) {
            (Some(held), Some(by)) => {
                let (body, held) = held.next(by)?;
                (body, held, kind)
            }
            (held, by) => {
                let size = by.as_ref().map_or(usize::MAX, |by| by.size);
                let kind = kind.ok_or_else(|| self.input.malformed("nothing left"))?;
                let (body, kind) = self.input.read_part(kind, size)?;
                (body, held, kind)
            }
        };
        let more = held.is_some() || kind.is_some();
        let rest = more.then(|| Rest {
            value: value.clone(),
            held,
            kind,
        });
        let place = rest.as_ref().map_or(Place::Last, |_| Place::Middle);
        value.payload = self.sealed(body);
        Ok((value, place, rest))
    }

    /// The payload of a part.
    pub(super) fn sealed(&self, body: Vec<u8>) -> Bytes {
        let type_byte = body.first().copied().unwrap_or(STRING);
        let version = lowest_version(type_byte, self.version.flavour);
        seal(body, version.unwrap_or_default())
    }
}

impl Rest {
    /// The rest of this value.
    pub(super) fn of(self, value: Value) -> Self {
        Self { value, ..self }
    }
}

impl Held {
    /// Holds a part of a stream, and gives the first of the groups if there are any. So many nodes
    /// are left from an offset on; behind the part comes what is of this kind.
    fn body(
        body: Vec<u8>,
        (type_byte, offset, nodes): (u8, u64, u64),
        kind: Option<Kind>,
        by: &mut Dividing,
    ) -> Result<Body, Error> {
        let groups = Groups::find(&mut by.ahead, type_byte, offset, nodes)?;
        let (body, held) = Box::new(Self { groups, body }).next(by)?;
        Ok(match held.is_some() || kind.is_some() {
            true => Body::First(
                body,
                Rest {
                    value: Value::default(),
                    held,
                    kind,
                },
            ),
            false => Body::Whole(body),
        })
    }

    /// The next part of the groups; behind the last, what was held.
    fn next(mut self: Box<Self>, by: &mut Dividing) -> Result<(Vec<u8>, Option<Box<Self>>), Error> {
        Ok(match self.groups.next_part(&mut by.ahead, by.size)? {
            Some(body) => (body, Some(self)),
            None => (self.body, None),
        })
    }
}

impl<R: Read> Input<R> {
    fn read_string(&mut self, lead: Vec<u8>, size: usize) -> Result<Body, Error> {
        self.start_capture(lead);
        let (length, packed) = self.string_head()?;
        if length <= size.max(INTEGER_MAX) as u64 {
            self.skip(length)?;
            return Ok(Body::Whole(self.end_capture(FOOTER_SIZE)));
        }
        self.end_capture(0);
        let kind = match packed {
            None => Kind::Plain { left: length },
            Some(unpacked) => Kind::Packed(Unpacking {
                packed: length,
                unpacked,
                window: Vec::new(),
            }),
        };
        let (body, kind) = self.read_part(kind, size)?;
        Ok(first(body, kind))
    }

    fn read_elements(&mut self, lead: Vec<u8>, size: usize) -> Result<Body, Error> {
        let type_byte = lead.first().copied().unwrap_or_default();
        self.start_capture(lead);
        if type_byte == HASH_METADATA {
            self.skip(8)?;
        }
        let before_count = self.captured();
        let mut left = self.length()?;
        let before = self.captured();
        let taken = self.take_elements(type_byte, &mut left, size)?;
        if left == 0 {
            return Ok(Body::Whole(self.end_capture(FOOTER_SIZE)));
        }
        let mut lead = self.end_capture(0);
        let elements = lead.split_off(before.min(lead.len()));
        lead.truncate(before_count);
        let body = collection(&lead, taken, &elements, left);
        Ok(first(body, Some(Kind::Elements { lead, left })))
    }

    fn read_stream(&mut self, lead: Vec<u8>, by: &mut Dividing) -> Result<Body, Error> {
        let type_byte = lead.first().copied().unwrap_or_default();
        let body = self.read_elements(lead, by.size)?;
        let offset = self.offset();
        let body = match body {
            Body::Whole(nodes) => nodes,
            Body::First(nodes, Rest { kind, .. }) => {
                let left = match kind {
                    Some(Kind::Elements { left, .. }) => left,
                    _ => 0,
                };
                return Held::body(nodes, (type_byte, offset, left), kind, by);
            }
        };
        // All its nodes are no more than a part. Its groups may be.
        self.start_capture(body);
        let room = by.size.saturating_sub(self.captured());
        let has_all = self.capture_tail(type_byte, room)?;
        let body = self.end_capture(FOOTER_SIZE);
        match has_all {
            true => Ok(Body::Whole(body)),
            false => Held::body(body, (type_byte, offset, 0), None, by),
        }
    }

    /// Consumes elements until so much has been captured; how many they were.
    fn take_elements(&mut self, type_byte: u8, left: &mut u64, size: usize) -> Result<u64, Error> {
        let before = *left;
        while *left > 0 {
            self.skip_element(type_byte)?;
            *left = left.saturating_sub(1);
            if self.captured() >= size {
                break;
            }
        }
        Ok(before.saturating_sub(*left))
    }

    /// Captures what a stream has behind its nodes: its groups only if they take no more than so
    /// many bytes. Whether they were captured.
    fn capture_tail(&mut self, type_byte: u8, groups_max: usize) -> Result<bool, Error> {
        self.skip_stream_numbers(type_byte)?;
        let mut kept = self.end_capture(0);
        self.start_capture_within(groups_max);
        self.skip_stream_groups(type_byte)?;
        let groups = self.end_capture_within();
        kept.extend_from_slice(groups.as_deref().unwrap_or(NO_GROUPS));
        self.start_capture(kept);
        if type_byte >= STREAM_4 {
            self.skip_stream_producers()?;
        }
        Ok(groups.is_some())
    }

    /// Type and body of the next part, and what is left behind it.
    fn read_part(&mut self, kind: Kind, size: usize) -> Result<(Vec<u8>, Option<Kind>), Error> {
        match kind {
            Kind::Elements { lead, mut left } => {
                let type_byte = lead.first().copied().unwrap_or_default();
                self.start_capture(Vec::new());
                let taken = self.take_elements(type_byte, &mut left, size)?;
                if left == 0 && is_stream(type_byte) {
                    // The groups went before.
                    self.capture_tail(type_byte, 0)?;
                }
                let elements = self.end_capture(0);
                let body = collection(&lead, taken, &elements, left);
                Ok((body, (left > 0).then_some(Kind::Elements { lead, left })))
            }
            Kind::Plain { left } => {
                let taken = left.min(size as u64);
                let mut lead = vec![STRING];
                put_length(&mut lead, taken);
                self.start_capture(lead);
                self.skip(taken)?;
                let left = left.saturating_sub(taken);
                let body = self.end_capture(FOOTER_SIZE);
                Ok((body, (left > 0).then_some(Kind::Plain { left })))
            }
            Kind::Packed(mut unpacking) => {
                let text = unpacking.read(self, size)?;
                let mut body = vec![STRING];
                put_length(&mut body, text.len() as u64);
                body.extend_from_slice(&text);
                let more = unpacking.packed > 0;
                Ok((body, more.then_some(Kind::Packed(unpacking))))
            }
        }
    }
}

/// The first part of a value that is longer; or all of it, when there is no more.
fn first(body: Vec<u8>, kind: Option<Kind>) -> Body {
    match kind {
        None => Body::Whole(body),
        Some(kind) => Body::First(
            body,
            Rest {
                value: Value::default(),
                held: None,
                kind: Some(kind),
            },
        ),
    }
}

/// Type and body of a collection of so many elements, behind which so many are left.
fn collection(lead: &[u8], count: u64, elements: &[u8], left: u64) -> Vec<u8> {
    let is_stream = lead.first().is_some_and(|t| is_stream(*t));
    let (lead, tail) = match is_stream && left > 0 {
        // Of the oldest form, which has the fewest things behind the nodes.
        true => (&[STREAM_FIRST][..], NO_TAIL),
        false => (lead, &[][..]),
    };
    let room = elements.len().saturating_add(lead.len()).saturating_add(32);
    let mut body = Vec::with_capacity(room);
    body.extend_from_slice(lead);
    put_length(&mut body, count);
    body.extend_from_slice(elements);
    body.extend_from_slice(tail);
    body
}

pub(super) fn put_length(out: &mut Vec<u8>, length: u64) {
    match (u8::try_from(length), u32::try_from(length)) {
        (Ok(short @ 0..64), _) => out.push(short),
        (_, Ok(length)) => {
            out.push(0x80);
            out.extend_from_slice(&length.to_be_bytes());
        }
        (_, Err(_)) => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// A compressed string, unpacked part by part. See [`lzf_decompress`](super::lzf_decompress).
struct Unpacking {
    /// Bytes that are left to read.
    packed: u64,
    /// Bytes that they make.
    unpacked: u64,
    /// The last bytes made, to which what follows may refer.
    window: Vec<u8>,
}

/// How far back a reference may reach.
const WINDOW: usize = 1 << 13;

impl Unpacking {
    /// Makes at least so many bytes, or all that are left.
    fn read<R: Read>(&mut self, input: &mut Input<R>, size: usize) -> Result<Vec<u8>, Error> {
        let wrong = |input: &Input<R>| input.malformed("compressed string that cannot be unpacked");
        let known = self.window.len();
        let mut made = mem::take(&mut self.window);
        while self.packed > 0 && made.len().saturating_sub(known) < size {
            let before = input.offset();
            let control = input.byte()?;
            if control < 0x20 {
                made.extend(input.bytes(u64::from(control).saturating_add(1))?);
            } else {
                let more = match control >> 5 {
                    7 => input.byte()?,
                    _ => 0,
                };
                let low = input.byte()?;
                let back = usize::from(u16::from_be_bytes([control & 0x1f, low]));
                let count = usize::from(control >> 5).saturating_add(usize::from(more));
                let from = made.len().checked_sub(back.saturating_add(1));
                let from = from.ok_or_else(|| wrong(input))?;
                for at in from..from.saturating_add(count).saturating_add(2) {
                    let byte = made.get(at).copied().ok_or_else(|| wrong(input))?;
                    made.push(byte);
                }
            }
            let used = input.offset().saturating_sub(before);
            self.packed = self.packed.checked_sub(used).ok_or_else(|| wrong(input))?;
        }
        self.window = made
            .get(made.len().saturating_sub(WINDOW)..)
            .unwrap_or_default()
            .to_vec();
        let text = made.split_off(known.min(made.len()));
        let left = self.unpacked.checked_sub(text.len() as u64);
        self.unpacked = left.ok_or_else(|| wrong(input))?;
        if self.packed == 0 && self.unpacked > 0 {
            return Err(wrong(input));
        }
        Ok(text)
    }
}
