"""Many clients of redis-py without TLS, each always at work on a key of its own. When stdin says "tls" each of them goes on with a
connection with verified TLS, and leaves the other one. They end with stdin. None may see an error, or a reply that is not its own."""
import os
import random
import sys
import threading
import time

import redis

over, tls = threading.Event(), threading.Event()
started, moved = threading.Semaphore(0), threading.Semaphore(0)
done = []


def connect(key, encrypted):
    more = {"host": os.environ["HOST"], "port": int(os.environ["PORT"])}
    if encrypted:
        more = {"host": os.environ["TLS_HOST"], "port": int(os.environ["TLS_PORT"]), "ssl": True, "ssl_ca_certs": os.environ["CA_FILE"], "ssl_check_hostname": True}
    return redis.Redis(client_name=key, single_connection_client=True, retry=None, **more)


def work(key):
    try:
        db, encrypted, n = connect(key, False), False, 0
        while not over.is_set():
            if tls.is_set() and not encrypted:
                new = connect(key, True)
                new.ping()
                db.close()
                db, encrypted = new, True
                moved.release()
            n += 1
            got = db.pipeline(transaction=True).incr(key).execute()[0] if n % 10 == 0 else db.incr(key)
            if got != n:
                raise AssertionError(f"got {got!r}, want {n}")
            if n == 1:
                started.release()
            time.sleep(random.random() * 0.1)
        done.append(n)
    except BaseException as e:
        print(f"{key}: {e!r}", file=sys.stderr, flush=True)
        os._exit(1)


count = int(os.environ["CLIENTS"])
threads = [threading.Thread(target=work, args=(f"redis-py-{i}",)) for i in range(count)]
for t in threads:
    t.start()
for _ in range(count):
    started.acquire()
print("all at work", flush=True)
for line in sys.stdin:
    tls.set()
    for _ in range(count):
        moved.acquire()
    print("all moved", flush=True)
over.set()
for t in threads:
    t.join()
print(f"redis-py: {count} clients, {sum(done)} increments", flush=True)
