# This measures how long Python's ssl takes from connecting to the first reply, with a verified server. It prints one line with the
# milliseconds for each connection. Nagle's algorithm is on, which is the default.
import socket, ssl, sys, time

host, port, ca, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
context = ssl.create_default_context(cafile=ca)
for _ in range(count):
    start = time.perf_counter()
    with socket.create_connection((host, port), timeout=10) as raw, context.wrap_socket(raw, server_hostname=host) as conn:
        conn.sendall(b"PING\r\n")
        reply = conn.recv(100)
        took = time.perf_counter() - start
    if reply != b"+PONG\r\n":
        sys.exit(f"the reply was {reply!r}")
    print(f"{took * 1000:.3f}", flush=True)
