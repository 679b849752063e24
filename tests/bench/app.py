"""A small web service for scenarios. Its settings are variables, as a unit's EnvironmentFile= gives them:

BIND         "0.0.0.0:8000", "[::]:8000" or "unix:/srv/run/app.sock"; "none": does not listen
BACKLOG      of listen(2)
THREADS      1: one request at a time; else any number
START_S      sleeps before it listens, like a service that warms a cache
DIE_S        exits with 1 this long after it began to listen
STOP_S       takes this long to stop on SIGTERM

Files in /run/app change what it does while it runs: `slow` holds seconds that every request takes, `status` the status of
every answer, `crash` makes the next request read address 0, `leak` makes the next request take memory without end,
`scan` names a file that every request reads through, `block` makes the next request wait in the kernel, where no signal but
SIGKILL reaches it (state D: vfork(2), whose child waits for a pipe's other end), `abort` makes it call abort(3), `mute` ends
its pings to systemd's watchdog. SIGUSR1 closes the listener.
"""

import ctypes
import http.server
import mmap
import os
import signal
import socket
import socketserver
import sys
import threading
import time

BIND = os.environ.get("BIND", "0.0.0.0:8000")
BACKLOG = int(os.environ.get("BACKLOG", "128"))
ONE_BY_ONE = os.environ.get("THREADS") == "1"


def knob(name):
    try:
        with open("/run/app/" + name) as file:
            return file.read().strip() or "1"
    except FileNotFoundError:
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if knob("crash"):
            ctypes.string_at(0)
        if knob("abort"):
            os.abort()
        if knob("leak"):
            hoard = []
            while True:
                hoard.append(bytearray(b"x" * (4 << 20)))
                time.sleep(0.005)
        if knob("block"):
            os.mkfifo("/run/app/pipe")
            os.posix_spawn("/bin/true", ["true"], {}, file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/run/app/pipe", os.O_RDONLY, 0)])
        scan = knob("scan")
        if scan:
            with open(scan, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                for _ in range(100):
                    sum(data[at] for at in range(0, len(data), 4096))
        time.sleep(float(knob("slow") or 0))
        missing = self.path.startswith("/missing")
        body = b"ok\n"
        self.send_response(int(knob("status") or (404 if missing else 200)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def address_string(self):
        return "gateway"

    def log_message(self, *arguments):
        pass


class Server(http.server.HTTPServer):
    request_queue_size = BACKLOG

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self.address_family == socket.AF_UNIX:
            if os.path.exists(self.server_address):
                os.unlink(self.server_address)
            self.socket.bind(self.server_address)
            os.chmod(self.server_address, 0o666)
            self.server_name, self.server_port = "app", 0
        else:
            socketserver.TCPServer.server_bind(self)


class ThreadedServer(socketserver.ThreadingMixIn, Server):
    daemon_threads = True


def ping():
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    while not knob("mute"):
        notify.sendto(b"WATCHDOG=1", os.environ["NOTIFY_SOCKET"])
        time.sleep(0.5)


def serve():
    if os.environ.get("LISTEN_FDS"):
        server = ThreadedServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket = socket.socket(fileno=3)
        server.serve_forever()
    kind = Server if ONE_BY_ONE else ThreadedServer
    if BIND.startswith("unix:"):
        kind.address_family, address = socket.AF_UNIX, BIND[5:]
    else:
        host, port = BIND.rsplit(":", 1)
        kind.address_family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        address = (host.strip("[]"), int(port))
    server = kind(address, Handler)

    def close(*_):
        server.socket.close()
        while True:
            time.sleep(60)

    signal.signal(signal.SIGUSR1, close)
    server.serve_forever()


def stop(*_):
    time.sleep(float(os.environ.get("STOP_S", "0")))
    os._exit(0)


signal.signal(signal.SIGTERM, stop)
time.sleep(float(os.environ.get("START_S", "0")))
if "WATCHDOG_USEC" in os.environ:
    threading.Thread(target=ping, daemon=True).start()
if "DIE_S" in os.environ:
    def die():
        print("cannot reach its database: giving up", file=sys.stderr, flush=True)
        os._exit(1)
    threading.Timer(float(os.environ["DIE_S"]), die).start()
if BIND == "none":
    while True:
        time.sleep(60)
serve()
