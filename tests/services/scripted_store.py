"""A time-series store over the InfluxDB v2 write path that does what a store does on a bad day: it is slow, has no time, breaks off
half-way. What it takes it keeps like InfluxDB, where a row that comes again overwrites itself."""

import gzip
import http.server
import itertools
import threading
import time


class ScriptedStore:
    """Not there until it is started. Its first writes go badly in every way there is, and later each seventh is refused for now."""

    BAD_DAY = ["busy", "slow", "half", "too slow", "good", "error", "half", "busy", "good", "too slow"]

    def __init__(self, port: int, too_slow_s: float):
        self.port, self.too_slow_s = port, too_slow_s
        self.rows: dict[tuple[str, int], dict[str, float]] = {}  # (measurement with its tags, timestamp) -> fields
        self.answers: dict[str, int] = dict.fromkeys([*self.BAD_DAY], 0)
        self.lines = 0
        self.moods = itertools.chain(self.BAD_DAY, itertools.cycle(["busy", *["good"] * 6]))
        self.lock, self.server = threading.Lock(), None

    def start(self) -> None:
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                lines = body.decode().splitlines()
                with store.lock:
                    mood = next(store.moods)
                    store.answers[mood] += 1
                if mood in ("slow", "too slow"):
                    time.sleep(store.too_slow_s / 4 if mood == "slow" else store.too_slow_s)
                if mood not in ("busy", "error"):
                    store.take(lines[:len(lines) // 2] if mood == "half" else lines)
                if mood == "half":
                    self.close_connection = True
                    return
                self.send_response({"busy": 503, "error": 500}.get(mood, 204))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # the client has left us, as it may

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, lines: list[str]) -> None:
        with self.lock:
            self.lines += len(lines)
            for line in lines:
                series, fields, timestamp = line.rsplit(" ", 2)
                values = {name: float(value) for name, value in (field.split("=") for field in fields.split(","))}
                self.rows.setdefault((series, int(timestamp)), {}).update(values)

    def values(self, window: str) -> dict[tuple, float]:
        """Every field of every device's row: (site, device, timestamp, field) -> value."""
        found = {}
        with self.lock:
            for (series, at), fields in self.rows.items():
                measurement, *tags = series.split(",")
                tags = dict(tag.split("=") for tag in tags)
                if measurement != "indicator" and tags["window"] == window:
                    found |= {(tags["site"], tags["device"], at, field): value for field, value in fields.items()}
        return found

    def close(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()
