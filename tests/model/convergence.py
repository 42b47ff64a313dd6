#!/usr/bin/env python3
"""How two to five sites, all linked with each other, come to the same data: an executable model.

Each site is a Redis that knows of nothing, and a sidecar beside it. The Redis has data and one stream; in the stream
stand, in the one order in which they took effect there, the writes of clients (`own`), what the sidecar has applied of
a peer's records (`echo`), states of keys that it has taken from a peer (`take`), and marks (`fence`, `read`). The
sidecar reads the stream behind time; it makes records of the own writes and sends them to every peer; it judges the
echoes; and it asks for states where the value here is wrong, or may be. Links carry, first in, first out: records,
states, STALE, ticks (how much a site has seen); and questions beside them.

Two sites that wrote at the same time find the same pair of writes that had not seen each other. If the two do not
commute, rank says which comes first: a delete, then the earlier stamp, then the lesser name; a delete yields to a change
of the time to live, and to a move. Whoever has executed them in the wrong order asks the other for the state of the key.

Three sites and more have an ARBITER: the site whose name sorts first. It does as of two sites: where its own order is
wrong it asks the origin. All others ask the arbiter about every conflict that they find, in whichever order it took
effect there. It answers when it wants the key from nobody within reach; it is answered at once. When it has taken a
state, it tells all that what they have of the key is STALE. So all end with what the arbiter has at last; and of two
concurrent writes that is what rank says. While a site has no session with the arbiter, it asks the origin besides where
it is wrong, as of two sites; the wish for that is noted in any case, and dormant while there is a session.

The rules are marked RULE.

Usage:
  convergence.py [--sites 2,3] [--mix all] [--runs 1000] [--cuts P] [--crash P]     random schedules
  convergence.py --sites 3 --mix multi --seed 7          one of them, with all that happens
  convergence.py --histories                             histories.json against this model
  two_writers.py --sites 2,3                             two concurrent writes: every pair, rank, place and arrival
The exit code is 1 when anything failed. At rest all sites must be equal, with nothing wanted, asked or stale; sums must
be exact, and loads of sums only must send no state; and of two writes the promised value must be there.

Left out: SWAPDB, copies of all the data, journals that are trimmed, more than one answer at a time per key.

histories.json is a list of histories of one judge, for tests of other implementations:
  name, rule   what it shows
  sites        their names; the first is the arbiter if there are three
  judge        the site whose wishes are looked at
  linked       whether it has a session with the arbiter; of two sites it does not matter
  steps        in the order of the judge's stream:
    {"own": {"offset", "hlc", "command"}}    a client has written here; it had seen all that is applied
    {"applied": {"origin", "offset", "hlc", "seen": {site: offset}, "command", "failed"?}}    the echo of a peer's record;
                 what is not in `seen` it had not seen; "failed": the command has failed here
    {"told": {"by", "seen": {site: offset}}}    a peer has told, behind its records, how much it has seen
    {"paid": {"of", "key"}}                     the state of a key was taken from a peer, with everything that is here
    {"stale": {"key"}}                          the arbiter says that what it had sent is not right
  wishes       [key, of whom] after all steps, without what was paid. `k?`: doubts only. `1:k`: of database 1
  dormant      the same, of those that are noted, but asked for only when the session with the arbiter is over
A command may be a unit of several, parted by `; `. Those with `overrun` need names of keys that a flush has met.
"""

import argparse, itertools, json, os, random, sys, time
from collections import namedtuple

ARBITER = 0                                                     # of three sites and more
NAMES = "abcde"

# ---- a small Redis ------------------------------------------------------------------------------------------------
# A database maps (db, name) to (type, value, ttl). An operation is a tuple: its name, its key, its arguments.


def value_of(db, key, kind, empty):
    """What a write of this type finds: (value, ttl), or None when the key has another type."""
    old = db.get(key)
    if old is None: return empty, None
    return (old[1], old[2]) if old[0] == kind else None


def execute(db, op):
    """Executes one operation. Returns False when it fails (on the type), else None."""
    name, key = op[0], op[1]
    if name == "SET": db[key] = ("str", op[2], None)
    elif name == "DEL": db.pop(key, None)
    elif name == "INCR":
        found = value_of(db, key, "str", 0)
        if found is None or not isinstance(found[0], int): return False
        db[key] = ("str", found[0] + 1, found[1])
    elif name == "APPEND":
        found = value_of(db, key, "str", "")
        if found is None: return False
        db[key] = ("str", f"{found[0]}{op[2]}", found[1])
    elif name == "LPUSH":
        found = value_of(db, key, "list", ())
        if found is None: return False
        db[key] = ("list", (op[2],) + found[0], found[1])
    elif name in ("HSET", "HDEL", "HINCRBY"):
        found = value_of(db, key, "hash", ())
        if found is None: return False
        fields = dict(found[0])
        if name == "HSET": fields[op[2]] = op[3]
        elif name == "HDEL": fields.pop(op[2], None)
        elif not isinstance(fields.get(op[2], 0), int): return False
        else: fields[op[2]] = fields.get(op[2], 0) + 1
        put(db, key, "hash", tuple(sorted(fields.items())), found[1])
    elif name in ("SADD", "SREM"):
        found = value_of(db, key, "set", ())
        if found is None: return False
        members = set(found[0]) | {op[2]} if name == "SADD" else set(found[0]) - {op[2]}
        put(db, key, "set", tuple(sorted(members)), found[1])
    elif name == "EXPIRE":
        if key in db: db[key] = db[key][:2] + (op[2],)
    elif name in ("RENAME", "MOVE"):
        if key not in db: return False if name == "RENAME" else None
        if name == "MOVE" and op[2] in db: return None
        db[op[2]] = db.pop(key)
    elif name == "COPY":
        if key in db: db[op[2]] = db[key]
    elif name == "STORE":                                       # SUNIONSTORE key a b
        found = [value_of(db, k, "set", ()) for k in op[2:4]]
        if None in found: return False
        put(db, key, "set", tuple(sorted(set(found[0][0]) | set(found[1][0]))), None)
    elif name == "FLUSH":
        for k in [k for k in db if k[0] == key[0]]: del db[k]
    else: raise ValueError(name)


def put(db, key, kind, value, ttl):
    """A key goes with its last element, and with it its time to live."""
    if value: db[key] = (kind, value, ttl)
    else: db.pop(key, None)


# ---- what commands do to keys -------------------------------------------------------------------------------------
ACTS = {"SET": "write", "DEL": "delete", "INCR": "sum", "APPEND": "write", "LPUSH": "write", "EXPIRE": "expiry",
        "HSET": "set", "HDEL": "remove", "HINCRBY": "raise", "SADD": "add", "SREM": "remove", "FLUSH": "flush"}
OF_ELEMENT = {"set", "add", "raise", "remove"}
COMMUTE = {frozenset([a]) for a in ("read", "sum", "delete", "flush", "add", "raise", "remove")} \
    | {frozenset(["expiry", a]) for a in ("sum", "set", "add", "raise")} | {frozenset(["delete", "flush"])}


def touches(op):
    """What an operation does: (key, act, element). A flush touches (db, "*")."""
    name, key = op[:2]
    if name in ("RENAME", "MOVE"): return [(key, "move", None), (op[2], "write", None)]
    if name == "COPY": return [(key, "read", None), (op[2], "write", None)]
    if name == "STORE": return [(key, "write", None)] + [(k, "read", None) for k in op[2:4]]
    act = ACTS[name]
    return [(key, act, (name[0], op[2]) if act in OF_ELEMENT else None)]


def made(op):
    """(keys from which, keys that) an operation of several keys writes."""
    if len(touched := touches(op)) < 2: return None
    return [k for k, _, _ in touched], [k for k, act, _ in touched if act != "read"]


def apart(element, other):
    """Whether these are different elements of one type."""
    return element is not None and other is not None and element[0] == other[0] and element != other


def commute(act, element, other, other_element):
    same_type = element is None or other_element is None or element[0] == other_element[0]
    return apart(element, other_element) or same_type and frozenset([act, other]) in COMMUTE


# ---- what travels -------------------------------------------------------------------------------------------------
Record = namedtuple("Record", "origin offset hlc seen ops")
State = namedtuple("State", "origin place key value seen heard after said")     # heard: how far of the asker
Tick = namedtuple("Tick", "origin place seen")
Stale = namedtuple("Stale", "origin place key")
Question = namedtuple("Question", "key need after place")       # place: how far of the asker must have been heard
DOUBTS, WRONG, UNSURE, LACKS = 0, 1, 2, 3
Entry = namedtuple("Entry", "offset act element hlc number")  # number: of the operation in its unit


def at_least(a, b): return all(x >= y for x, y in zip(a, b))


class Clash:
    """What a record had not seen of one site's, and does not commute with what it does to a key."""

    def __init__(self, unknown):
        self.unknown = unknown                                  # any key may have been written
        self.deletes = self.flushed = False
        self.renewed = None                                     # the place of the last change of the time to live, or move
        self.last = self.read = 0                               # the latest stamp, of those that change it and those that read it
        self.doubts = False                                     # the key may have gone with its last element

    def of_value(self): return bool(self.unknown or self.deletes or self.flushed or self.last)


class Want:
    """A wish. The peer must have seen `after` when it reads the state, and have heard of us up to `place`."""

    def __init__(self, need, after, place):
        self.need, self.after, self.place = need, after, place
        self.asked = False                                      # in this session
        self.old = False                                        # from before this life of the sidecar

    def again(self, need, after, place): self.need, self.after, self.place, self.asked = need, after, place, False


class Site:
    def __init__(self, n, i):
        self.n, self.i = n, i
        # The Redis: data, what WATCH compares, the stream, and how much of each peer is applied.
        self.db, self.ver, self.stream = {}, {}, []
        self.applied = [0] * n
        self.clock = self.life = 0
        # The journal.
        self.pos = 0                                            # the stream is read up to here
        self.journal = []                                       # own records
        self.echoes = []                                        # peers' records that have come back
        self.seen = [0] * n                                     # and up to where
        self.want = {}                                          # key -> {peer: Want}
        self.stale = {}                                         # (peer, key) -> place of the take
        self.reset()

    def reset(self):
        """What a killed sidecar has lost."""
        n = self.n
        self.table = [{} for _ in range(n)]                     # of each site: key -> [Entry]
        self.made = [{} for _ in range(n)]                      # of each site: key -> [(offset, number, keys made of it)]
        self.unknown = [0] * n                                  # up to there each may have written any key
        self.reads = {}                                         # key -> place where its state was read for a peer
        self.read_all = 0                                       # up to there any may have been
        self.low = [[0] * n for _ in range(n)]                  # what each peer has told that it has seen
        self.heard = [0] * n                                    # up to where we know each peer's stream
        self.questions = {}                                     # (peer, key) -> Question
        self.pending = None                                     # a state between its fence and its EXEC
        self.told = {}                                          # peer -> what it was told last
        self.fences = set()


class World:
    def __init__(self, seed, n, opts):
        self.r, self.n, self.o = random.Random(seed), n, opts
        self.site = [Site(n, i) for i in range(n)]
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        self.link = {p: [] for p in pairs}                      # records, states, STALE, ticks
        self.ctl = {p: [] for p in pairs}                       # questions
        self.up = {p: True for p in pairs}
        self.session = {p: 0 for p in pairs}
        self.skew = [self.r.choice([0, 0, 40, -40]) for _ in range(n)]
        self.now = self.writes = self.states = 0
        self.trace = None

    def say(self, i, *what):
        if self.trace is not None: self.trace.append(f"{self.now:4} {NAMES[i]}: " + " ".join(map(str, what)))

    def others(self, i): return [j for j in range(self.n) if j != i]
    def judged_by_arbiter(self, i): return self.n > 2 and i != ARBITER

    # -- clients
    def client(self, i, ops):
        s, done = self.site[i], []
        for op in ops:
            before = dict(s.db)
            if execute(s.db, op) is False: continue
            if s.db != before or op[0] in ("SET", "FLUSH"):     # a no-op leaves no trace
                done.append(op)
                self.touch(s, op, before)
        if done:
            s.stream.append(("own", tuple(done)))
            self.say(i, "client", done, "@", len(s.stream))
        return bool(done)

    def touch(self, s, op, before):
        """What WATCH sees: not what has no effect."""
        for k in {*before, *s.db}:
            if before.get(k) != s.db.get(k) or op[:2] == ("SET", k): s.ver[k] = s.ver.get(k, 0) + 1

    # -- intake
    def read(self, i):
        s = self.site[i]
        if s.pos >= len(s.stream): return False
        entry = s.stream[s.pos]
        s.pos += 1
        place = s.pos
        if entry[0] == "own":
            s.clock = max(s.clock + 1, self.now + self.skew[i])
            rec = Record(i, place, s.clock, tuple(s.seen), entry[1])
            self.on_own(i, rec)
            for j in self.others(i):
                if self.up[i, j]: self.link[i, j].append(rec)
        elif entry[0] == "echo":
            s.clock = max(s.clock, entry[1].hlc)
            self.on_echo(i, *entry[1:])
        elif entry[0] == "take": self.on_take(i, *entry[1:])
        elif entry[0] == "fence": s.fences.add(entry[1])
        elif entry[0] == "read": self.on_read(i, place, *entry[1:])
        return True

    def on_own(self, i, rec):
        s = self.site[i]
        s.seen[i] = rec.offset
        s.journal.append(rec)
        self.note(s, rec)
        self.say(i, "reads own", rec)
        for op in rec.ops:
            if m := made(op): self.derive(i, *m, None)

    def on_echo(self, i, rec, failed):
        s = self.site[i]
        self.judge(i, rec, failed)
        s.seen[rec.origin] = max(s.seen[rec.origin], rec.offset)
        self.note(s, rec)
        s.echoes.append(rec)
        self.tell_low(s, rec.origin, rec.seen)

    def note(self, s, rec):
        for number, op in enumerate(rec.ops):
            for key, act, element in touches(op):
                s.table[rec.origin].setdefault(key, []).append(Entry(rec.offset, act, element, rec.hlc, number))
            if m := made(op):
                for k in m[0]: s.made[rec.origin].setdefault(k, []).append((rec.offset, number, m[1]))

    def tell_low(self, s, p, seen):
        """RULE forget: an entry of T may go when every other site but T and this one has told that it has seen it."""
        s.low[p] = [max(a, b) for a, b in zip(s.low[p], seen)]
        for t in range(self.n):
            low = min((s.low[q][t] for q in self.others(s.i) if q != t), default=10**9)
            for table, at in ((s.table[t], lambda e: e.offset), (s.made[t], lambda e: e[0])):
                for key in list(table):
                    table[key] = [e for e in table[key] if at(e) > low]
                    if not table[key]: del table[key]

    # -- judging
    def judge(self, i, rec, failed):
        """The echo of a peer's record is read: what of other sites took effect here before it, that it had not seen?

        RULE last word: a site that is not the arbiter asks the arbiter about every clash, right or wrong.
        """
        s, o = self.site[i], rec.origin
        for n, op in enumerate(rec.ops):
            m = made(op)
            wrong, doubts, clashed, reads = {}, False, False, set()     # key -> from whom
            touched = touches(op)
            if op[0] == "FLUSH":                                # RULE overrun: the keys written here that it had not seen
                known = {k for t in self.others(o) for k in s.table[t] if k[0] == op[1][0] and k[1] != "*"}
                touched = [(k, "flush", None) for k in sorted(known)]
            for key, act, element in touched:
                if act == "read": reads.add(key)
                clashes = [(t, self.clash(s, rec, t, key, act, element)) for t in self.others(o)]
                yields = act == "delete" and any(c.renewed for _, c in clashes)
                for t, c in clashes:
                    doubts |= c.doubts
                    clashed |= c.of_value() or bool(c.read)
                    if c.of_value() and self.judged_by_arbiter(i): wrong.setdefault(key, set()).add(ARBITER)
                    # RULE yields: a delete that yields to one yields to all.
                    p = self.wrong_here(s, rec, t, act, c) if c.renewed or not yields else None
                    if p is not None: wrong.setdefault(key, set()).add(p)
                    # RULE read: what was made of a key that is written in the wrong order is wrong, not the key.
                    elif c.read:
                        if yields: pass
                        elif act in ("delete", "flush") or (c.read, t) > (rec.hlc, o): self.wish_made(i, key, o, rec.seen)
                        if self.judged_by_arbiter(i): self.wish_made(i, key, ARBITER, rec.seen)
                    # RULE undone: a delete that yields comes before what was made of the key until then.
                    if act == "delete" and c.renewed and t == s.i:
                        for p in {o, ARBITER} if self.judged_by_arbiter(i) else {o}: self.wish_made(i, key, p, rec.seen, c.renewed)
            if doubts and not wrong: self.wish(i, op[1], o, DOUBTS, rec.seen)
            for key, froms in wrong.items():
                for p in froms:
                    for k in m[1] if m else [key]: self.wish(i, k, p, WRONG, rec.seen)
                    if key not in reads: self.wish_made(i, key, p, rec.seen)
            if m: self.derive(i, *m, rec)
            if n in failed and not clashed:
                for key, act, _ in touches(op):
                    if act != "read": self.wish(i, key, o, LACKS, rec.seen)

    def unseen(self, s, t, key, seen):
        """What of T's touches a key, flushes of its database among it, that had not been seen."""
        return [e for k in (key, (key[0], "*")) for e in s.table[t].get(k, ()) if e.offset > seen[t]]

    def clash(self, s, rec, t, key, act, element):
        """What of T's a record had not seen, and does not commute with what it does to a key."""
        c = Clash(s.unknown[t] > rec.seen[t])
        for e in self.unseen(s, t, key, rec.seen):
            if apart(element, e.element): c.doubts |= e.act == "remove" and act in ("set", "add", "raise")
            if commute(act, element, e.act, e.element): continue
            if e.act == "delete": c.deletes = True
            elif e.act == "flush": c.flushed = True
            elif e.act == "read": c.read = max(c.read, e.hlc)
            else:
                if e.act in ("expiry", "move"): c.renewed = e.offset, e.number
                c.last = max(c.last, e.hlc)
        return c

    def wrong_here(self, s, rec, t, act, c):
        """RULE rank: whether the value here is wrong, where T's took effect first; then from whom the right one is.

        Of the two sites that wrote exactly one finds so. A delete comes first; it yields to a change of the time to live
        and to a move, and is then not carried out by who has made that: only T knows. A flush comes before everything,
        and yields to nothing, for it is carried out everywhere.
        """
        o = rec.origin
        if c.unknown: return o
        if act == "flush": return o if c.last else None
        if act == "delete":                                     # before any write; but it yields to a renewal
            if c.renewed: return None if t == s.i else t
            return o if c.last else None
        if act in ("expiry", "move") and c.deletes: return o
        return o if c.last and (c.last, t) > (rec.hlc, o) else None

    def wish(self, i, key, p, need, seen):
        """RULE last word: whoever wants a key from a peer wants it from the arbiter too, whose state pays for both."""
        s = self.site[i]
        if p != ARBITER and self.judged_by_arbiter(i): self.wish(i, key, ARBITER, need, seen)
        want = s.want.setdefault(key, {}).get(p)
        if want is None:
            s.want[key][p] = Want(need, tuple(s.seen), s.pos)
            self.say(i, "wishes", key, "from", NAMES[p], "need", need)
            self.wish_made(i, key, p, seen)
        elif need > want.need: want.again(need, tuple(s.seen), s.pos)

    def wish_made(self, i, key, p, seen, end=None):
        """RULE derived: what was made of a wrong key here is wrong.

        With an end: what our own commands before it have made, if they left the key itself.
        """
        s = self.site[i]
        for t in range(self.n) if end is None else [i]:
            for offset, number, keys in s.made[t].get(key, ()):
                if (seen is None or offset > seen[t]) and (end is None or (offset, number) < end and key not in keys):
                    for k in keys:
                        if p not in s.want.get(k, {}): self.wish(i, k, p, WRONG, seen)

    def derive(self, i, sources, keys, rec):
        """RULE derived: what is made of a key that is wanted is wanted too."""
        s = self.site[i]
        for p in {p for k in sources for p, w in s.want.get(k, {}).items() if w.need > DOUBTS}:
            for k in keys: self.wish(i, k, p, WRONG, None if rec is None else rec.seen)

    # -- applier
    def deliver(self, i, o):
        """Takes up what has come from o."""
        s, queue = self.site[i], self.link[o, i]
        if not queue or not self.up[o, i]: return False
        item = queue[0]
        if isinstance(item, Tick):
            if s.seen[o] < s.applied[o]: return False           # what came before it has not come back
            queue.pop(0)
            s.heard[o] = max(s.heard[o], item.place)
            self.tell_low(s, o, item.seen)
            return True
        if isinstance(item, Stale):
            queue.pop(0)
            self.hear_stale(i, o, item)
            return True
        # RULE causal delivery
        if any(t not in (i, o) and s.seen[t] < item.seen[t] for t in range(self.n)): return False
        if isinstance(item, State):
            return self.guard(i, o, item)
        if s.pending and s.pending[0] == o: return False
        queue.pop(0)
        if item.offset <= s.applied[o]: return True             # RULE exactly once: the mark says so
        if not self.o.late_look and any(op[0] == "DEL" for op in item.ops):
            while self.read(i): pass
        spared, failed = set(), set()
        for n, op in enumerate(item.ops):
            if op[0] == "DEL" and self.spares(s, item, op[1]): spared.add(n); continue
            before = dict(s.db)
            if execute(s.db, op) is False: failed.add(n)
            self.touch(s, op, before)
        s.applied[o] = item.offset
        s.stream.append(("echo", item, frozenset(failed)))
        self.say(i, "applies", item, "spared" if spared else "", "failed" if failed else "", "=", s.db, "@", len(s.stream))
        return True

    def spares(self, s, rec, key):
        """RULE late delete: one that had not seen our own writes is not carried out."""
        return any(e.offset > rec.seen[s.i] and e.act not in ("read", "delete") for e in s.table[s.i].get(key, ()))

    def guard(self, i, o, st):
        """Takes a state, in two steps: WATCH and a fence in our stream; when that has come back, EXEC."""
        s, queue = self.site[i], self.link[o, i]
        if s.pending is None:
            if not self.pays(st, s.want.get(st.key, {}).get(o)):
                queue.pop(0); self.say(i, "ignores state of", st.key); return True     # asked anew since
            s.stream.append(("fence", len(s.stream)))
            s.pending = (o, st, s.ver.get(st.key, 0), len(s.stream) - 1)
            return True
        if s.pending[0] != o: return False                      # one applier at a time takes
        _, st, ver, fence = s.pending
        if fence not in s.fences: return False
        s.fences.discard(fence)
        s.pending = None
        if ver != s.ver.get(st.key, 0): self.say(i, "EXEC failed"); return True   # WATCH again
        queue.pop(0)
        want = s.want.get(st.key, {}).get(o)
        if not self.pays(st, want): return True
        verdict, replay = self.verdict(s, o, st)
        if verdict == "refuse":
            want.again(want.need, tuple(s.seen), s.pos)
            self.say(i, "refuses", st)
            return True
        before = s.db.get(st.key)
        if st.said:
            if st.value is None: s.db.pop(st.key, None)
            else: s.db[st.key] = st.value
            for op in replay: execute(s.db, op)
        equal = before == s.db.get(st.key)
        if not equal: s.ver[st.key] = s.ver.get(st.key, 0) + 1
        s.stream.append(("take", s.life, fence + 1, o, st, equal))
        self.say(i, "takes", st, "and on top", replay, "=", s.db.get(st.key), "@", len(s.stream))
        return True

    def pays(self, st, want):
        """RULE paid: a state answers the last question; that there is nothing to say ends no more than doubts."""
        return want is not None and want.asked and at_least(st.after, want.after) and (st.said or want.need == DOUBTS)

    def verdict(self, s, o, st):
        """RULE guard: a state never destroys a write that it has not seen. Own ones are written again on top of it.

        Nor is one taken that was read before the reader knew that we had read ours for somebody: else two swap values.
        """
        if not st.said: return "take", []
        mine = False
        for t in range(self.n):
            if t == o: continue
            if s.unknown[t] > st.seen[t]: return "refuse", []
            if any(e.act != "read" for e in self.unseen(s, t, st.key, st.seen)):
                if t != s.i: return "refuse", []
                mine = True
        if max(s.reads.get(st.key, 0), s.read_all) > st.heard: return "refuse", []
        if not mine: return "take", []
        replay = []
        for rec in s.journal:
            if rec.offset <= st.seen[s.i]: continue
            for op in rec.ops:
                if any(k in (st.key, (st.key[0], "*")) and act != "read" for k, act, _ in touches(op)):
                    if made(op) or op[0] in ("DEL", "FLUSH"): return "refuse", []
                    replay.append(op)
        return "rebase", replay

    def on_take(self, i, life, fence, o, st, equal):
        """A state that was taken has come back.

        RULE stale: what the arbiter has taken, all must ask it for, unless it was what they have. A wish from before it
        was killed may have been paid already, and not noted: then an equal state says nothing.
        """
        s, key = self.site[i], st.key
        if life != s.life: return                               # RULE former life: it is asked for again
        wants = s.want.get(key, {})
        old = o in wants and wants[o].old
        # RULE late look: what had no effect between the fence and the take WATCH has not seen.
        behind = [fence if t == i else st.seen[t] for t in range(self.n)]
        if st.said and any(e.act != "read" for t in range(self.n) if t != o for e in self.unseen(s, t, key, behind)):
            self.say(i, "not paid", key)
            if want := wants.get(o): want.again(want.need, tuple(s.seen), s.pos)
        else:
            self.say(i, "paid", key, "from", NAMES[o])
            wants.pop(o, None)
            if self.judged_by_arbiter(i) and o == ARBITER: wants.clear()
            if not wants: s.want.pop(key, None)
        if self.n > 2 and i == ARBITER and (not equal or old):
            for m in self.others(i):
                s.stale[m, key] = s.pos
                if self.up[i, m]: self.link[i, m].append(Stale(i, s.pos, key))

    def hear_stale(self, i, j, stale):
        """RULE stale: it stands in line before whatever says how much the arbiter has seen, so that what was made of the
        key here is not forgotten yet.
        """
        s, key = self.site[i], stale.key
        self.say(i, "hears stale", key)
        want = s.want.setdefault(key, {}).get(j)
        after = list(s.seen); after[j] = max(after[j], stale.place)
        if want: want.again(max(want.need, WRONG), tuple(after), s.pos)
        else: s.want[key][j] = Want(WRONG, tuple(after), s.pos)
        self.wish_made(i, key, j, None)
        if self.up[i, j]: self.ctl[i, j].append(("heard", key, stale.place))

    # -- asking and answering
    def is_dormant(self, i, j):
        """RULE dormant: others are asked only while there is no session with the arbiter.

        The wish is noted all the same: when the session is over nobody could tell any more who was wrong, and whom to ask.
        """
        return self.judged_by_arbiter(i) and j != ARBITER and self.up[i, ARBITER]

    def control(self, i, j):
        """i sends j what is due."""
        if not self.up[i, j]: return False
        s, busy = self.site[i], False
        if not self.is_dormant(i, j):
            for key, wants in s.want.items():
                if j in wants and not wants[j].asked:
                    w = wants[j]; w.asked = True; busy = True
                    self.ctl[i, j].append(("ask", Question(key, w.need, w.after, w.place)))
        now = (s.pos, tuple(s.seen))
        if s.told.get(j) != now:
            s.told[j] = now; self.link[i, j].append(Tick(i, *now)); busy = True
        return busy

    def hear(self, i, j):
        """i hears what j has said."""
        s = self.site[i]
        if not self.up[j, i] or not self.ctl[j, i]: return False
        what = self.ctl[j, i].pop(0)
        if what[0] == "ask": s.questions[j, what[1].key] = what[1]
        elif what[2] >= s.stale.get((j, what[1]), 0): s.stale.pop((j, what[1]), None)
        return True

    def answer(self, i, j):
        """Answers one question of j, if it may be."""
        s = self.site[i]
        for (m, key), q in sorted(s.questions.items()):
            if m != j or not self.up[i, j]: continue
            if not at_least(s.seen[:i] + [s.pos] + s.seen[i+1:], q.after) or s.heard[j] < q.place: continue
            if not self.answerable(s, j, q): continue
            if s.pending: continue                              # RULE no state is read between a fence and its EXEC
            del s.questions[m, key]
            s.stream.append(("read", j, q, s.db.get(key), self.session[i, j]))
            return True
        return False

    def answerable(self, s, j, q):
        """RULE defer: of two that want a key from each other, the one with the lesser need, or the lesser name, answers first.

        The arbiter is answered at once. It answers when it wants the key from nobody with whom it has a session: if it
        answered before, it would get its own wrong value back from who has taken it.
        """
        wants, i = s.want.get(q.key), s.i
        if not wants: return True
        if self.n > 2:
            if i == ARBITER: return not any(self.up[i, p] for p in wants)
            if j == ARBITER: return True
        return j not in wants or (wants[j].need, i) < (q.need, j)

    def on_read(self, i, place, j, q, value, session):
        """The place of a state that was read to be sent has come back."""
        s = self.site[i]
        if session != self.session[i, j] or not self.up[i, j]: return
        if not self.answerable(s, j, q):                        # found out since that it is wrong here
            s.questions.setdefault((j, q.key), q); return
        s.reads[q.key] = place
        said = q.need > DOUBTS or bool(value and value[2])
        seen = list(s.seen); seen[i] = place
        st = State(i, place, q.key, value, tuple(seen), s.heard[j], tuple(seen), said)
        self.states += said
        self.say(i, "sends", st, "to", NAMES[j])
        self.link[i, j].append(st)

    # -- faults
    def cut(self, i, j):
        for a, b in ((i, j), (j, i)):
            self.up[a, b] = False; self.link[a, b].clear(); self.ctl[a, b].clear()
            s = self.site[a]
            if s.pending and s.pending[0] == b: s.pending = None
            for key in [k for k in s.questions if k[0] == b]: del s.questions[key]

    def resume(self, i, j):
        if self.up[i, j]: return
        for a, b in ((i, j), (j, i)):
            self.session[a, b] += 1
            self.up[a, b] = True
            s = self.site[a]
            self.link[a, b] = [Stale(a, place, key) for (m, key), place in s.stale.items() if m == b] \
                + [r for r in s.journal if r.offset > self.site[b].applied[a]]
            s.told.pop(b, None)
            for wants in s.want.values():
                if b in wants: wants[b].asked = False

    def crash(self, i):
        """The sidecar is killed, and starts again with its journal and what is in the Redis."""
        s = self.site[i]
        for j in self.others(i):
            if self.up[i, j]: self.cut(i, j)
        s.reset()
        s.life += 1
        self.say(i, "is killed")
        for rec in s.journal: self.note(s, rec)
        if not self.o.unknown or self.o.mix == "flush":
            for rec in s.echoes: self.note(s, rec)
        else:
            for t in self.others(i): s.unknown[t] = s.seen[t]
        s.read_all = len(s.stream)
        for wants in s.want.values():
            for w in wants.values():
                w.again(w.need, tuple(max(a, b) for a, b in zip(w.after, s.seen)), s.pos)
                w.old = True


# ---- schedules ----------------------------------------------------------------------------------------------------
MIXES = {
    "counters": ["INCR", "HINCRBY", "SADD"],
    "strings": ["SET", "DEL", "INCR", "APPEND"],
    "renew": ["SET", "DEL", "INCR", "EXPIRE", "EXPIRE", "LPUSH"],
    "elements": ["HSET", "HDEL", "HINCRBY", "EXPIRE", "DEL"],
    "sets": ["SADD", "SREM", "EXPIRE", "DEL"],
    "single": ["SET", "DEL", "INCR", "APPEND", "LPUSH", "HSET", "HDEL", "SADD", "SREM", "EXPIRE"],
    "multi": ["SET", "DEL", "INCR", "SADD", "SREM", "RENAME", "COPY", "STORE", "EXPIRE", "MOVE", "MULTI"],
    "chains": ["SET", "INCR", "COPY", "COPY", "RENAME", "DEL", "EXPIRE"],
    "flush": ["SET", "DEL", "INCR", "SADD", "RENAME", "COPY", "EXPIRE", "MOVE", "MULTI", "FLUSH"],
}


def random_op(w, name, keys):
    r = w.r
    key = r.choice(keys)
    other = r.choice([k for k in keys if k != key]) if len(keys) > 1 else key
    w.writes += 1
    if name in ("SET",): return (name, key, 1000 * w.writes)
    if name in ("APPEND", "LPUSH"): return (name, key, f"<{w.writes}>")
    if name == "EXPIRE": return (name, key, w.writes)
    if name == "HSET": return (name, key, r.randrange(2), w.writes * 100)
    if name in ("HDEL", "HINCRBY", "SADD", "SREM"): return (name, key, r.randrange(2))
    if name in ("RENAME", "COPY"): return (name, key, other)
    if name == "MOVE": return (name, key, (1 - key[0], key[1]))
    if name == "STORE": return (name, key, other, r.choice(keys))
    if name == "FLUSH": return (name, (key[0], "*"))
    return (name, key)


def client_write(w, i):
    mix = MIXES[w.o.mix]
    keys = [(0, f"k{n}") for n in range(w.o.keys)]
    name = w.r.choice(mix)
    if w.o.mix == "counters": keys = [(0, name)]
    if w.o.mix in ("multi", "flush"): keys += [(1, "k0")]
    if name == "MULTI":
        ops = [random_op(w, w.r.choice([m for m in mix if m != "MULTI"]), keys) for _ in range(2)]
    else: ops = [random_op(w, name, keys)]
    return w.client(i, ops)


def step(w, i):
    """One step of a site, at random."""
    x, r = w.r.random(), w.r
    j = r.choice(w.others(i))
    if x < 0.4: return [w.read(i) for _ in range(r.choice([1, 1, 3, 9]))][0]
    if x < 0.7: return [w.deliver(i, j) for _ in range(r.choice([1, 1, 1, 4]))][0]
    if x < 0.8: return w.control(i, j)
    if x < 0.9: return w.hear(i, j)
    return w.answer(i, j)


def run(seed, n, o, trace=False):
    w = World(seed, n, o)
    if trace: w.trace = []
    r = w.r
    budget = r.choice([2, 3, 4, 8, 20]) if o.writes is None else o.writes
    steps = 60 + r.choice([25, 25, 80, 200]) * budget
    lazy = [r.choice([1, 1, 1, 0.3, 0.05]) for _ in range(n)]
    bursts = r.random() < 0.5
    when = sorted(r.randrange(1 + steps // 6) + r.choice([0, steps // 2]) if bursts else r.randrange(steps) for _ in range(budget))
    for t in range(steps):
        w.now += 1
        while when and when[0] <= t: when.pop(0); client_write(w, r.randrange(n))
        i = r.randrange(n)
        if r.random() < lazy[i]: step(w, i)
        if r.random() < o.cuts:
            j = r.choice(w.others(i))
            if w.up[i, j]: w.cut(i, j)
            else: w.resume(i, j)
        if r.random() < o.cuts / 4:                             # a site out of reach for long
            for j in w.others(i):
                if w.up[i, j]: w.cut(i, j)
        if r.random() < o.crash:
            i = r.randrange(n); w.crash(i)
            if r.random() < 0.7:
                for j in w.others(i): w.resume(i, j)
    for i in range(n):
        for j in range(i + 1, n): w.resume(i, j)
    for _ in range(r.choice([0, 0, 300, 1000])):
        w.now += 1
        step(w, r.randrange(n))
    return w, check(w) if settle(w) else "never settles"


def settle(w):
    idle = 0
    for _ in range(4000 * w.n):                                 # quiescence
        w.now += 1
        idle = 0 if sweep(w) else idle + 1
        if idle > 1: return True
    return False


def sweep(w):
    busy = False
    for i in w.r.sample(range(w.n), w.n):
        while w.read(i): busy = True
        for j in w.r.sample(w.others(i), w.n - 1):
            busy |= w.deliver(i, j)
            busy |= w.control(i, j)
            busy |= w.hear(i, j)
            busy |= w.answer(i, j)
    return busy


def check(w):
    for what in ("want", "questions", "stale"):
        if any(getattr(s, what) for s in w.site): return f"{what} left"
    if any(w.link.values()): return "not delivered"
    if any(s.db != w.site[0].db for s in w.site): return "sites differ"
    if w.o.mix == "counters":
        if w.states and not w.o.crash: return "states sent"
        for key in w.site[0].db:
            kind, value, _ = w.site[0].db[key]
            done = [op for s in w.site for rec in s.journal for op in rec.ops if op[1] == key]
            if kind == "str" and value != len(done): return "increment lost or doubled"
            if kind == "hash" and sum(v for _, v in value) != len(done): return "increment lost or doubled"
    return "ok"


# ---- histories of one judge ---------------------------------------------------------------------------------------
def parse(command):
    """The operations of a command, or of a unit."""
    db, ops = 0, []
    for line in command.split("; "):
        name, *args = line.split(" ")
        key = (db, args[0]) if args else None
        if name == "SELECT": db = int(args[0])
        elif name == "DEL": ops += [("DEL", (db, k)) for k in args]
        elif name == "FLUSHDB": ops.append(("FLUSH", (db, "*")))
        elif name == "PEXPIREAT": ops.append(("EXPIRE", key, int(args[1])))
        elif name in ("RENAME", "COPY"): ops.append((name, key, (db, args[1])))
        elif name == "MOVE": ops.append((name, key, (int(args[1]), args[0])))
        elif name == "SUNIONSTORE": ops.append(("STORE", key, (db, args[1]), (db, args[2])))
        else: ops.append((name, key, *args[1:]))
    return ops


def play(history, o):
    """What the judge of a history wishes for in the end: (wishes, dormant)."""
    sites = history["sites"]
    w, i, at = World(0, len(sites), o), sites.index(history["judge"]), sites.index
    s, vector = w.site[i], lambda seen: tuple(seen.get(site, 0) for site in sites)
    if len(sites) > 2 and i != ARBITER: w.up[i, ARBITER] = history["linked"]
    for step in history["steps"]:
        (what, x), = step.items()
        s.pos += 1
        if what == "own": w.on_own(i, Record(i, x["offset"], x["hlc"], tuple(s.seen), parse(x["command"])))
        elif what == "applied":
            ops = parse(x["command"])
            failed = range(len(ops)) if x.get("failed") else ()
            w.on_echo(i, Record(at(x["origin"]), x["offset"], x["hlc"], vector(x.get("seen", {})), ops), failed)
        elif what == "told": w.tell_low(s, at(x["by"]), vector(x["seen"]))
        elif what == "paid":
            seen = tuple(s.seen)
            w.on_take(i, s.life, s.seen[i], at(x["of"]), State(at(x["of"]), 0, parse("SET " + x["key"])[0][1], None, seen, 0, seen, True), False)
        elif what == "stale": w.hear_stale(i, ARBITER, Stale(ARBITER, s.seen[ARBITER] + 1, parse("SET " + x["key"])[0][1]))
        else: raise ValueError(what)
    found = {False: [], True: []}
    for (db, name), wants in s.want.items():
        for p, want in wants.items():
            key = (f"{db}:" if db else "") + name + ("?" if want.need == DOUBTS else "")
            found[w.is_dormant(i, p)].append([key, sites[p]])
    return sorted(found[False]), sorted(found[True])


def all_histories(o):
    o.mix, bad = "histories", 0
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "histories.json")) as file: histories = json.load(file)
    for history in histories:
        expected = sorted(history["wishes"]), sorted(history.get("dormant", []))
        if (found := play(history, o)) != expected:
            bad += 1
            print(f"{history['name']}: {found}, but {expected} is expected")
    print(f"{len(histories)} histories, {bad} failed")
    return not bad



def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--runs", type=int, default=1000); p.add_argument("--seed", type=int)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--sites", default="2,3"); p.add_argument("--mix", default="all"); p.add_argument("--keys", type=int)
    p.add_argument("--cuts", type=float, default=0.0); p.add_argument("--crash", type=float, default=0.0)
    p.add_argument("--writes", type=int, help="how many, instead of some number")
    p.add_argument("--unknown", action="store_true", help="after a kill it is not known what peers had written")
    p.add_argument("--late-look", action="store_true", help="deletes do not wait for the own stream: renewed keys can be lost")
    p.add_argument("--histories", action="store_true", help="check histories.json")
    return p


def main():
    o = options().parse_args()
    if o.histories: sys.exit(not all_histories(o))
    mixes, keys, bad = list(MIXES) if o.mix == "all" else o.mix.split(","), o.keys, False
    for n in map(int, o.sites.split(",")):
        for o.mix in mixes:
            o.keys = keys or (4 if o.mix == "chains" else 3 if o.mix in ("multi", "flush") else 1)
            if o.seed is not None:
                w, verdict = run(o.seed, n, o, True)
                print("\n".join(w.trace)); print(verdict)
                for s in w.site:
                    wants = {k: {NAMES[p]: (x.need, x.asked) for p, x in v.items()} for k, v in s.want.items()}
                    print(NAMES[s.i], s.db, "stale", s.stale, "wants", wants, "questions", s.questions)
                continue
            tally, begun, states = {}, time.time(), 0
            for seed in range(o.first, o.first + o.runs):
                w, verdict = run(seed, n, o)
                states += w.states
                tally.setdefault(verdict, []).append((w.writes, seed))
            bad |= set(tally) != {"ok"}
            shown = {k: len(v) if k == "ok" else (len(v), sorted(v)[:3]) for k, v in tally.items()}
            took = f"states={states} {time.time() - begun:.0f}s"
            print(f"sites={n} mix={o.mix} cuts={o.cuts} crash={o.crash}: {shown} {took}", flush=True)
    sys.exit(bad)


if __name__ == "__main__": main()
