"""Runs a real HTTP server on loopback that misbehaves in every way a site can."""

from __future__ import annotations

import collections
import contextlib
import email.utils
import http.server
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator

PIXELS = b"pretend-image-" * 100


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.times: dict[str, list[float]] = collections.defaultdict(list)
        self.active = self.most_active = self.connections = 0
        self.robots: tuple[int, str | bytes] = (404, "")
        self.robots_seconds = 0.0  # between two of its bytes
        self.files: dict[str, bytes] = {}  # path after /file/ → bytes
        self.locations: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def hits(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.requests)

    def get_request(self):
        self.connections += 1
        return super().get_request()

    def handle_error(self, request, client_address) -> None:
        """Ignores clients that hang up: they are what the tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(body))} | (headers or {})
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.requests.append((self.path, dict(self.headers)))
            server.times[self.path].append(time.monotonic())
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            visit = len(server.times[self.path])
        try:
            self.answer(self.path.partition("?")[0], visit)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.active -= 1

    def answer(self, path: str, visit: int) -> None:
        if path == "/robots.txt":
            status, text = self.server.robots
            if isinstance(text, bytes):  # packed
                self.reply(status, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, text)
                return
            if self.server.robots_seconds:
                self.drip(text.encode(), self.server.robots_seconds)
                return
            self.reply(status, {"Content-Type": "text/plain"}, text.encode())
            return
        name, _, argument = path.strip("/").partition("/")
        getattr(self, f"on_{name}", self.on_missing)(argument, visit)

    def drip(self, body: bytes, seconds: float) -> None:
        self.reply(200, {"Content-Length": str(len(body))})
        for byte in body:
            self.wfile.write(bytes([byte]))
            time.sleep(seconds)

    def on_missing(self, argument: str, visit: int) -> None:
        self.reply(404)

    def on_ok(self, argument: str, visit: int) -> None:
        self.reply(200, body=PIXELS)

    def on_file(self, argument: str, visit: int) -> None:
        if argument in self.server.files:
            self.reply(200, body=self.server.files[argument])
        else:
            self.reply(404)

    def on_unique(self, argument: str, visit: int) -> None:
        self.reply(200, body=argument.encode() * 10)

    def on_slow(self, argument: str, visit: int) -> None:
        time.sleep(0.1)
        self.reply(200, body=argument.encode())

    def on_chunked(self, argument: str, visit: int) -> None:
        self.reply(200, {"Content-Length": "", "Transfer-Encoding": "chunked"})
        half = len(PIXELS) // 2
        for part in (PIXELS[:half], PIXELS[half:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        if argument == "cut":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def on_until_close(self, argument: str, visit: int) -> None:
        self.reply(200, {"Content-Length": "", "Connection": "close"}, PIXELS)
        self.close_connection = True

    def on_drip_body(self, argument: str, visit: int) -> None:
        self.drip(b"x" * 1000, 0.05)

    def on_drip_header(self, argument: str, visit: int) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(1000):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def on_drip_hints(self, argument: str, visit: int) -> None:
        for _ in range(1000):
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(0.05)

    def on_silent(self, argument: str, visit: int) -> None:
        time.sleep(3)

    def on_endless(self, argument: str, visit: int) -> None:
        self.reply(200, {"Content-Length": "", "Connection": "close"})
        while True:
            self.wfile.write(b"x" * 65536)

    def on_huge(self, argument: str, visit: int) -> None:
        self.reply(200, {"Content-Length": str(1 << 40)})
        self.close_connection = True

    def on_cut(self, argument: str, visit: int) -> None:
        self.reply(200, {"Content-Length": str(len(PIXELS) + 1000)}, PIXELS)
        self.close_connection = True

    def on_cut_once(self, argument: str, visit: int) -> None:
        self.on_cut(argument, visit) if visit == 1 else self.on_ok(argument, visit)

    def on_redirect(self, argument: str, visit: int) -> None:
        """Redirects /redirect/STATUS/PATH to /PATH."""
        status, _, path = argument.partition("/")
        self.reply(int(status), {"Location": f"/{path}"})

    def on_to(self, argument: str, visit: int) -> None:
        """Redirects /to/URL to URL."""
        self.reply(302, {"Location": urllib.parse.unquote(argument).replace("|", "/")})

    def on_location(self, argument: str, visit: int) -> None:
        """Redirects /location/N to the N-th of `server.locations`, whatever its bytes."""
        if not argument.isdecimal():  # a relative one, on its way back
            self.on_missing(argument, visit)
            return
        location = self.server.locations[int(argument)]
        self.wfile.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

    def on_loop(self, argument: str, visit: int) -> None:
        self.reply(302, {"Location": f"/loop/{int(argument or 0) + 1}"})

    def on_nowhere(self, argument: str, visit: int) -> None:
        self.reply(302)

    def on_busy(self, argument: str, visit: int) -> None:
        """Answers 429 twice, then with the image; Retry-After comes in seconds first, then as a date."""
        if visit > 2:
            self.on_ok(argument, visit)
        else:
            date = email.utils.formatdate(time.time() + 2, usegmt=True)
            self.reply(429, {"Retry-After": "1" if visit == 1 else date})

    def on_unavailable(self, argument: str, visit: int) -> None:
        self.reply(503, {"Retry-After": "3600"})

    def on_busy_for(self, argument: str, visit: int) -> None:
        """Answers /busy_for/STATUS/RETRY_AFTER/…"""
        status, wait = argument.split("/")[:2]
        self.reply(int(status), {"Retry-After": urllib.parse.unquote(wait)})

    def on_always_busy(self, argument: str, visit: int) -> None:
        self.reply(429, {"Retry-After": "86400"})

    def on_flaky(self, argument: str, visit: int) -> None:
        self.on_ok(argument, visit) if visit > 2 else self.reply(503)

    def on_status(self, argument: str, visit: int) -> None:
        self.reply(int(argument))

    def on_html(self, argument: str, visit: int) -> None:
        self.reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>not here</html>")

    def on_brotli(self, argument: str, visit: int) -> None:
        self.reply(200, {"Content-Encoding": "br"}, PIXELS)

    def on_cookie(self, argument: str, visit: int) -> None:
        """Sets cookies, good ones and monstrous ones, and leads on."""
        self.send_response(302)
        for cookie in (
            "a=b",
            "a=b; Domain=.example; Path=/",
            "=" * 30_000,
            "x" + ";" * 30_000,
            '"' * 1000,
            "\xff=\xfe",
        ):
            self.send_header("Set-Cookie", cookie)
        self.send_header("Location", "/ok/cookie")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def on_odd_words(self, argument: str, visit: int) -> None:
        """Says it in bytes that no file or terminal should get."""
        words = b"red \xff\xfe\xed\xa0\x80 \xe2\x80\xae" * 20
        head = b"HTTP/1.1 404 " + words if argument == "status" else b"HTTP/1.1 302 No\r\nLocation: /odd_words/" + words
        self.wfile.write(head + b"\r\nContent-Length: 0\r\n\r\n")

    def on_noai(self, argument: str, visit: int) -> None:
        self.reply(200, {"X-Robots-Tag": argument.replace("_", " ")}, PIXELS)

    def on_reset(self, argument: str, visit: int) -> None:
        self.close_connection = True

    def on_garbage(self, argument: str, visit: int) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.close_connection = True


@contextlib.contextmanager
def running_server(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server()
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
