"""Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for."""
import socket
import ssl
import sys

for line in sys.stdin:
    host, port, _name, file = line.split()
    context = ssl.create_default_context(cafile=file)
    try:
        with socket.create_connection((host, int(port))) as raw, context.wrap_socket(raw, server_hostname=host) as tls:
            tls.sendall(b"PING\r\n")
            answer = tls.recv(64)
            print("ok" if answer == b"+PONG\r\n" else f"no {answer}")
    except OSError as e:
        print("no", str(e).replace("\n", " "))
