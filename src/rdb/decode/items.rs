//! The elements of lists, sets, sorted sets and hashes.

use super::cursor::Cursor;
use super::error::Error;
use super::packed::{Form, Packed};
use super::text::{Text, parse_score};

/// The elements of a list or a set, in the order of the payload.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    cursor: Cursor<'a>,
    source: Source<'a>,
}

/// Where elements come from.
#[derive(Clone, Debug)]
enum Source<'a> {
    /// So many elements, strings of their own.
    Plain(u64),
    /// One packed structure.
    Packed(Packed<'a>),
    /// So many nodes of a list, and the packed one being read.
    Nodes {
        left: u64,
        form: NodeForm,
        node: Option<Packed<'a>>,
    },
}

/// How the nodes of a list are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeForm {
    Ziplist,
    /// As a number before each says: one element as it is, or a listpack.
    Said,
}

/// A node that is one element.
const PLAIN_NODE: u64 = 1;
/// A node that is a listpack.
const PACKED_NODE: u64 = 2;

impl<'a> Items<'a> {
    /// Elements of their own, each of which takes at least so many bytes.
    pub(super) fn plain(mut cursor: Cursor<'a>, least: usize) -> Result<Self, Error> {
        let source = Source::Plain(cursor.count(least)?);
        Ok(Self { cursor, source })
    }

    /// Elements in one packed structure.
    pub(super) fn packed(mut cursor: Cursor<'a>, form: Form) -> Result<Self, Error> {
        let source = Source::Packed(open(&mut cursor, form)?);
        Ok(Self { cursor, source })
    }

    /// Elements in nodes that are ziplists.
    pub(super) fn ziplists(cursor: Cursor<'a>) -> Result<Self, Error> {
        Self::nodes(cursor, NodeForm::Ziplist)
    }

    /// Elements in nodes that say what they are.
    pub(super) fn said(cursor: Cursor<'a>) -> Result<Self, Error> {
        Self::nodes(cursor, NodeForm::Said)
    }

    fn nodes(mut cursor: Cursor<'a>, form: NodeForm) -> Result<Self, Error> {
        let source = Source::Nodes {
            left: cursor.count(1)?,
            form,
            node: None,
        };
        Ok(Self { cursor, source })
    }

    /// The next element; nothing once they and the value are at their end.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn next_item(&mut self) -> Result<Option<Text<'_>>, Error> {
        if !self.advance()? {
            return Ok(None);
        }
        match &mut self.source {
            Source::Plain(_) => self.cursor.string().map(Some),
            Source::Packed(packed)
            | Source::Nodes {
                node: Some(packed), ..
            } => {
                let next = packed.next();
                next.map(Some).map_err(|wrong| self.cursor.malformed(wrong))
            }
            Source::Nodes { node: None, .. } => self.cursor.string().map(Some),
        }
    }

    /// As many strings, of one packed structure or of their own; nothing at the end.
    fn next_of<const N: usize>(&mut self) -> Result<Option<[Text<'_>; N]>, Error> {
        if !self.advance()? {
            return Ok(None);
        }
        match &mut self.source {
            Source::Packed(packed) => {
                let next = packed.next_of();
                next.map(Some).map_err(|wrong| self.cursor.malformed(wrong))
            }
            Source::Plain(_) | Source::Nodes { .. } => {
                let mut texts = [const { Text::Number(0) }; N];
                for text in &mut texts {
                    *text = self.cursor.string()?;
                }
                Ok(Some(texts))
            }
        }
    }

    /// Goes to where the next element is; whether there is one.
    fn advance(&mut self) -> Result<bool, Error> {
        let more = match &mut self.source {
            Source::Plain(left) => take_one(left),
            Source::Packed(packed) => more_of(packed, &self.cursor)?,
            Source::Nodes { left, form, node } => loop {
                if let Some(packed) = node {
                    if more_of(packed, &self.cursor)? {
                        break true;
                    }
                    *node = None;
                }
                if !take_one(left) {
                    break false;
                }
                let form = match form {
                    NodeForm::Ziplist => Form::Ziplist,
                    NodeForm::Said => match self.cursor.length()? {
                        PLAIN_NODE => break true,
                        PACKED_NODE => Form::Listpack,
                        _ => return Err(self.cursor.malformed("unknown kind of a node")),
                    },
                };
                *node = Some(open(&mut self.cursor, form)?);
            },
        };
        if !more {
            self.cursor.end()?;
        }
        Ok(more)
    }
}

fn open<'a>(cursor: &mut Cursor<'a>, form: Form) -> Result<Packed<'a>, Error> {
    let blob = cursor.blob()?;
    Packed::open(form, blob).map_err(|wrong| cursor.malformed(wrong))
}

fn take_one(left: &mut u64) -> bool {
    let more = *left > 0;
    *left = left.saturating_sub(1);
    more
}

fn more_of(packed: &Packed<'_>, cursor: &Cursor<'_>) -> Result<bool, Error> {
    if !packed.ended() {
        return Ok(true);
    }
    packed.end().map_err(|wrong| cursor.malformed(wrong))?;
    Ok(false)
}

/// The members of a sorted set and their scores.
#[derive(Clone, Debug)]
pub struct Scores<'a> {
    items: Items<'a>,
    form: ScoreForm,
}

/// How scores are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScoreForm {
    /// A byte for the length, and digits.
    Digits,
    /// Eight bytes.
    Binary,
    /// As the entry after the member.
    Packed,
}

impl<'a> Scores<'a> {
    pub(super) const fn new(items: Items<'a>, form: ScoreForm) -> Self {
        Self { items, form }
    }

    /// The next member and its score, which is never NaN; nothing at the end of the value.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn next_member(&mut self) -> Result<Option<(Text<'_>, f64)>, Error> {
        if self.form == ScoreForm::Packed {
            let cursor = self.items.cursor;
            let Some([member, score]) = self.items.next_of()? else {
                return Ok(None);
            };
            let score = score.score().ok_or_else(|| no_score(&cursor))?;
            return Ok(Some((member, score)));
        }
        if !self.items.advance()? {
            return Ok(None);
        }
        let cursor = &mut self.items.cursor;
        let member = cursor.string()?;
        let score = match self.form {
            ScoreForm::Binary => Some(f64::from_le_bytes(cursor.array()?)),
            _ => score_in_digits(cursor)?,
        };
        let score = score.filter(|score| !score.is_nan());
        Ok(Some((member, score.ok_or_else(|| no_score(cursor))?)))
    }
}

fn no_score(cursor: &Cursor<'_>) -> Error {
    cursor.malformed("a score that is no number")
}

/// A score of old: the greatest three lengths are no lengths.
fn score_in_digits(cursor: &mut Cursor<'_>) -> Result<Option<f64>, Error> {
    Ok(match cursor.byte()? {
        255 => Some(f64::NEG_INFINITY),
        254 => Some(f64::INFINITY),
        253 => None,
        length => parse_score(cursor.take(length.into())?),
    })
}

/// A field of a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name.
    pub name: Text<'a>,
    /// Its value.
    pub value: Text<'a>,
    /// When it expires, in milliseconds since 1970; none for never.
    pub expire_at_ms: Option<u64>,
}

/// The fields of a hash.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    items: Items<'a>,
    form: FieldForm,
}

/// How fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldForm {
    /// Name, value.
    Pairs,
    /// Name, value, instant in eight bytes, -1 for never. Valkey.
    Instants,
    /// Instant, name, value: 0 for never, else counted from one before the earliest. Redis.
    Relative { earliest: u64 },
    /// Name, value, instant, 0 for never, in a listpack. Redis.
    Triples,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(items: Items<'a>, form: FieldForm) -> Self {
        Self { items, form }
    }

    /// The next field; nothing at the end of the value.
    ///
    /// # Errors
    /// The payload is malformed.
    pub fn next_field(&mut self) -> Result<Option<Field<'_>>, Error> {
        let cursor = self.items.cursor;
        match self.form {
            FieldForm::Pairs => Ok(self.items.next_of()?.map(|[name, value]| Field {
                name,
                value,
                expire_at_ms: None,
            })),
            FieldForm::Triples => {
                let Some([name, value, instant]) = self.items.next_of()? else {
                    return Ok(None);
                };
                let instant = instant.number().and_then(|n| u64::try_from(n).ok());
                let instant = instant.ok_or_else(|| cursor.malformed("no instant of expiry"))?;
                Ok(Some(Field {
                    name,
                    value,
                    expire_at_ms: (instant != 0).then_some(instant),
                }))
            }
            FieldForm::Instants | FieldForm::Relative { .. } => self.next_plain(),
        }
    }

    /// A field with an instant, all of them on their own.
    fn next_plain(&mut self) -> Result<Option<Field<'_>>, Error> {
        if !self.items.advance()? {
            return Ok(None);
        }
        let cursor = &mut self.items.cursor;
        let before = match self.form {
            FieldForm::Relative { earliest } => match cursor.length()? {
                0 => None,
                after => Some(earliest.saturating_add(after.saturating_sub(1))),
            },
            _ => None,
        };
        let (name, value) = (cursor.string()?, cursor.string()?);
        let expire_at_ms = match self.form {
            FieldForm::Instants => match i64::from_le_bytes(cursor.array()?) {
                -1 => None,
                instant => Some(u64::try_from(instant).unwrap_or(0)),
            },
            _ => before,
        };
        Ok(Some(Field {
            name,
            value,
            expire_at_ms,
        }))
    }
}
