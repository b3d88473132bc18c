"""Drives a server through kazoo and tells on standard output what came of it.

    python3 kazoo_session.py HOST:PORT

The same lines are expected from every server: what differs by nature (times, session ids, the zxid
to start from) is left out or counted from a mark. A line `@restart` asks whoever runs this script to
restart the server, and to say so with a line on standard input.
"""

import signal
import subprocess
import sys
import threading

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException
from kazoo.protocol.states import ZnodeStat
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.security import (
    CREATOR_ALL_ACL,
    OPEN_ACL_UNSAFE,
    READ_ACL_UNSAFE,
    make_acl,
    make_digest_acl,
)

# Seconds to wait for anything; a script that hangs fails.
DEADLINE = 30


class Transcript:
    """Prints results in a form that does not depend on the server or the time."""

    def __init__(self):
        self.mark = 0
        self.sessions = {}

    def heading(self, function):
        print(f"== {function.__doc__}", flush=True)

    def say(self, what, value):
        print(f"{what}: {self.show(value)}", flush=True)

    def attempt(self, what, call, *args, **kwargs):
        """Says what a call answers, or how it fails."""
        try:
            value = call(*args, **kwargs)
        except KazooException as error:
            print(f"{what}: {type(error).__name__}", flush=True)
            return None
        self.say(what, value)
        return value

    def count_from(self, client):
        """Counts zxids from the next transaction on."""
        client.ensure_path("/mark")
        self.mark = client.set("/mark", b"").mzxid

    def name(self, session):
        """Names sessions in the order in which they appear; 0 is nobody."""
        if session == 0:
            return "nobody"
        return self.sessions.setdefault(session, f"session{len(self.sessions)}")

    def show(self, value):
        if isinstance(value, ZnodeStat):
            times = "later" if value.mtime > value.ctime else "at once"
            return (
                f"czxid {value.czxid - self.mark} mzxid {value.mzxid - self.mark} "
                f"pzxid {value.pzxid - self.mark} version {value.version} "
                f"cversion {value.cversion} aversion {value.aversion} "
                f"owner {self.name(value.ephemeralOwner)} length {value.dataLength} "
                f"children {value.numChildren}"
                + (f" set {times}" if value.version == 0 else "")
            )
        if isinstance(value, KazooException):
            return type(value).__name__
        if isinstance(value, tuple):
            return "(" + ", ".join(self.show(item) for item in value) + ")"
        if isinstance(value, list):
            return "[" + ", ".join(self.show(item) for item in value) + "]"
        if isinstance(value, bytes) and len(value) > 200:
            return f"{len(value)} bytes"
        return repr(value)


class Session:
    """What the sections share: the server, the transcript, clients that end with the section."""

    def __init__(self, address):
        self.address = address
        self.transcript = Transcript()
        self.clients = []

    def client(self, chroot="", timeout=10.0, **options):
        client = KazooClient(hosts=self.address + chroot, timeout=timeout, **options)
        client.start(timeout=DEADLINE)
        self.clients.append(client)
        return client

    def run(self, section):
        self.transcript.heading(section)
        try:
            section(self, self.transcript)
        finally:
            for client in self.clients:
                client.stop()
                client.close()
            self.clients = []

    def restart_server(self):
        print("@restart", flush=True)
        if not sys.stdin.readline():
            raise EOFError("nobody restarted the server")


def wait(event, what):
    if not event.wait(DEADLINE):
        raise TimeoutError(f"{what} did not happen within {DEADLINE} s")


class Seen:
    """Values that a callback delivers, to be awaited one by one."""

    def __init__(self):
        self.values = []
        self.changed = threading.Condition()

    def add(self, value):
        with self.changed:
            self.values.append(value)
            self.changed.notify_all()

    def take(self, what):
        with self.changed:
            if not self.changed.wait_for(lambda: self.values, DEADLINE):
                raise TimeoutError(f"{what} did not happen within {DEADLINE} s")
            return self.values.pop(0)

    def event(self, event):
        self.add((event.type, event.state, event.path))


def creating(session, out):
    """create, in every mode"""
    client = session.client()
    out.count_from(client)
    out.attempt("plain", client.create, "/create", b"data", include_data=True)
    out.attempt("again", client.create, "/create")
    out.attempt("no parent", client.create, "/create/a/b")
    out.attempt("parents made", client.create, "/create/a/b", makepath=True)
    out.attempt("empty data", client.create, "/create/empty", b"", include_data=True)
    out.attempt("ephemeral", client.create, "/create/e", b"x", ephemeral=True, include_data=True)
    out.attempt("child of an ephemeral", client.create, "/create/e/f")
    for n in range(3):
        out.attempt(f"sequence {n}", client.create, "/create/s-", sequence=True)
    out.attempt("sequence alone", client.create, "/create/a/", sequence=True)
    both = out.attempt(
        "ephemeral sequence",
        client.create,
        "/create/es-",
        ephemeral=True,
        sequence=True,
        include_data=True,
    )
    out.attempt("deleted", client.delete, both[0])
    out.attempt("the counter goes on", client.create, "/create/es-", sequence=True)
    out.attempt("names of any script", client.create, "/create/ü 世界", "é".encode())
    out.attempt("ensure_path", client.ensure_path, "/create/p/q/r")
    out.attempt("ensure_path again", client.ensure_path, "/create/p/q/r")
    out.attempt("the parent", client.exists, "/create")
    out.attempt("the root", client.create, "/")
    out.attempt("a megabyte less a little", client.create, "/create/large", b"l" * 1_000_000)
    out.attempt("read back", client.get, "/create/large")


def reading_and_writing(session, out):
    """get, set, exists, delete, children"""
    client = session.client()
    out.count_from(client)
    client.create("/rw", b"one")
    out.attempt("get", client.get, "/rw")
    out.attempt("set", client.set, "/rw", b"two")
    out.attempt("set, version", client.set, "/rw", b"three", version=1)
    out.attempt("set, wrong version", client.set, "/rw", b"four", version=1)
    out.attempt("set, nothing there", client.set, "/none", b"")
    out.attempt("get, nothing there", client.get, "/none")
    out.attempt("exists", client.exists, "/rw")
    out.attempt("exists, nothing there", client.exists, "/none")
    for name in ("c", "a", "b"):
        client.create(f"/rw/{name}", name.encode())
    names, stat = client.get_children("/rw", include_data=True)
    out.say("children", (sorted(names), stat))
    out.attempt("children, nothing there", client.get_children, "/none")
    out.attempt("delete, children", client.delete, "/rw")
    out.attempt("delete, wrong version", client.delete, "/rw/a", version=7)
    out.attempt("delete, version", client.delete, "/rw/a", version=0)
    out.attempt("delete, nothing there", client.delete, "/rw/a")
    out.attempt("the parent", client.exists, "/rw")
    out.attempt("delete, recursive", client.delete, "/rw", recursive=True)
    out.attempt("sync", client.sync, "/rw")
    out.attempt("protected", client.delete, "/zookeeper/quota")
    out.attempt("protected root of it", client.delete, "/zookeeper")
    out.attempt("reconfig", client.reconfig, joining="server.9=h:1:2;3", leaving=None, new_members=None)
    futures = [client.set_async("/mark", str(n).encode()) for n in range(200)]
    versions = [future.get(timeout=DEADLINE).version for future in futures]
    out.say("pipelined in order", versions == list(range(versions[0], versions[0] + 200)))


def chroot(session, out):
    """a chroot"""
    session.client().ensure_path("/root/of/all")
    client = session.client("/root/of/all")
    out.attempt("create", client.create, "/inside", b"x")
    out.attempt("sequence", client.create, "/inside/s", sequence=True)
    out.attempt("children", client.get_children, "/")
    whole = session.client()
    out.attempt("from outside", whole.get_children, "/root/of/all")


def access(session, out):
    """ACLs and authentication"""
    ann, bob = session.client(), session.client()
    out.count_from(ann)
    out.attempt("auth before it is there", ann.create, "/acl", acl=CREATOR_ALL_ACL)
    out.attempt("ann", ann.add_auth, "digest", "ann:secret")
    out.attempt("auth", ann.create, "/acl", b"hers", acl=CREATOR_ALL_ACL)
    out.attempt("acl", ann.get_acls, "/acl")
    out.attempt("bob reads", bob.get, "/acl")
    out.attempt("bob lists", bob.get_children, "/acl")
    out.attempt("bob sets", bob.set, "/acl", b"his")
    out.attempt("bob creates", bob.create, "/acl/x")
    out.attempt("bob sets the ACL", bob.set_acls, "/acl", OPEN_ACL_UNSAFE)
    out.attempt("bob asks for the ACL", bob.get_acls, "/acl")
    shared = [make_digest_acl("ann", "secret", all=True), make_acl("world", "anyone", read=True)]
    out.attempt("ann shares", ann.set_acls, "/acl", shared, version=0)
    out.attempt("wrong version", ann.set_acls, "/acl", shared, version=0)
    out.attempt("bob reads", bob.get, "/acl")
    acls, stat = bob.get_acls("/acl")
    out.say("bob sees no hash", (acls, stat))
    out.attempt("bob still creates nothing", bob.create, "/acl/x")
    out.attempt("bob is ann", bob.add_auth, "digest", "ann:secret")
    out.attempt("bob creates", bob.create, "/acl/x", acl=READ_ACL_UNSAFE)
    out.attempt("read only", bob.set, "/acl/x", b"y")
    out.attempt("delete needs the parent", bob.delete, "/acl/x")
    for acl in (
        make_acl("ip", "127.0.0.1", all=True),
        make_acl("ip", "10.0.0.0/8", all=True),
    ):
        name = "/by-" + acl.id.id.replace("/", "-")
        out.attempt("create for an address", ann.create, name, b"", acl=[acl])
        out.attempt("read from here", ann.get, name)
    for acl in (
        make_acl("ip", "300.0.0.1", all=True),
        make_acl("nobody", "knows", all=True),
        make_acl("digest", "no colon", all=True),
        make_acl("world", "someone", all=True),
    ):
        out.attempt(f"invalid {acl.id}", ann.create, "/invalid", acl=[acl])
    twice = [make_acl("world", "anyone", all=True)] * 2
    out.attempt("twice", ann.create, "/twice", acl=twice)
    out.attempt("once", ann.get_acls, "/twice")
    out.attempt("nobody's scheme", session.client().add_auth, "nobody", "x")
    reader = session.client(auth_data=[("digest", "ann:secret")])
    # The client that was refused tries again with sessions of its own, which take zxids.
    out.attempt("auth at the start", lambda: reader.set("/acl", b"again").version)


def transactions(session, out):
    """transactions"""
    client = session.client()
    out.count_from(client)
    client.create("/txn", b"")
    txn = client.transaction()
    txn.create("/txn/a", b"1")
    txn.create("/txn/s-", b"2", sequence=True)
    txn.create("/txn/e", b"3", ephemeral=True)
    txn.set_data("/txn/a", b"4")
    txn.check("/txn/a", 1)
    txn.delete("/txn/e", 0)
    out.attempt("all at once", txn.commit)
    out.attempt("one zxid", client.get, "/txn/a")
    out.attempt("the parent", client.exists, "/txn")
    txn = client.transaction()
    txn.set_data("/txn/a", b"5")
    txn.check("/txn/a", 7)
    txn.delete("/txn/a")
    out.attempt("one fails", txn.commit)
    out.attempt("nothing happened", client.get, "/txn/a")
    txn = client.transaction()
    txn.create("/txn/x")
    txn.create("/txn/x/y")
    txn.delete("/none")
    txn.create("/txn/z")
    out.attempt("the last but one fails", txn.commit)
    out.attempt("children", lambda: sorted(client.get_children("/txn")))
    txn = client.transaction()
    txn.check("/txn", -1)
    out.attempt("any version", txn.commit)
    out.attempt("empty", client.transaction().commit)
    out.attempt("zxids go on", client.set, "/txn", b"")


def watches(session, out):
    """watches"""
    client, other = session.client(), session.client()
    seen = Seen()
    out.attempt("exists", client.exists, "/watch", watch=seen.event)
    other.create("/watch", b"1")
    out.say("created", seen.take("creation"))
    client.get("/watch", watch=seen.event)
    other.set("/watch", b"2")
    out.say("set", seen.take("a change"))
    other.set("/watch", b"not seen")
    client.get_children("/watch", watch=seen.event)
    other.create("/watch/child")
    out.say("child", seen.take("a child"))
    client.get("/watch/child", watch=seen.event)
    client.get_children("/watch/child", watch=seen.event)
    other.delete("/watch/child")
    out.say("deleted", [seen.take("deletion"), seen.take("deletion")])
    client.exists("/watch", watch=seen.event)
    client.set("/watch", b"own")
    out.say("own change", seen.take("own change"))

    values = Seen()
    client.DataWatch("/data", lambda data, stat: values.add((data, stat and stat.version)))
    out.say("data at first", values.take("the first call"))
    other.create("/data", b"v0")
    out.say("data created", values.take("creation"))
    other.set("/data", b"v1")
    out.say("data set", values.take("change"))
    other.delete("/data")
    out.say("data deleted", values.take("deletion"))

    names = Seen()
    client.ChildrenWatch("/watch", lambda children: names.add(sorted(children)))
    out.say("children at first", names.take("the first call"))
    for name in ("x", "y"):
        other.create(f"/watch/{name}")
        out.say("children", names.take("a child"))
    other.delete("/watch/x")
    out.say("children", names.take("a child gone"))


def cache(session, out):
    """TreeCache"""
    client, other = session.client(), session.client()
    for path in ("/cache/a/b", "/cache/c"):
        client.ensure_path(path)
    events = Seen()
    tree = TreeCache(client, "/cache")
    tree.listen(lambda e: events.add((e.event_type, e.event_data and e.event_data.path)))
    tree.start()
    first = []
    while not first or first[-1][0] != TreeEvent.INITIALIZED:
        first.append(events.take("the first events"))
    out.say("at first", sorted(first[:-1], key=repr))
    other.set("/cache/a/b", b"new")
    out.say("set", events.take("change"))
    other.create("/cache/a/d")
    out.say("created", events.take("creation"))
    other.delete("/cache/a", recursive=True)
    out.say("deleted", sorted(events.take("deletion") for _ in range(3)))
    out.say("left", sorted(tree.get_children("/cache")))
    tree.close()


def together(session, count, work):
    """Runs `work(client, n)` in `count` threads with a client each; a failure in one is a failure."""
    failures = []

    def run(n, client):
        try:
            work(client, n)
        except BaseException as error:
            failures.append(error)
            raise

    clients = [session.client() for _ in range(count)]
    threads = [
        threading.Thread(target=run, args=item, daemon=True) for item in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        if thread.is_alive():
            raise TimeoutError(f"a contender did not finish within {DEADLINE} s")
    if failures:
        raise failures[0]


class Inside:
    """Counts who is inside at once."""

    def __init__(self):
        self.mutex = threading.Lock()
        self.now = self.most = self.entries = 0

    def __enter__(self):
        with self.mutex:
            self.now += 1
            self.entries += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.mutex:
            self.now -= 1


def locks(session, out):
    """Lock, ReadLock, WriteLock, Semaphore"""
    inside = Inside()

    def work(client, n):
        lock = client.Lock("/lock", f"contender {n}")
        for _ in range(10):
            with lock, inside:
                pass

    together(session, 5, work)
    out.say("lock", (inside.entries, inside.most))

    ann, bob = session.client(), session.client()
    held = ann.Lock("/lock", "ann")
    out.say("acquired", held.acquire(timeout=DEADLINE))
    out.say("contenders", held.contenders())
    out.say("not twice", bob.Lock("/lock", "bob").acquire(blocking=False))
    waiting = bob.Lock("/lock", "bob")
    acquired = threading.Event()
    threading.Thread(
        target=lambda: waiting.acquire(timeout=DEADLINE) and acquired.set(), daemon=True
    ).start()
    # The lock passes on when the holder's session ends.
    ann.stop()
    wait(acquired, "the lock passing on")
    out.say("passed on to", waiting.contenders())
    waiting.release()

    readers = [session.client() for _ in range(2)]
    reading = [client.ReadLock("/rwlock", "r") for client in readers]
    out.say("readers", [lock.acquire(timeout=DEADLINE) for lock in reading])
    out.say("no writer", bob.WriteLock("/rwlock", "w").acquire(blocking=False))
    for lock in reading:
        lock.release()
    writing = bob.WriteLock("/rwlock", "w")
    out.say("writer", writing.acquire(timeout=DEADLINE))
    out.say("no reader", readers[0].ReadLock("/rwlock", "r").acquire(blocking=False))
    writing.release()

    inside = Inside()

    def lease(client, n):
        semaphore = client.Semaphore("/semaphore", f"contender {n}", max_leases=2)
        for _ in range(5):
            with semaphore, inside:
                pass

    together(session, 4, lease)
    out.say("semaphore", (inside.entries, inside.most <= 2))


def meetings(session, out):
    """Barrier, DoubleBarrier, Party, Election, Counter"""
    client, other = session.client(), session.client()
    barrier = client.Barrier("/barrier")
    barrier.create()
    passed = threading.Event()
    threading.Thread(
        target=lambda: other.Barrier("/barrier").wait(DEADLINE) and passed.set(), daemon=True
    ).start()
    out.say("closed", client.Barrier("/barrier").wait(0.2))
    out.say("opened", barrier.remove())
    wait(passed, "the barrier opening")

    inside = Inside()

    def meet(client, n):
        double = client.DoubleBarrier("/double", 3, f"member {n}")
        double.enter()
        with inside:
            double.leave()

    together(session, 3, meet)
    out.say("double barrier", inside.entries)

    party = client.Party("/party", "ann")
    party.join()
    other.Party("/party", "bob").join()
    out.say("party", sorted(party))
    party.leave()
    out.say("party", sorted(party))

    leaders = []

    def candidate(client, n):
        election = client.Election("/election", f"candidate {n}")
        election.run(lambda: leaders.append(n))

    together(session, 3, candidate)
    out.say("elected", sorted(leaders))

    def count(client, _):
        counter = client.Counter("/counter")
        for _ in range(5):
            counter += 1

    together(session, 3, count)
    out.say("counter", client.Counter("/counter").value)


def queues(session, out):
    """Queue, LockingQueue"""
    client, other = session.client(), session.client()
    queue = client.Queue("/queue")
    for n in range(5):
        queue.put(f"item {n}".encode())
    queue.put(b"first", priority=1)
    out.say("length", len(queue))
    out.say("items", [other.Queue("/queue").get() for _ in range(6)])
    out.say("empty", queue.get())

    locking = client.LockingQueue("/lqueue")
    locking.put_all([b"a", b"b", b"c"])
    taken = other.LockingQueue("/lqueue")
    out.say("got", taken.get(timeout=DEADLINE))
    out.say("the same until it is consumed", taken.get(timeout=DEADLINE))
    out.say("another one", locking.get(timeout=DEADLINE))
    out.say("consumed", (taken.consume(), locking.consume()))
    out.say("last", taken.get(timeout=DEADLINE))
    out.say("released", taken.release())
    out.say("last again", locking.get(timeout=DEADLINE))


def states(client):
    seen = Seen()

    def listener(state):
        seen.add(state)

    client.add_listener(listener)
    return seen


class Holder:
    """A client in a process of its own that holds /held until the process is killed."""

    def __init__(self, session, timeout):
        command = [sys.executable, __file__, session.address, "--hold", str(timeout)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        session_id, password = self.process.stdout.readline().split()
        self.id, self.password = int(session_id), bytes.fromhex(password)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def hold(address, timeout):
    client = KazooClient(hosts=address, timeout=timeout)
    client.start(timeout=DEADLINE)
    client.create("/held", ephemeral=True)
    print(client.client_id[0], client.client_id[1].hex(), flush=True)
    signal.pause()


def sessions(session, out):
    """sessions: taken over, closed, expired"""
    watcher = session.client()
    gone = threading.Event()

    holder = Holder(session, timeout=20.0)
    holder.kill()
    wrong = session.client(client_id=(holder.id, b"x" * 16))
    out.say("not to be had with a wrong password", wrong.client_id[0] != holder.id)
    heir = session.client(client_id=(holder.id, holder.password))
    out.say("taken over", heir.client_id[0] == holder.id)
    stat = watcher.exists("/held", watch=lambda _: gone.set())
    out.say("its ephemeral is there", stat.ephemeralOwner == holder.id)
    heir.stop()
    wait(gone, "the end of the session")
    out.say("gone with the session", watcher.exists("/held"))

    gone.clear()
    holder = Holder(session, timeout=1.0)
    stat = watcher.exists("/held", watch=lambda _: gone.set())
    out.say("held", stat.ephemeralOwner == holder.id)
    holder.kill()
    wait(gone, "expiry")
    out.say("expired", watcher.exists("/held"))
    late = session.client(client_id=(holder.id, holder.password))
    out.say("cannot be had again", late.client_id[0] != holder.id)


def restart(session, out):
    """a restart of the server"""
    client = session.client(timeout=20.0)
    out.count_from(client)
    client.create("/kept", b"before", ephemeral=True)
    client.create("/lasting", b"before", makepath=True)
    client.add_auth("digest", "ann:secret")
    client.create("/hers", acl=CREATOR_ALL_ACL)
    lock = client.Lock("/restart-lock", "holder")
    lock.acquire(timeout=DEADLINE)
    values = Seen()
    client.DataWatch("/lasting", lambda data, stat: values.add(data))
    out.say("at first", values.take("the first call"))
    children = Seen()
    client.ChildrenWatch("/lasting", children.add)
    out.say("children at first", children.take("the first call"))
    seen = states(client)
    before = client.client_id
    session.restart_server()
    out.say("then", seen.take("the loss of the connection"))
    out.say("then", seen.take("a new connection"))
    out.say("the same session", client.client_id == before)
    out.attempt("its ephemeral", client.get, "/kept")
    out.say("still holds the lock", lock.contenders())
    out.attempt("authenticated again", client.get, "/hers")
    other = session.client()
    other.set("/lasting", b"after")
    # kazoo reads again after a reconnect, so that the old value may come once more.
    out.say("watched again", next(v for v in iter(lambda: values.take("a change"), None) if v == b"after"))
    other.create("/lasting/child")
    out.say(
        "children watched again",
        next(v for v in iter(lambda: children.take("a child"), None) if v),
    )
    lock.release()
    out.attempt("writes go on", client.create, "/lasting/s-", sequence=True)


def commands(session, out):
    """four-letter words"""
    client = session.client()
    out.say("ruok", client.command(b"ruok"))
    out.say("srvr", [line.split(":")[0] for line in client.command(b"srvr").splitlines()])
    out.say("version", len(client.server_version()) >= 3)


def stopping(session, out):
    """closing"""
    client = session.client()
    client.create("/closing", ephemeral=True)
    seen = states(client)
    client.stop()
    out.say("state", (seen.take("the end"), client.state == KazooState.LOST))
    out.say("gone at once", session.client().exists("/closing"))


SECTIONS = [
    creating,
    reading_and_writing,
    chroot,
    access,
    transactions,
    watches,
    cache,
    locks,
    meetings,
    queues,
    sessions,
    restart,
    commands,
    stopping,
]


def main():
    address = sys.argv[1]
    if sys.argv[2:3] == ["--hold"]:
        hold(address, float(sys.argv[3]))
        return
    wanted = sys.argv[2:] or [section.__name__ for section in SECTIONS]
    session = Session(address)
    for section in SECTIONS:
        if section.__name__ in wanted:
            session.run(section)
    print("== done", flush=True)


if __name__ == "__main__":
    main()
