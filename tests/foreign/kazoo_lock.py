"""Contends for a lock through kazoo, as it is told on standard input.

    python3 kazoo_lock.py HOST:PORT PATH

A line is a verb and the number of a contender; each contender has a lock object of its own, and all
share a session. Everything that happens is told on standard output:

    acquire N      waits for the lock, in the background; `held N` once it is held
    try N          `held N` or `busy N`
    release N      `released N`
    contenders 0   `contenders DATA DATA ...`, in order
"""

import sys
import threading

from kazoo.client import KazooClient

LOCK = threading.Lock()


def say(*words):
    with LOCK:
        print(*words, flush=True)


def main():
    address, path = sys.argv[1:]
    client = KazooClient(hosts=address, timeout=4)
    client.start(timeout=30)
    locks = {}

    def lock(n):
        return locks.setdefault(n, client.Lock(path, f"kazoo-{n}"))

    def acquire(n):
        lock(n).acquire()
        say("held", n)

    say("ready 0")
    for line in sys.stdin:
        verb, n = line.split()
        if verb == "acquire":
            threading.Thread(target=acquire, args=(n,), daemon=True).start()
        elif verb == "try":
            say("held" if lock(n).acquire(blocking=False) else "busy", n)
        elif verb == "release":
            lock(n).release()
            say("released", n)
        elif verb == "contenders":
            say("contenders", *lock(n).contenders())
    client.stop()


main()
