"""A server of clips on the loopback interface that also misbehaves, for whatever fetches URLs."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve_clips(clip: bytes):
    """A running server; `/clip.mp4` is the clip, the other paths are trouble. Its `seen` lists the paths asked for."""

    class Requests(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def tell(self, status, headers, body=b""):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            server.seen.append(self.path)
            path, _, query = self.path.partition("?")
            if path == "/clip.mp4":
                self.tell(200, {"Content-Length": len(clip)}, clip)
            elif path == "/nolength":
                self.tell(200, {}, clip)
            elif path == "/to":
                self.tell(302, {"Location": query, "Content-Length": 0})
            elif path == "/loop":
                self.tell(302, {"Location": "/loop", "Content-Length": 0})
            elif path == "/short":
                self.tell(200, {"Content-Length": len(clip) + 100}, clip)
            elif path == "/long":
                self.tell(200, {"Content-Length": 2**30}, b"x")
            elif path == "/endless":
                self.tell(200, {})
                try:
                    while True:
                        self.wfile.write(b"x" * 2**16)
                except OSError:
                    pass
            elif path == "/slow":
                self.tell(200, {"Content-Length": 10})
                time.sleep(3)
            elif path == "/drip":
                self.tell(200, {"Content-Length": 1000})
                try:
                    for _ in range(1000):
                        self.wfile.write(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass
            else:
                self.tell(404, {"Content-Length": 0})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    server.seen = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
