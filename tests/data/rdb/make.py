#!/usr/bin/env python3
"""Makes the snapshots of this directory: make.py <redis-server> <name>

Starts the server on a free port of the loopback in a directory of its own, fills it with every
type and encoding that it has, saves, and writes two files here: <name>.rdb, and <name>.txt with
what the server says of each key, one line a key:

    db, key (hex), expiry (ms or -), type byte, length of type and body, CRC64 of type and body

where type and body are the answer to DUMP without its footer of ten bytes. Other lines begin with
a word: the eviction policy, and the length and CRC64 of each library of functions. What a server
does not know it refuses; the commands are printed.
"""
import os, random, shutil, socket, struct, subprocess, sys, tempfile, time

server, name = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
random.seed(5)
FAR = 4102444800123  # 2100-01-01, so that nothing expires before the tests do


class Refused(Exception):
    pass


def wait_until(holds, seconds):
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError("waited %s s" % seconds)
        time.sleep(0.02)


class Client:
    def __init__(self, port):
        # A server listens when it is ready; it has five seconds for that.
        wait_until(lambda: self.connect(port), 5)
        self.file = self.socket.makefile("rb")

    def connect(self, port):
        try:
            self.socket = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            return False
        return True

    def __call__(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        out = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
        self.socket.sendall(out)
        return self.reply()

    def reply(self):
        line = self.file.readline()[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        # All of an array is read before an error in it is raised.
        return [self.reply() for _ in range(int(rest))] if rest != b"-1" else None


def crc64(data):
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return crc


def optional(*words):
    try:
        return c(*words)
    except Refused:
        refused.add(words[0])


def noise(n):
    return bytes(random.randrange(256) for _ in range(n))


def strings():
    for text in ["", "7", "-7", "127", "-128", "128", "32767", "-32768", "32768", "2147483647",
                 "-2147483648", "2147483648", "9223372036854775807", "007", "+7", "1.5"]:
        c("set", "string:" + text, text)
    c("set", "string:raw", "hello world")
    c("set", "string:lzf", "the same again " * 1500)
    c("set", "string:noise", noise(3000))
    c("set", "string:binary", bytes(range(256)))
    c("setbit", "bitmap", 200000, 1)
    c("pfadd", "hll:sparse", *range(5))
    for i in range(40):
        c("pfadd", "hll:dense", *["%d" % (i * 1000 + j) for j in range(150)])


def keys():
    for key in ["", "5", "-5", "300", "-300", "70000", "-70000", "3000000000", "x" * 300,
                b"\x00\xff\r\n$", noise(100), "pattern" * 300]:
        c("set", key, "key")


def collections():
    c("rpush", "list:small", "a", "b", 3, -4, 500, 70000, 5000000000)
    for i in range(0, 1200, 60):
        c("rpush", "list:large", *["element %d" % j for j in range(i, i + 60)])
    # So that 7.0 and later keep long elements outside of packed lists.
    optional("debug", "quicklist-packed-threshold", "100b")
    c("rpush", "list:plain", "a", "long element " * 30, noise(300), "z")
    optional("debug", "quicklist-packed-threshold", "0")
    c("sadd", "set:int16", *range(-5, 20))
    c("sadd", "set:int64", 1, 1 << 40, -(1 << 62))
    c("sadd", "set:ints", *range(100000, 100700))
    c("sadd", "set:small", "a", "b", "c", 1, 200000)
    c("sadd", "set:large", *["member %d" % i for i in range(400)], noise(500))
    c("zadd", "zset:small", 1, "a", -2.5, "b", "inf", "c", "-inf", "d", "1e-300", "e")
    c("zadd", "zset:large", *[w for i in range(300) for w in (i / 7, "member %d" % i)])
    c("zadd", "zset:long", 0, "y" * 500, 1, noise(200))
    c("geoadd", "geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")
    c("hset", "hash:small", "field", "value")
    c("hmset", "hash:small", "number", 12, "empty", "", "binary", b"\x00\xff")
    c("hmset", "hash:large", *[w for i in range(400) for w in ("field %d" % i, i * i)])
    c("hmset", "hash:long", "f", "v" * 1000, "g" * 500, noise(200))


def field_expiry():
    for key, size in [("hash:ttl:small", 5), ("hash:ttl:large", 300)]:
        c("hmset", key, *[w for i in range(size) for w in ("field %d" % i, "value %d" % i)])
        for i in range(0, size, 2):
            optional("hpexpireat", key, FAR + i, "FIELDS", 1, "field %d" % i)
            if i > 4 and size < 10:
                break
    c("hset", "hash:ttl:one", "f", "v" * 100)
    optional("hpexpireat", "hash:ttl:one", FAR, "FIELDS", 1, "f")


def streams():
    for i in range(300):
        c("xadd", "stream:large", "%d-1" % (i + 1), "sensor", i % 7, "value", "reading %d" % i)
    c("xdel", "stream:large", "5-1", "6-1", "299-1")
    c("xgroup", "create", "stream:large", "first", "0")
    c("xgroup", "create", "stream:large", "idle", "$")
    c("xgroup", "create", "stream:large", "12345", "100-1")
    for consumer, count in [("alice", 20), ("bob", 5), ("7", 1)]:
        c("xreadgroup", "group", "first", consumer, "count", count, "streams", "stream:large", ">")
    c("xack", "stream:large", "first", "1-1", "2-1")
    c("xclaim", "stream:large", "first", "carol", 0, "3-1", "4-1")
    optional("xgroup", "createconsumer", "stream:large", "idle", "nobody")
    c("xadd", "stream:empty", "18446744073709551615-1", "a", "b")
    c("xdel", "stream:empty", "18446744073709551615-1")
    c("xadd", "stream:fields", "1-1", "a", "1")
    c("xadd", "stream:fields", "1-2", "b", "2", "c", noise(100))
    for i in range(5):
        optional("xadd", "stream:idmp", "IDMP", "producer %d" % (i % 2), "token %d" % i, "*", "a", i)
    c("xadd", "stream:nack", "1-1", "a", "1")
    c("xgroup", "create", "stream:nack", "g", "0")
    c("xreadgroup", "group", "g", "me", "streams", "stream:nack", ">")
    optional("xnack", "stream:nack", "g", "FAIL", "IDS", 1, "1-1")


def modules_and_functions():
    optional("vadd", "vectors", "VALUES", 3, 1.0, 2.0, 3.0, "one")
    optional("vadd", "vectors", "VALUES", 3, -1.0, 0.5, 3.0, "two", "SETATTR", '{"year": 1999}')
    for i in range(12):
        optional("arset", "array", i * i * 100, "v" * (i + 1))
    body = "redis.register_function('%s', function(keys, args) return args[1] end)\n"
    libraries = []
    for library in ["small", "large"]:
        count = 1 if library == "small" else 60
        source = "#!lua name=%s\n" % library + "".join(body % ("%s%d" % (library, i)) for i in range(count))
        if optional("function", "load", source):
            libraries.append(source.encode())
    return libraries


def expiries():
    for i, db in enumerate([0, 1, 9, 15]):
        c("select", db)
        c("set", "db", db)
        for j in range(3):
            key = "expiring:%d" % j
            c("rpush", key, "a", j)
            c("pexpireat", key, FAR + i * 1000 + j)
            expires[db, key.encode()] = FAR + i * 1000 + j
    c("select", 0)


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
directory = tempfile.mkdtemp(prefix="rdb-make-")
policy = ["noeviction", "allkeys-lru", "allkeys-lfu"][sum(name.encode()) % 3]
options = dict(port=port, bind="127.0.0.1", dir=directory, save="", activerehashing="no")
options["maxmemory-policy"] = policy
help_text = subprocess.run([server, "--version"], capture_output=True, text=True).stdout
modern = not any(f"v={v}." in help_text for v in (5, 6))
if modern:
    options["enable-debug-command"] = "yes"
args = [w for k, v in options.items() for w in ("--" + k, str(v))]
process = subprocess.Popen([server, *args], stdout=subprocess.DEVNULL)
try:
    c = Client(port)
    expires, refused = {}, set()
    strings()
    keys()
    collections()
    field_expiry()
    streams()
    libraries = modules_and_functions()
    expiries()
    if policy != "allkeys-lfu":  # which counts how often a key is used, and says no time
        wait_until(lambda: c("object", "idletime", "db") >= 2, 10)
    c("save")
    lines = ["policy " + policy]
    lines += ["function %d %016x" % (len(source), crc64(source)) for source in libraries]
    for db in [0, 1, 9, 15]:
        c("select", db)
        for key in sorted(c("keys", "*")):
            dump = c("dump", key)[:-10]
            expiry = expires.get((db, key), "-")
            lines.append("%d %s %s %d %d %016x" % (
                db, key.hex() or "-", expiry, dump[0], len(dump), crc64(dump)))
    print(name, "refused", *sorted(refused))
    with open(os.path.join(here, name + ".txt"), "w") as f:
        f.write("\n".join(lines) + "\n")
    shutil.copy(os.path.join(directory, "dump.rdb"), os.path.join(here, name + ".rdb"))
finally:
    process.terminate()
    process.wait()
    shutil.rmtree(directory)
