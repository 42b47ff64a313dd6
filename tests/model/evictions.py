#!/usr/bin/env python3
"""Evictions told from clients' deletes, as a model: python3 tests/model/evictions.py [schedules] [seed]

A server that runs out of memory evicts keys. It streams a DEL for each, which looks like a client's, and
publishes a message for each on another connection. This model asks whether the two can be told apart,
whatever arrives when and whatever breaks, and what two sites hold when an eviction stays at its site.

Part one, `tell`: one server, its stream, its messages, and the rule of src/intake/evictions:
  * A fence is a PUBLISH of ours: it stands in the stream, and comes as a message. Between the same two
    fences the stream has a DEL for each message, and perhaps deletes of clients.
  * Between two fences each message belongs to a DEL of its key, in the same order: to the first that it can
    belong to, the last, or one between. Where these are one, that DEL is an eviction; no other is taken for
    one. Without a fence on either side, none is.
It holds, for every schedule: a delete of a client always travels; an eviction travels only if the messages
were not heard without a break, or a client deleted the same key so near that no other eviction parts them.

Part two, `sites`: two sites that add to counters, and evict them. An eviction stays where it was; whoever
adds to a key that it has evicted asks the other for the whole value. It holds: nothing is counted twice; a
key is absent, or has the sum of all that was added since it was last gone from both.
"""

import random
import sys
from collections import Counter, deque

EVICTED, CLIENT, FENCE, BREAK = "evicted", "client", "fence", "break"


class Server:
    """One thread: what it does stands in the same order in the stream and in the messages."""

    def __init__(self, rng):
        self.rng, self.offset = rng, 0
        self.stream = deque()  # (offset, what, value): "del" of a key, with the truth, or a fence.
        self.messages = deque()
        self.is_heard = False
        self.truth = {}

    def delete(self, key, why):
        self.offset += 1
        self.truth[self.offset] = (key, why)
        self.stream.append((self.offset, "del", key))
        if why == EVICTED and self.is_heard:
            self.messages.append(("key", key))

    def publish(self, number):
        self.offset += 1
        self.stream.append((self.offset, FENCE, number))
        if self.is_heard:
            self.messages.append((FENCE, number))


class Side:
    """What came on one side: before the fence that is awaited, and behind it."""

    def __init__(self):
        self.before, self.fence, self.behind = [], None, []

    def push(self, entry):
        (self.before if self.fence is None else self.behind).append(entry)

    def turn(self):
        before, self.before, self.fence, self.behind = self.before, self.behind, None, []
        return before


def matched(keys, heard):
    """For each that was heard, the first delete that it can belong to."""
    places, found = iter(enumerate(keys)), []
    for key in heard:
        found.append(next(place for place, deleted in places if deleted == key))
    return found


class Evictions:
    """The pure part of the sidecar: deletes and messages in, verdicts out."""

    def __init__(self):
        self.state = "deaf"  # then "aligning", until the first fence has come on both sides; then "aligned"
        self.asked = 0
        self.awaited = None
        self.deletes, self.heard = Side(), Side()
        self.verdicts = {}
        self.to_publish = []

    def ask(self):
        self.asked += 1
        self.awaited = self.asked
        self.to_publish.append(self.asked)

    def lose(self, hears):
        """What is held is in doubt; so is everything up to a new fence."""
        for offset, _ in self.deletes.before + self.deletes.behind:
            self.verdicts[offset] = CLIENT
        self.deletes, self.heard, self.awaited = Side(), Side(), None
        self.state = "deaf"
        if hears:
            self.state = "aligning"
            self.ask()

    def on_delete(self, offset, key):
        if self.state == "deaf" or self.state == "aligning" and self.deletes.fence is None:
            self.verdicts[offset] = CLIENT
            return
        self.deletes.push((offset, key))
        if self.awaited is None:
            self.ask()

    def on_message(self, key):
        if self.state == "aligned" or self.state == "aligning" and self.heard.fence is not None:
            self.heard.push(key)

    def on_fence(self, side, number, place=True):
        if number == self.awaited:
            side.fence = place
            if self.deletes.fence is not None and self.heard.fence is not None:
                self.settle()

    def settle(self):
        deletes, heard = self.deletes.turn(), self.heard.turn()
        keys = [key for _, key in deletes]
        first, last = matched(keys, heard), matched(keys[::-1], heard[::-1])
        last = [len(keys) - 1 - place for place in last[::-1]]
        told = {one for one, other in zip(first, last) if one == other}
        for place, (offset, _) in enumerate(deletes):
            self.verdicts[offset] = EVICTED if place in told else CLIENT
        self.state, self.awaited = "aligned", None
        if self.deletes.before:
            self.ask()

    def on_rewind(self, offset):
        """The stream is read again from here on: nothing behind it has a verdict."""
        keep = lambda entries: [entry for entry in entries if entry[0] <= offset]
        side = self.deletes
        side.before, side.behind = keep(side.before), keep(side.behind)
        if side.fence is not None and side.fence > offset:
            side.fence = None


def tell(seed):
    """One schedule. Gives how many evictions there were, stayed, and travelled."""
    rng = random.Random(seed)
    server, telling = Server(rng), Evictions()
    keys = ["k%d" % n for n in range(rng.choice([1, 2, 5, 50]))]
    loses = rng.choice([0.0, 0.0, 0.01])
    rewinds = rng.choice([0.0, 0.01])
    read, history, publishing = 0, [], deque()  # `history`: the stream, to be read again.
    excused, dirty = set(), set()

    def connect():
        server.messages.clear()
        server.is_heard = True
        telling.lose(True)

    def unread():
        return len(history) > read or server.stream

    def next_entry():
        if len(history) == read:
            history.append(server.stream.popleft())
        return history[read]

    connects_at = rng.randrange(60)
    for step in range(600):
        if step == connects_at:
            connect()
        roll = rng.random()
        if roll < 0.12:
            server.delete(rng.choice(keys), EVICTED)
        elif roll < 0.17:
            server.delete(rng.choice(keys), CLIENT)
        elif roll < 0.50:
            if not unread():
                continue
            offset, what, value = next_entry()
            read += 1
            if what == "del":
                telling.on_delete(offset, value)
            else:
                telling.on_fence(telling.deletes, value, offset)
        elif roll < 0.75:
            if not server.messages:
                continue
            what, value = server.messages.popleft()
            if what == "key":
                telling.on_message(value)
            else:
                telling.on_fence(telling.heard, value)
        elif roll < 0.95:
            if publishing:
                server.publish(publishing.popleft())
        elif roll < 0.95 + loses:
            if not server.is_heard:
                continue
            # The connection breaks, a bound is reached, or it takes too long.
            if rng.random() < 0.5:
                server.is_heard = False
                server.messages.clear()
                publishing.clear()
                telling.lose(False)
                connects_at = step + 1 + rng.randrange(40)
            else:
                telling.lose(True)
        elif roll > 1.0 - rewinds:
            # The stream is read again from where everything before has its verdict.
            held = [offset for offset, _ in telling.deletes.before + telling.deletes.behind]
            first = min(held, default=None)
            if first is not None:
                read = next(i for i, entry in enumerate(history) if entry[0] == first)
                telling.on_rewind(first - 1)
        publishing.extend(telling.to_publish)
        telling.to_publish.clear()
    # At the end whatever is held goes: the bound on time.
    while unread():
        offset, what, value = next_entry()
        read += 1
        if what == "del":
            telling.on_delete(offset, value)
    telling.lose(False)
    evictions = stayed = 0
    for offset, (key, why) in server.truth.items():
        verdict = telling.verdicts[offset]
        assert why == EVICTED or verdict == CLIENT, "a client's delete was kept: seed %d" % seed
        evictions += why == EVICTED
        stayed += verdict == EVICTED
    return evictions, stayed


def tell_unbroken(seed):
    """Heard without a break, each delete of a client between two fences: every eviction stays."""
    rng = random.Random(seed)
    server, telling = Server(rng), Evictions()
    server.is_heard = True
    telling.lose(True)
    windows = Counter()

    def drain():
        while server.stream or server.messages or telling.to_publish:
            choice = rng.random()
            if choice < 0.4 and server.stream:
                offset, what, value = server.stream.popleft()
                if what == "del":
                    telling.on_delete(offset, value)
                else:
                    telling.on_fence(telling.deletes, value, offset)
            elif choice < 0.8 and server.messages:
                what, value = server.messages.popleft()
                telling.on_message(value) if what == "key" else telling.on_fence(telling.heard, value)
            elif telling.to_publish:
                server.publish(telling.to_publish.pop(0))
            if rng.random() < 0.2 and windows["left"]:
                windows["left"] -= 1
                server.delete("k%d" % rng.randrange(3), EVICTED)

    drain()
    for _ in range(40):
        windows["left"] = rng.randrange(6)
        if rng.random() < 0.3:
            server.delete("c%d" % rng.randrange(3), CLIENT)
        server.delete("k%d" % rng.randrange(3), EVICTED)
        drain()
    for offset, (key, why) in server.truth.items():
        assert telling.verdicts[offset] == why, "seed %d: %s of %s at %d" % (seed, why, key, offset)


class Site:
    """Counters here; what is known of the other site's history, and what it is asked for."""

    def __init__(self, remembers):
        self.data, self.place = {}, 0
        self.written = {}  # key → the place of the last addition of a client
        self.evicted, self.remembers = [], remembers
        self.applied = 0  # of the other's history
        self.owed = {}  # key → how far the other must have seen us
        self.out = deque()  # to the other: additions and states, in order

    def evict(self, key):
        if key in self.data:
            del self.data[key]
            self.evicted = [k for k in self.evicted if k != key][-self.remembers + 1 :] + [key]

    def add(self, key, amount):
        """A client adds."""
        self.place += 1
        self.data[key] = self.data.get(key, 0) + amount
        self.written[key] = self.place
        self.out.append(("add", self.place, key, amount))
        self.meet(key)

    def meet(self, key):
        """Something was added to a key that is not here: what there is of it is not the whole."""
        if key in self.evicted:
            self.evicted.remove(key)
            self.owed[key] = self.place

    def take(self, message, asks):
        what, place, key, value = message[:4]
        if what == "add":
            self.applied = place
            self.data[key] = self.data.get(key, 0) + value
            self.meet(key)
            return
        seen = message[4]
        if key not in self.owed:
            return
        if seen < self.written.get(key, 0):
            # It has not seen what a client has written here: a later one is asked for.
            asks.append((key, self.place))
            return
        if value is None:
            self.data.pop(key, None)
        else:
            self.data[key] = value
        self.owed.pop(key, None)

    def answer(self, key):
        self.out.append(("state", self.place, key, self.data.get(key), self.applied))


def sites(seed):
    """One schedule of two sites. Gives how many values were fetched whole."""
    rng = random.Random(seed)
    remembers = rng.choice([2, 1000])
    one, two = Site(remembers), Site(remembers)
    pair = {one: two, two: one}
    keys = ["k%d" % n for n in range(rng.choice([1, 3, 8]))]
    total, sum_since, whole = Counter(), Counter(), Counter()
    asks = {one: deque(), two: deque()}
    lost = set()
    fetched = 0

    def ask(site):
        nonlocal fetched
        for key, after in list(site.owed.items()):
            if (key, after) not in asks[site]:
                asks[site].append((key, after))
                fetched += 1
                site.owed[key] = after

    def deliver(site):
        other = pair[site]
        if other.out:
            again = []
            site.take(other.out.popleft(), again)
            for key, after in again:
                site.owed[key] = after

    def serve(site):
        """The other answers when it has seen enough of us, and is not owed that key itself, unless
        both ask each other: then the first does."""
        other = pair[site]
        for _ in range(len(asks[site])):
            key, after = asks[site].popleft()
            waits = other.applied < after or (key in other.owed and other is two)
            if waits:
                asks[site].append((key, after))
            elif site.owed.get(key) == after:
                other.answer(key)

    def step(allow_writes):
        site = rng.choice([one, two])
        roll = rng.random()
        if allow_writes and roll < 0.25:
            key = rng.choice(keys)
            amount = rng.randrange(1, 10)
            total[key] += amount
            site.add(key, amount)
        elif allow_writes and roll < 0.35:
            key = rng.choice(keys)
            # Gone from both, or not whole where it stays: what was added before may be lost.
            other = pair[site]
            if key not in other.data or key in other.owed or key in other.evicted:
                lost.add(key)
            if site.remembers <= len(site.evicted):
                lost.update(site.evicted)
            site.evict(key)
        elif roll < 0.7:
            deliver(site)
        elif roll < 0.85:
            ask(site)
        else:
            serve(site)

    for _ in range(300):
        step(True)
    for _ in range(6000):
        step(False)
        if not (one.out or two.out or one.owed or two.owed):
            break
    else:
        raise AssertionError("it does not come to rest: seed %d" % seed)
    for key in keys:
        for site in (one, two):
            value = site.data.get(key)
            assert value is None or value <= total[key], "counted twice: seed %d, %s" % (seed, key)
            if key not in lost:
                assert value in (None, total[key]), "not whole: seed %d, %s" % (seed, key)
        if key not in lost and total[key]:
            assert one.data.get(key) or two.data.get(key), "gone from both: seed %d, %s" % (seed, key)
    return fetched, len(keys) - len(lost & set(keys))


def main():
    schedules = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    print("%d schedules of each kind, from seed %d" % (schedules, first))
    seeds = range(first, first + schedules)
    told = [tell(seed) for seed in seeds]
    evictions, stayed = sum(e for e, _ in told), sum(s for _, s in told)
    print("deletes: every client's travels; of %d evictions %d stay, breaks and all" % (evictions, stayed))
    for seed in seeds:
        tell_unbroken(seed)
    print("unbroken: every eviction stays, every client's delete travels")
    ended = [sites(seed) for seed in seeds]
    fetched, judged = sum(f for f, _ in ended), sum(j for _, j in ended)
    print("sites: %d values fetched whole; %d keys absent or whole, nothing counted twice" % (fetched, judged))


if __name__ == "__main__":
    main()
