//! Reading the stream: what is judged, and what the journal is told of it before anybody else.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use tandem::converge::Overrun;
use tandem::model::{BatchReader, Entry, FrameBuilder, Key, Mark, Offset, Record, Tags};
use tandem::progress::{FenceSeen, seen_without_parts};

use crate::redis::Event;
use crate::site::{Frame, Sidecar, Site, effects_of, place};

/// Where the sidecar is killed while it appends to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// Not at all.
    No,
    /// When the records of peers are in it, and what says that they are judged is not.
    BetweenFrames,
}

impl Site {
    /// Reads so many events at most, and journals what they were. Whether there was anything.
    pub(crate) fn read(&mut self, most: usize, now: u64, kill: Kill) -> bool {
        let mut is_busy = false;
        for _ in 0..most {
            let Some(event) = self.redis.stream.get(self.sidecar.read).cloned() else {
                break;
            };
            self.sidecar.read += 1;
            self.on_event(event, now + self.skew);
            is_busy = true;
        }
        self.commit(kill) || is_busy
    }

    /// Where the reading is.
    fn read_up_to(&self) -> Offset {
        Offset(self.sidecar.state.began.0 + self.sidecar.read as u64)
    }

    fn on_event(&mut self, event: Event, now_ms: u64) {
        let at = place(self.read_up_to());
        let sidecar = &mut self.sidecar;
        match event {
            Event::Write {
                db,
                commands,
                count,
            } => {
                let hlc = sidecar.clock.stamp(now_ms);
                let (causes, marks) = (sidecar.judge.causes(), &sidecar.progress.marks);
                let part = causes.and_then(|_| seen_without_parts(&sidecar.seen, marks));
                let tags = Tags {
                    offset: at.offset,
                    hlc,
                    db,
                    seen: part.as_ref().unwrap_or(&sidecar.seen),
                    causes: causes.unwrap_or(&sidecar.seen),
                    count,
                };
                sidecar.frame.push(tags, &commands);
                let mut effects = effects_of((&commands, db), &self.catalog);
                if self.keeps_evictions {
                    let touches = &effects.touches;
                    sidecar.judge.on_own_commands(&commands, (db, at), touches);
                }
                sidecar.judge.on_own(&mut effects, at, hlc);
            }
            Event::Echo {
                origin,
                mark,
                deleted,
            } => {
                sidecar.clock.observe(mark.hlc, now_ms);
                Arc::make_mut(&mut sidecar.seen).advance(&origin, mark.at);
                let frame = &mut sidecar.frame;
                frame.push_echo(&origin, mark.at, mark.hlc, at.offset);
                let known = sidecar.progress.marks.get(&origin);
                if known.is_none_or(|known| known.stands_elsewhere(&mark)) {
                    frame.push_mark(&origin, mark.to_string().as_bytes());
                    let marks = Arc::make_mut(&mut sidecar.progress.marks);
                    marks.insert(origin.clone(), Mark::clone(&mark));
                }
                let here = (sidecar.life, now_ms);
                sidecar.judge.on_echo(&origin, &mark, deleted, here, at);
                if let Some(causes) = sidecar.judge.causes() {
                    sidecar.seen_at.note(at, causes);
                }
            }
            Event::Fence(name, instance, number) if instance == sidecar.life => {
                let seen = Arc::clone(&sidecar.seen);
                let causes = Arc::clone(sidecar.judge.causes().unwrap_or(&seen));
                let fence = FenceSeen {
                    instance,
                    number,
                    at,
                    seen,
                    causes,
                };
                Arc::make_mut(&mut sidecar.progress.fences).insert(name, fence);
            }
            Event::Fence(..) => {}
            Event::SelfMark(number) => {
                let known = &mut sidecar.progress.self_mark;
                *known = number.max(*known);
                sidecar.frame.push_self_mark(number, at.offset);
            }
            Event::Evicted(key) => sidecar.judge.on_evicted(&key),
        }
    }

    /// Judges, appends to the journal, and then tells everybody. Whether there was anything to append.
    fn commit(&mut self, kill: Kill) -> bool {
        let end = self.read_up_to();
        let at = place(end);
        let judge = &mut self.sidecar.judge;
        judge.note();
        judge.on_owed(at);
        judge.on_late(at);
        let mut found = judge.take();
        while !found.overruns.is_empty() {
            for overrun in std::mem::take(&mut found.overruns) {
                let keys = self.written_since(&overrun);
                self.sidecar.judge.on_overrun(&overrun, keys, at);
            }
            self.sidecar.judge.go_on(at);
            found.append(self.sidecar.judge.take());
        }
        for note in &found.notes {
            self.say(|| format!("notes {note:?} @{}", end.0));
        }
        let Sidecar {
            judge, deliveries, ..
        } = &mut self.sidecar;
        judge.forget(deliveries.by_all().seen, |site| deliveries.of_third(site));
        if !found.foreign.is_empty() {
            let mut frame = FrameBuilder::new(Offset(0));
            for (origin, place, record) in &found.foreign {
                frame.push_foreign(origin, *place, record);
            }
            let read = self.sidecar.progress.read.offset;
            let frame = Frame {
                start: read,
                end: read,
                last_record: None,
                body: frame.finish().into(),
                saved: None,
            };
            self.journal.append(frame);
        }
        if kill == Kill::BetweenFrames {
            return true;
        }
        let frame = &mut self.sidecar.frame;
        for note in &found.notes {
            frame.push_judgement(note);
        }
        let is_busy = !frame.is_empty();
        if is_busy {
            let frame = std::mem::replace(frame, FrameBuilder::new(end));
            let frame = Frame {
                start: frame.start(),
                end,
                last_record: frame.last_record(),
                body: frame.finish().into(),
                saved: None,
            };
            self.journal.append(frame);
        } else {
            frame.begin(end);
        }
        self.sidecar.judge.release();
        self.sidecar.progress.read = at;
        self.sidecar.publish();
        is_busy
    }

    /// The keys that are wrong here after a write of whole databases.
    fn written_since(&self, overrun: &Overrun) -> Vec<Key> {
        let frame = &self.sidecar.frame;
        let body = Bytes::copy_from_slice(frame.body());
        let unwritten = BatchReader::new(frame.start(), body);
        let unwritten: Vec<Record> = unwritten
            .filter_map(|entry| match entry {
                Ok(Entry::Record(record)) => Some(record),
                _ => None,
            })
            .collect();
        let seen = overrun.seen.of(&self.name);
        let own = self.journal.records.iter().chain(&unwritten);
        let own = own.filter(|record| place(record.offset) > seen);
        let own = own.map(|record| (&self.name, record));
        let third = overrun.third.iter().map(|(site, record)| (site, record));
        let mut keys = BTreeSet::new();
        let wrong = own
            .chain(third)
            .filter(|(site, record)| overrun.is_wrong(site, record.hlc));
        for (_, record) in wrong {
            overrun.add_keys(&self.catalog, record, &mut keys);
        }
        keys.into_iter().collect()
    }
}

impl Sidecar {
    /// Shows how far the stream was read.
    pub(crate) fn publish(&mut self) {
        self.progress.seen = Arc::clone(&self.seen);
        self.progress.causes = Arc::clone(self.judge.causes().unwrap_or(&self.seen));
        self.progress.judged = Arc::clone(self.judge.judged());
    }
}
