//! Commands in the form of the protocol, written one after the other until a piece is full.

use std::collections::BTreeMap;
use std::mem;

use super::{Limits, Piece};

/// How many elements one command has at most: enough that the command costs nothing beside them,
/// few enough that it does not hold up the server.
const ELEMENTS_MAX: usize = 1024;
/// What a command that has fields expire takes beside the key and the fields, at most.
const EXPIRY_HEAD: usize = 100;
/// How many commands one step may add: a field and its expiry.
const STEP_COMMANDS: usize = 2;

/// The commands of a piece, and the one that may still grow.
pub(super) struct Writer<'a> {
    key: &'a [u8],
    limits: Limits,
    bytes: Vec<u8>,
    commands: usize,
    open: Option<Open>,
    /// Fields of the open command that expire, by the instant: arguments and their number.
    expiring: BTreeMap<u64, (Vec<u8>, usize)>,
    expiring_bytes: usize,
    /// Whether the piece ends here, whatever room there is.
    ended: bool,
}

/// A command whose last elements are at the end of the bytes, and whose beginning is missing: only
/// when it ends is it known how many arguments it has.
struct Open {
    name: &'static str,
    from: usize,
    elements: usize,
    args: usize,
}

impl<'a> Writer<'a> {
    pub(super) const fn new(key: &'a [u8], limits: Limits) -> Self {
        Self {
            key,
            limits,
            bytes: Vec::new(),
            commands: 0,
            open: None,
            expiring: BTreeMap::new(),
            expiring_bytes: 0,
            ended: false,
        }
    }

    /// The key.
    pub(super) const fn key(&self) -> &'a [u8] {
        self.key
    }

    /// How many bytes a piece may have.
    pub(super) const fn bytes_max(&self) -> usize {
        self.limits.bytes
    }

    /// Whether the piece has no room for what one step writes.
    pub(super) fn full(&self) -> bool {
        let bytes = self.bytes.len().saturating_add(self.expiring_bytes);
        let open = usize::from(self.open.is_some()).saturating_add(self.expiring.len());
        let commands = self.commands.saturating_add(open);
        let room = self.limits.commands.saturating_sub(commands);
        // Whatever the limits: a piece without commands would be the end.
        self.ended || (commands > 0 && (bytes >= self.limits.bytes || room < STEP_COMMANDS))
    }

    /// Ends the piece with what is written.
    pub(super) const fn end(&mut self) {
        self.ended = true;
    }

    /// Ends the piece and gives it; none when nothing was written.
    pub(super) fn take(&mut self) -> Option<Piece> {
        self.close();
        self.ended = false;
        let piece = Piece {
            commands: mem::take(&mut self.commands),
            bytes: mem::take(&mut self.bytes),
        };
        (piece.commands > 0).then_some(piece)
    }

    /// Writes a whole command.
    pub(super) fn command(&mut self, args: &[&[u8]]) {
        self.begin(args.len() as u64);
        for arg in args {
            self.arg(arg);
        }
    }

    /// Begins a command of so many arguments, which [`arg`](Self::arg) must then be given.
    pub(super) fn begin(&mut self, args: u64) {
        self.close();
        self.commands = self.commands.saturating_add(1);
        put_header(&mut self.bytes, b'*', args);
    }

    /// Writes an argument.
    pub(super) fn arg(&mut self, arg: &[u8]) {
        put_arg(&mut self.bytes, arg);
    }

    /// Adds an element to a command of that name on the key: the open one, or a new one.
    pub(super) fn element(&mut self, name: &'static str, parts: &[&[u8]]) {
        let fits = |open: &Open| open.name == name && open.elements < ELEMENTS_MAX;
        if !self.open.as_ref().is_some_and(fits) {
            self.close();
            self.open = Some(Open {
                name,
                from: self.bytes.len(),
                elements: 0,
                args: 0,
            });
        }
        for part in parts {
            put_arg(&mut self.bytes, part);
        }
        if let Some(open) = &mut self.open {
            open.elements = open.elements.saturating_add(1);
            open.args = open.args.saturating_add(parts.len());
        }
    }

    /// Has a field expire that was an element of the open command.
    pub(super) fn expire(&mut self, field: &[u8], at_ms: u64) {
        let (args, count) = self.expiring.entry(at_ms).or_default();
        let before = args.len();
        let head = match *count {
            0 => self.key.len().saturating_add(EXPIRY_HEAD),
            _ => 0,
        };
        put_arg(args, field);
        *count = count.saturating_add(1);
        let more = args.len().saturating_sub(before);
        let more = more.saturating_add(head);
        self.expiring_bytes = self.expiring_bytes.saturating_add(more);
    }

    /// Completes the open command, and writes the expiries of its fields.
    fn close(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let mut lead = Vec::new();
        put_header(&mut lead, b'*', (open.args as u64).saturating_add(2));
        put_arg(&mut lead, open.name.as_bytes());
        put_arg(&mut lead, self.key);
        self.bytes.splice(open.from..open.from, lead);
        self.commands = self.commands.saturating_add(1);
        self.expiring_bytes = 0;
        for (at_ms, (args, count)) in mem::take(&mut self.expiring) {
            let count = count as u64;
            let (mut at_digits, mut count_digits) = (itoa::Buffer::new(), itoa::Buffer::new());
            self.begin(count.saturating_add(5));
            self.arg(b"HPEXPIREAT");
            self.arg(self.key);
            self.arg(at_digits.format(at_ms).as_bytes());
            self.arg(b"FIELDS");
            self.arg(count_digits.format(count).as_bytes());
            self.bytes.extend_from_slice(&args);
        }
    }
}

fn put_header(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn put_arg(out: &mut Vec<u8>, arg: &[u8]) {
    put_header(out, b'$', arg.len() as u64);
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}
