#!/usr/bin/env python3
"""Two concurrent writes of one key: every pair of operations on every type, in both orders of rank, by every two sites,
in every order of arrival at the others. All sites must end with the promised value. Besides: the arbiter is away, or
leaves when a conflict was found; or one of the two writers leaves. The others must be equal before it is back; with the
arbiter away, and no writer, they must have the promised value already. See convergence.py, whose model this is.

They may differ while one is away that must be asked: the arbiter, where it is one of the two; and who has added an
element of a key of which another element was removed, for a time to live.
"""

import itertools, random, sys, time

from convergence import ARBITER, NAMES, World, check, execute, options, settle, step

K, J, X, FAR = (0, "k"), (0, "j"), (0, "x"), (1, "k")
FOUND = [None, ("str", 5, 77), ("str", "v", None), ("set", (0,), 77), ("set", (0, 1), None), ("hash", ((0, 5),), 77),
         ("list", ("e",), 77)]


def of_writer(w):
    """What a writer may do. The two write different values."""
    return [("SET", K, 1000 * w), ("DEL", K), ("INCR", K), ("APPEND", K, f"<{w}>"), ("LPUSH", K, f"<{w}>"),
            ("HSET", K, 0, 100 * w), ("HSET", K, 1, 100 * w), ("HDEL", K, 0), ("HINCRBY", K, 0), ("SADD", K, 0),
            ("SADD", K, w + 1), ("SREM", K, 0), ("EXPIRE", K, w), ("RENAME", K, X), ("RENAME", J, K), ("COPY", K, X),
            ("COPY", J, K), ("STORE", X, K, J), ("STORE", K, J, J), ("MOVE", K, FAR), ("FLUSH", (0, "*")), ("SETEX", K, 1000 * w, w)]


def unit(op):
    """The operations of one unit."""
    return [("SET", *op[1:3]), ("EXPIRE", op[1], op[3])] if op[0] == "SETEX" else [op]


def found_by_both(k):
    db = {J: ("set", (7, 8), None)}
    if k: db[K] = k
    return db


def leaves_trace(db, op):
    after = dict(db)
    return execute(after, unit(op)[0]) is not False and (after != db or op[0] in ("SET", "SETEX", "FLUSH"))


def doubted(first, then):
    return first[0] in ("HDEL", "SREM") and then[0] in ("HSET", "HINCRBY", "SADD") and first[0][0] == then[0][0] and first[2] != then[2]


def promised(db, first, then):
    """The value that is promised for two concurrent writes, by rank: see docs/semantics.md."""
    deletes = ("DEL", "FLUSH")
    if then[0] in deletes and first[0] not in deletes: return promised(db, then, first)
    if first[0] == "DEL" and (then[1], then[0]) in ((first[1], "EXPIRE"), (first[1], "RENAME"), (first[1], "MOVE")): ops = [then]
    elif doubted(first, then): ops = [then, first]
    else: ops = [first, then]
    after = dict(db)
    for op in ops:
        for part in unit(op): execute(after, part)
    return after


def two_writers(n, o, seed, found, ops, writers, later, arrivals, away, trace=False):
    """Site writers[0] does ops[0], and so on; writers[later] reads its own later; the others get the record of writers[a] first."""
    w = World(seed, n, o)
    if trace: w.trace = []
    w.skew = [0] * n
    db = found_by_both(found)
    for s in w.site: s.db = dict(db)
    others = [t for t in range(n) if t not in writers]
    isolate = lambda t: [w.cut(t, j) for j in w.others(t)]
    if away == "arbiter": isolate(ARBITER)
    for at, which in enumerate((1 - later, later)):
        w.now = 10 * at
        w.client(writers[which], unit(ops[which]))
        w.read(writers[which])
    for t, first in zip(others, arrivals):
        for which in (first, 1 - first):
            w.deliver(t, writers[which])
            if w.r.random() < 0.5: w.read(t)
    if away in ("first", "then"):
        for a, b in (writers, writers[::-1]): w.deliver(a, b)
        isolate(writers[1 - later if away == "first" else later])
    if away == "leaves":
        for _ in range(w.r.choice([5, 20, 60, 120])): w.now += 1; step(w, w.r.randrange(n))
        isolate(ARBITER)
    expect = promised(db, ops[1 - later], ops[later])
    for _ in range(w.r.choice([0, 40, 200])): w.now += 1; step(w, w.r.randrange(n))
    if not settle(w): return w, "never settles"
    if away:
        rest = [s.db for s in w.site if any(w.up[s.i, j] for j in w.others(s.i))]
        waits = away not in ("arbiter", "leaves") and (w.up[ARBITER, 1] == w.up[ARBITER, 2] == False or doubted(*ops) or doubted(*ops[::-1]))
        if not waits and any(db != rest[0] for db in rest): return w, f"the rest differs while {away} is away"
        if away in ("arbiter", "leaves") and rest[0] != expect: return w, "the rest has another value"
        for i, j in itertools.combinations(range(n), 2): w.resume(i, j)
        for _ in range(w.r.choice([0, 40, 200])): w.now += 1; step(w, w.r.randrange(n))
        if not settle(w): return w, "never settles"
    verdict = check(w)
    if verdict == "ok" and w.site[0].db != expect: return w, f"another value than {expect}"
    return w, verdict


def all_two_writers(n, o):
    tally, begun, count, pick = {}, time.time(), 0, random.Random(o.first)
    for found, a, b in itertools.product(FOUND, of_writer(1), of_writer(2)):
        db = found_by_both(found)
        if not (leaves_trace(db, a) and leaves_trace(db, b)): continue
        for writers in itertools.combinations(range(n), 2):
            for later in (0, 1):
                for arrivals in itertools.product((0, 1), repeat=n - 2):
                    aways = [None] if n == 2 else [None, "first", "then"] + (["arbiter", "leaves"] if ARBITER not in writers else [])
                    for away in aways:
                        for seed in range(o.first, o.first + o.seeds):
                            if pick.random() > o.sample: continue
                            count += 1
                            case = (n, o, seed, found, (a, b), writers, later, arrivals, away)
                            w, verdict = two_writers(*case)
                            if verdict != "ok":
                                gone = {"first": writers[1 - later], "then": writers[later], "arbiter": 0, "leaves": 0}.get(away)
                                what = verdict.split(" than")[0]
                                key = (what, "away", gone) if what.startswith("the rest differs") else (what, a[0], b[0])
                                tally.setdefault(key, []).append(case)
    for key, cases in sorted(tally.items(), key=str): print(len(cases), *key, *cases[0][2:])
    if tally and o.trace:
        w, verdict = two_writers(*min(tally.items(), key=str)[1][0], trace=True)
        print("\n".join(w.trace)); print(verdict)
        for s in w.site: print(NAMES[s.i], s.db)
    print(f"sites={n} two writers: {count} schedules, {sum(map(len, tally.values()))} failed, {time.time() - begun:.0f}s", flush=True)
    return not tally


def main():
    p = options()
    p.add_argument("--seeds", type=int, default=1, help="of each schedule")
    p.add_argument("--sample", type=float, default=1.0, help="this part of all")
    p.add_argument("--trace", action="store_true", help="show one that failed")
    o = p.parse_args()
    o.mix = "two"
    sys.exit(not all([all_two_writers(n, o) for n in map(int, o.sites.split(","))]))


if __name__ == "__main__": main()
