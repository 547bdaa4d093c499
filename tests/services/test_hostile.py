"""Hostile input: names that would break what they are written into, and payloads that are none.

Whatever comes, every output is read back by a reader that knows nothing of the collector: line protocol, CSV, JSON, the
Prometheus text format, the page, topics and the log.
"""

import csv
import gzip
import http.server
import io
import json
import re
import sqlite3
import threading
import urllib.parse

import paho.mqtt.client as mqtt

from harness import Mosquitto, Sitepulse, assert_balanced, get, wait_for
from page import SETTLED, Page
from publisher import Publisher
from test_faults import METERS, SITES, T0, connected, toml

# An operator may call things so; they are escaped wherever they go.
LISTED = ['a, b "c"=d', "<img src=x onerror=document.title=1>", "'; DROP TABLE rollup;--", "..", "%2F%00{{7*7}}", "福州 '站'", "$SYS"]
# Names that nobody listed and that are words; they are taken in.
WORDS = ["福州站", "R_A07.PDU:1", "станция-7"]
# And those that are none: refused at the door and counted.
REFUSED = ["=1*1", "@SUM(1)", "-1", "a b", "a,b=c", 'q"', "<b>", ".hidden", "back\\slash", "rtl\u202ecba", "zero\u200bwidth", "\u3164",
           "x" * 129, "a;b", "{}"]
# No broker takes these in a topic; in a payload they come as they are.
REFUSED_METRICS = [*REFUSED, "two\nlines", "\x1b[31m", "a/b", "+", "nul\x00"]
FORGED = 'field type conflict\n2026-11-24T00:00:00.000000Z ERROR forged line\r\x1b[2J\u202e'


class Store(http.server.ThreadingHTTPServer):
    """A time-series store that keeps the lines it is sent, and refuses those of one site with words of its own."""

    def __init__(self):
        self.lines: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = gzip.decompress(self.rfile.read(int(self.headers["content-length"]))).decode()
        if "site=FZ001" in body:
            answer = json.dumps({"code": "invalid", "message": FORGED}).encode()
            self.send_response(400)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        self.server.lines += body.splitlines()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def parse_line(line: str) -> tuple[str, dict, dict]:
    """Line protocol by its description: a backslash escapes a comma, a space and an equals sign."""
    words, word, at = [], "", 0
    while at < len(line):
        if line[at] == "\\" and at + 1 < len(line) and line[at + 1] in ",= ":
            word += line[at + 1]
            at += 2
        elif line[at] in ",= ":
            words += [word, line[at]]
            word, at = "", at + 1
        else:
            word += line[at]
            at += 1
    words.append(word)
    measurement, rest, tags, fields = words[0], words[1:], {}, {}
    into = tags
    while len(rest) > 2:
        separator, key, equals, value, rest = rest[0], rest[1], rest[2], rest[3], rest[4:]
        into = fields if separator == " " else into
        assert equals == "=" and key and value and key not in into, line
        into[key] = float(value) if into is fields else value
    assert rest[0] == " " and int(rest[1]) % 60_000 == 0, line
    return measurement, tags, fields


def parse_metrics(text: str) -> list[dict]:
    """The labels of every sample of the Prometheus text format."""
    label = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
    sample = re.compile(rf'[a-z_:][a-z0-9_:]*(?:\{{({label}(?:,{label})*)?\}})? -?[0-9.e+-]+')
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in lines:
        assert sample.fullmatch(line), line
    return lines


class Listener:
    """Keeps every topic and payload of a broker's city brain."""

    def __init__(self, port: int):
        self.messages: dict[str, bytes] = {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="listener")
        self.client.on_connect = lambda client, *_: client.subscribe("citybrain/v1/#", qos=1)
        self.client.on_message = lambda _client, _data, message: self.messages.__setitem__(message.topic, message.payload)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def publish_names(broker) -> None:
    with Publisher(broker.port) as publisher:
        def send(topic: str, **readings: float) -> None:
            publisher.publish(topic, json.dumps({"ts": T0, "readings": readings}))

        for site in LISTED:
            send(f"telemetry/base_station/350102/{site}/{site}", pwr_w=5.0)
        for word in WORDS:
            send(f"telemetry/{word}/{word}/{word}/{word}", **{word: 1.0})
        for name in REFUSED:
            send(f"telemetry/base_station/350102/{name}/dc", pwr_w=1.0)
            send(f"telemetry/base_station/350102/new/{name}", pwr_w=1.0)
            send(f"telemetry/{name}/350102/new/dc", pwr_w=1.0)
        for name in REFUSED_METRICS:
            send("telemetry/base_station/350102/open/dc", **{name: 1.0})
        send("telemetry/base_station/350102/FZ001/dc", pwr_w=5.0)


def test_no_name_breaks_out_of_what_it_is_written_into(broker, tmp_path):
    store, listener = Store(), Listener(broker.port)
    sites = [{"site": name, "name": name, "kind": "base_station", "area": "350102", "operator": name} for name in LISTED]
    devices = [{"site": name, "device": name, "profile": "bs-rectifier", "connection": "mqtt"} for name in LISTED]
    brain = f'[city_brain]\nurl = "mqtt://127.0.0.1:{broker.port}"\nclient_id = "brain"\n'
    sitepulse = Sitepulse(tmp_path, toml(broker, store.server_port) + brain, sites + SITES[1:2], devices + METERS[1:2])
    try:
        sitepulse.start()
        connected(sitepulse)
        publish_names(broker)
        ledger = sitepulse.settled(1, len(LISTED) + len(WORDS) + 1)
        assert_balanced(ledger)
        assert ledger["messages"]["rejected"]["reasons"] == {"unknown_topic": 3 * len(REFUSED)}, ledger
        assert ledger["readings"]["invalid"]["reasons"] == {"unknown_metric": len(REFUSED_METRICS)}, ledger
        wait_for("every row is sent", lambda: sitepulse.part("influx")["counters"]["lines_quarantined"] > 0 or None)
        sitepulse.caught_up("series")
        check_lines(store.lines)
        check_api(sitepulse)
        check_topics(sitepulse, listener)
        check_page(sitepulse)
        check_log(sitepulse)
    finally:
        sitepulse.close()
        listener.close()
        store.close()


def check_lines(lines: list[str]) -> None:
    rows = [parse_line(line) for line in lines]
    found = {(tags["site"], tags["device"]) for measurement, tags, _ in rows if measurement != "indicator"}
    assert found == {(name, name) for name in LISTED + WORDS}, found
    for measurement, tags, fields in rows:
        assert set(tags) <= {"area", "device", "operator", "site", "window", "id", "level"}, tags
        if measurement in WORDS:
            assert fields[f"{measurement}_mean"] == 1.0, fields


def check_api(sitepulse: Sitepulse) -> None:
    span = {"from": T0 - 3_600_000, "to": T0 + 7_200_000}
    for name in LISTED:
        rows = sitepulse.json("/api/v1/rollups", site=name, device=name, metric="pwr_w", **span)["rows"]
        heard = [row for row in rows if row["count"]]
        assert [(row["site"], row["device"], row["sum"]) for row in heard] == [(name, name, 5.0)], heard
    for path in ("rollups", "indicators"):
        query = urllib.parse.urlencode(span | {"format": "csv"})
        table = list(csv.reader(io.StringIO(get(f"{sitepulse.url}/api/v1/{path}?{query}").decode(), newline="")))
        assert len(table) > len(LISTED) and {len(row) for row in table} == {len(table[0])}
        for cell in (cell for row in table for cell in row):
            formula = cell[:1] in ("=", "+", "-", "@", "\t", "\r")
            assert not formula or re.fullmatch(r"-[0-9.e+-]+", cell), cell
    names = {site["site"] for site in sitepulse.json("/api/v1/sites")["rows"]}
    assert names == {*LISTED, *WORDS, "FZ001", "open"}, names
    letters = sitepulse.json("/api/v1/dead_letters", limit=1000)["rows"]
    assert len(letters) == 3 * len(REFUSED) and all(any(name in row["topic"] for name in REFUSED) for row in letters)
    assert sitepulse.json("/api/v1/quarantine")["rows"][0]["reason"].count("forged line") == 1
    assert parse_metrics(get(sitepulse.url + "/metrics").decode())


def check_topics(sitepulse: Sitepulse, listener: Listener) -> None:
    sitepulse.caught_up("series")
    def operators() -> set:
        topics = [topic.split("/") for topic in listener.messages if topic.startswith("citybrain/v1/indicator/operator/")]
        assert all(len(levels) == 8 for levels in topics), topics
        return {urllib.parse.unquote(levels[7]) for levels in topics}

    wait_for("the city brain has every operator", lambda: operators() >= set(LISTED))
    for topic, payload in listener.messages.items():
        body = json.loads(payload)
        if topic.startswith("citybrain/v1/indicator/operator/"):
            assert body["operator"] == urllib.parse.unquote(topic.split("/")[7]), topic


def check_page(sitepulse: Sitepulse) -> None:
    with Page(f"{sitepulse.url}/?window=1m", seconds=60) as page:
        page.wait(SETTLED)
        for name in LISTED:
            assert page.evaluate(f"document.querySelector('#operator-table').textContent.includes({json.dumps(name)})"), name
        assert page.evaluate("document.querySelectorAll('img').length") == 0, "a name became an element"
        assert page.errors == []


def check_log(sitepulse: Sitepulse) -> None:
    text = sitepulse.log.read_text()
    assert "forged line" in text, "what the store said is not in the log"
    for line in text.rstrip("\n").split("\n"):
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z +(INFO|WARN|ERROR) ", line) and " ERROR forged" not in line[:60], line
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", line), line


DEEP = 100_000
# Payloads that are none or hold nothing, how many of each, and what becomes of it: a rejection, or what its readings count as.
MALFORMED = [
    ("bad JSON", 170, b'{"readings":{"pwr_w":1}', "malformed_json", {}),
    ("no JSON at all", 100, b"\x00\x01GET / HTTP/1.1\r\n", "malformed_json", {}),
    ("too large", 60, b'{"readings":{"pwr_w":' + b"1" * 1_200_000 + b"}}", "oversize", {}),
    ("no UTF-8", 120, b'{"readings":{"\xff\xfe":1}}', "malformed_json", {}),
    ("deep arrays", 60, b"[" * DEEP, "missing_readings", {}),
    ("deep objects", 60, b'{"a":' * DEEP, "malformed_json", {}),
    ("a deep value", 60, b'{"readings":{"pwr_w":' + b"[" * DEEP + b"]" * DEEP + b"}}", None, {"not_a_number": 1}),
    ("a number without end", 60, b'{"readings":{"pwr_w":' + b"9" * 5_000 + b"}}", "malformed_json", {}),
    ("a huge exponent", 60, b'{"readings":{"pwr_w":1e999999999}}', "malformed_json", {}),
    ("a huge time", 60, b'{"ts":1e300,"readings":{"pwr_w":1}}', None, {"future": 1}),
    ("a key twice", 60, b'{"readings":{},"readings":{"pwr_w":1}}', "malformed_json", {}),
    ("10,000 readings", 30, json.dumps({"readings": {f"m{n}": n for n in range(10_000)}}).encode(), None, {"unknown_metric": 10_000}),
    ("empty", 100, b"", "malformed_json", {}),
]
GOOD = 200


def test_malformed_payloads_hold_no_place_in_the_brokers_window(tmp_path):
    broker = Mosquitto(tmp_path / "broker", inflight=20)
    assert sum(count for _, count, *_ in MALFORMED) == 1_000
    sitepulse = Sitepulse(tmp_path, toml(broker).replace("[[mqtt]]", "[[mqtt]]\npacket_bytes_max = \"1MiB\""), SITES, METERS)
    try:
        broker.start()
        sitepulse.start()
        connected(sitepulse)
        topic = f"telemetry/base_station/350102/{SITES[0]['site']}/dc"
        with Publisher(broker.port) as publisher:
            left = [[count, payload] for _, count, payload, *_ in MALFORMED]
            while left:  # one of each kind after the other
                for kind in left:
                    publisher.publish(topic, kind[1])
                    kind[0] -= 1
                left = [kind for kind in left if kind[0] > 0]
            for n in range(GOOD):
                publisher.publish(topic, json.dumps({"ts": T0 + 1000 * n, "readings": {"pwr_w": 500.0}}))
        ledger = sitepulse.settled(1_000 + GOOD, GOOD, 120)
        assert_balanced(ledger)
        rejected, invalid = {}, {}
        for _, count, _, reason, readings in MALFORMED:
            if reason:
                rejected[reason] = rejected.get(reason, 0) + count
            for outcome, times in readings.items():
                invalid[outcome] = invalid.get(outcome, 0) + count * times
        assert ledger["messages"]["rejected"]["reasons"] == rejected, ledger
        assert ledger["readings"]["invalid"]["reasons"] == invalid, ledger
        assert ledger["readings"]["applied"] == GOOD, ledger
        counters = sitepulse.part("mqtt")["counters"]
        assert counters["acks"] == counters["messages"] == 1_000 + GOOD, counters
        assert counters["connects"] == 1 and counters["disconnects"] == 0, "it took a new connection"
        store = sqlite3.connect(f"file:{tmp_path}/data/sitepulse.db?mode=ro", uri=True)
        letters, longest, topics = store.execute("SELECT count(*), max(length(payload)), max(length(topic)) FROM dead_letter").fetchone()
        store.close()
        assert 0 < letters <= 1_000 and longest <= 1_024 and topics <= 1_024, (letters, longest, topics)
        assert sitepulse.stop() < 10
    finally:
        sitepulse.close()
        broker.close()
