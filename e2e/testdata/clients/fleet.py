"""Many clients of redis-py, each always at work on a key of its own, until stdin ends. None may see an error, a reply that is not
its own, or another connection than its first."""
import os
import random
import sys
import threading
import time

import redis

over = threading.Event()
started = threading.Semaphore(0)
done = []


def want(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, want {wanted!r}")


def work(key):
    try:
        db = redis.Redis(host=os.environ["HOST"], port=int(os.environ["PORT"]), single_connection_client=True, retry=None)
        ident = db.client_id()
        n = 0
        while not over.is_set():
            n += 1
            if n % 10 == 0:
                want(db.pipeline(transaction=True).incr(key).execute(), [n])
            else:
                want(db.incr(key), n)
            if n == 1:
                started.release()
            if n % 5 == 0:
                time.sleep(random.random() * 0.05)
        want(db.client_id(), ident)
        done.append(n)
    except BaseException as e:
        print(f"{key}: {e!r}", file=sys.stderr, flush=True)
        os._exit(1)


count = int(os.environ["CLIENTS"])
threads = [threading.Thread(target=work, args=(f"redis-py:{i}",)) for i in range(count)]
for t in threads:
    t.start()
for _ in range(count):
    started.acquire()
print("all at work", flush=True)
sys.stdin.read()
over.set()
for t in threads:
    t.join()
print(f"redis-py: {count} clients, {sum(done)} increments", flush=True)
