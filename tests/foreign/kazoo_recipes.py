"""Takes part in recipes through kazoo, as it is told on standard input.

    python3 kazoo_recipes.py HOST:PORT PATH

A line is a verb and a number, mostly that of a participant; each participant has a thread and
objects of its own, and all share a session. Everything that happens is told on standard output.
Recipes are below PATH, each under its own name; see `act`.
"""

import datetime
import queue
import sys
import threading

from kazoo.client import KazooClient
from kazoo.recipe.lease import NonBlockingLease
from kazoo.recipe.party import Party, ShallowParty

PERMITS = 2
MEMBERS = 2
LOCK = threading.Lock()


def say(*words):
    with LOCK:
        print(*words, flush=True)


class Participant:
    def __init__(self, client, path, number):
        name = f"foreigner-{number}"
        self.client = client
        self.path = path
        self.number = number
        self.verbs = queue.Queue()
        self.reader = client.ReadLock(path + "/rwlock", name)
        self.writer = client.WriteLock(path + "/rwlock", name)
        self.semaphore = client.Semaphore(path + "/semaphore", name, max_leases=PERMITS)
        self.candidate = client.Lock(path + "/election", name)
        self.barrier = client.Barrier(path + "/barrier")
        self.double_barrier = client.DoubleBarrier(path + "/double_barrier", MEMBERS, name)
        self.party = Party(client, path + "/group", "theirs")
        self.shallow = ShallowParty(client, path + "/shallow", name)
        self.queue = client.LockingQueue(path + "/queue")
        self.priority = client.LockingQueue(path + "/priority")
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            verb = self.verbs.get()
            try:
                answer = self.act(verb)
                if answer:
                    say(answer, self.number)
            except Exception as failure:
                say("failed", self.number, repr(failure))

    def act(self, verb):
        if verb == "read":
            self.reader.acquire()
            return "held"
        if verb == "tryread":
            return "held" if self.reader.acquire(blocking=False) else "busy"
        if verb == "unread":
            self.reader.release()
            return "released"
        if verb == "write":
            self.writer.acquire()
            return "held"
        if verb == "trywrite":
            return "held" if self.writer.acquire(blocking=False) else "busy"
        if verb == "unwrite":
            self.writer.release()
            return "released"
        if verb == "permit":
            self.semaphore.acquire()
            return "held"
        if verb == "trypermit":
            return "held" if self.semaphore.acquire(blocking=False) else "busy"
        if verb == "unpermit":
            self.semaphore.release()
            return "released"
        if verb == "lead":
            self.candidate.acquire()
            return "leading"
        if verb == "resign":
            self.candidate.release()
            return "resigned"
        if verb == "leader":
            return "leader " + self.candidate.contenders()[0]
        if verb == "close":
            self.barrier.create()
            return "closed"
        if verb == "wait":
            self.barrier.wait()
            return "passed"
        if verb == "open":
            self.barrier.remove()
            return "opened"
        if verb == "enter":
            self.double_barrier.enter()
            return "inside"
        if verb == "leave":
            self.double_barrier.leave()
            return "outside"
        if verb == "join":
            self.party.join()
            return "joined"
        if verb == "members":
            return "members " + ",".join(sorted(self.party))
        if verb == "part":
            self.party.leave()
            return "left"
        if verb == "shallowjoin":
            self.shallow.join()
            return "joined"
        if verb == "shallowmembers":
            return "members " + ",".join(sorted(self.shallow))
        if verb == "add":
            counter = self.client.Counter(self.path + "/counter")
            counter += int(self.number)
            return f"sum {counter.value}"
        if verb == "count":
            counter = self.client.Counter(self.path + "/count", support_curator=True)
            seen = counter.value
            counter += 1
            return f"count {seen}"
        if verb == "put":
            self.queue.put(f"theirs-{self.number}".encode())
            return "put"
        if verb == "putpriority":
            self.priority.put(f"theirs-{self.number}".encode(), int(self.number))
            return "put"
        if verb == "take":
            item = self.queue.get()
            self.queue.consume()
            say("took", item.decode())
            return None
        if verb == "lease":
            hour = datetime.timedelta(hours=1)
            lease = NonBlockingLease(self.client, self.path + "/lease", hour, "theirs")
            return "held" if lease else "busy"
        raise ValueError(verb)


def main():
    address, path = sys.argv[1:]
    client = KazooClient(hosts=address, timeout=4)
    client.start(timeout=30)
    participants = {}
    say("ready", 0)
    for line in sys.stdin:
        verb, n = line.split()
        if n not in participants:
            participants[n] = Participant(client, path, n)
        participants[n].verbs.put(verb)


main()
