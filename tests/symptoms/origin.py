"""Every way in which an origin can fail a gateway: a port, or a socket, for each."""

import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

RUN = "/run/origin"
HELD = []


def serve(listener, answer):
    """Answers each connection on a thread of its own."""

    def one(connection):
        try:
            answer(connection)
        except OSError:
            pass

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def tcp(port, answer, backlog=64):
    listener = socket.create_server(("0.0.0.0", port), backlog=backlog)
    threading.Thread(target=serve, args=(listener, answer), daemon=True).start()


def reads(connection):
    connection.recv(65536)


def says(text, keep=False):
    def answer(connection):
        reads(connection)
        connection.sendall(text)
        if keep:
            time.sleep(60)
        connection.close()

    return answer


def ok(connection):
    while connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def fin(connection):
    reads(connection)
    connection.close()


def rst(connection):
    reads(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def silent(connection):
    HELD.append(connection)
    time.sleep(3600)


def slow(connection):
    reads(connection)
    silent(connection)


def tls(connection):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{RUN}/cert.pem", f"{RUN}/key.pem")
    secured = context.wrap_socket(connection, server_side=True)
    ok(secured)


def full(port):
    """A listener whose queue is full: the kernel drops what knocks."""
    listener = socket.socket()
    listener.bind(("0.0.0.0", port))
    listener.listen(0)
    HELD.append((listener, socket.create_connection(("127.0.0.1", port))))


def unix(name, backlog, fill):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{RUN}/{name}")
    listener.listen(backlog)
    os.chmod(f"{RUN}/{name}", 0o777)
    HELD.append(listener)
    if fill:
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(f"{RUN}/{name}")
        HELD.append(waiting)
    return listener


subprocess.run(
    ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=elsewhere.example",
     "-keyout", f"{RUN}/key.pem", "-out", f"{RUN}/cert.pem"],
    check=True, stderr=subprocess.DEVNULL,
)
tcp(9001, fin)
tcp(9002, rst)
tcp(9003, slow)
tcp(9004, says(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n"))
tcp(9005, says(b"HTTP/1.1 200 OK\r\nA\0B: x\r\nContent-Length: 0\r\n\r\n"))
tcp(9006, says(b"SSH-2.0-OpenSSH_9.2\r\n"))
tcp(9007, says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
tcp(9008, tls)
tcp(9010, says(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx"))
tcp(9011, says(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nConnection: close\r\n\r\nown\n"))
full(9012)
tcp(9020, ok)
unix("stale.sock", 1, False).close()
unix("full.sock", 0, True)
subprocess.run(["systemd-notify", "--ready"], check=False)
threading.Event().wait()
