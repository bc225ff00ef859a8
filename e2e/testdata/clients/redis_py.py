"""The story of redis-py: prints "ok WHAT" after each step; where it says so, the test kills the engine and writes a line."""
import os
import sys
import threading
import time

import redis


CA = os.environ["CA"]  # without it there is no TLS: the story is told to a sidecar


def connect(**other):
    options = dict(host=os.environ["HOST"], port=int(os.environ["PORT"]), password=os.environ["AUTH"] or None, decode_responses=True)
    if CA:
        options.update(ssl=True, ssl_ca_certs=CA, ssl_cert_reqs="required", ssl_check_hostname=True)
    return redis.Redis(**{**options, **other})


def want(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, want {wanted!r}")


def ok(what):
    print("ok " + what, flush=True)


db = connect()
db.set("key", "value")
want(db.get("key"), "value")
ok("get and set")

p = db.pipeline(transaction=False)
for _ in range(1000):
    p.incr("n")
want(p.execute()[-1], 1000)
ok("pipeline")

want(db.pipeline(transaction=True).set("m", 1).incr("m").execute(), [True, 2])
p = db.pipeline()
p.watch("w")
db.set("w", "changed")
p.multi()
p.set("w", "mine")
try:
    p.execute()
    raise AssertionError("a transaction on a changed key was done")
except redis.WatchError:
    pass
ok("transaction")

popped = []
waiter = threading.Thread(target=lambda: popped.append(db.blpop("list", timeout=10)))
waiter.start()
db.rpush("list", "item")
waiter.join()
want(popped, [("list", "item")])
ok("blocking pop")

sub = db.pubsub()
sub.subscribe("news")
want(sub.get_message(timeout=10)["type"], "subscribe")
want(db.publish("news", "hello"), 1)
want(sub.get_message(timeout=10)["data"], "hello")
ok("publish and subscribe")

want(db.register_script("return redis.call('GET', KEYS[1])")(keys=["key"]), "value")
ok("script")
want({"key", "n"} <= set(db.scan_iter(count=1)), True)
ok("scan")

many = [connect(single_connection_client=True) for _ in range(50)]
for i, c in enumerate(many):
    c.set(f"c{i}", i)
for i, c in enumerate(many):
    want(c.get(f"c{i}"), str(i))
for c in many:
    c.close()
ok("fifty connections")

if CA:
    try:
        connect(ssl_ca_certs=None).ping()
        raise AssertionError("connected without the CA")
    except redis.ConnectionError:
        ok("no connection without the CA")

print("ready to lose the engine", flush=True)
sys.stdin.readline()
end = time.monotonic() + 10
while True:
    try:
        db.set("after", "yes")
        want(db.get("after"), "yes")
        break
    except redis.RedisError:
        if time.monotonic() > end:
            raise
        time.sleep(0.05)
ok("reconnect")
