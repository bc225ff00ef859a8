"""Reads "host port file" lines; for each it says whether a handshake that trusts just the file's CAs succeeds."""
import socket
import ssl
import sys

for line in sys.stdin:
    host, port, file = line.split()
    context = ssl.create_default_context(cafile=file)
    try:
        with socket.create_connection((host, int(port))) as raw, context.wrap_socket(raw, server_hostname=host):
            print("ok")
    except OSError as e:
        print("no", str(e).replace("\n", " "))
