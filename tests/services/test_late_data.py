"""A backlog that comes days late, in random order: the same rows, indicators, lines and messages as one that came in order."""

import collections
import datetime
import gzip
import http.server
import json
import random
import sqlite3
import threading
import time

import paho.mqtt.client as mqtt

from harness import Mosquitto, Sitepulse, VictoriaMetrics, assert_balanced, get, wait_for
from publisher import Publisher
from test_city_brain import Listener
from test_faults import connected, millis

SHANGHAI = datetime.timezone(datetime.timedelta(hours=8))
MINUTE = 60_000
DAY = 24 * 60 * MINUTE
SITES = [{"site": "LATE1", "kind": "base_station", "area": "350102", "operator": "mobile"},
         {"site": "LATE2", "kind": "base_station", "area": "350103", "operator": "telecom"}]
PROFILE = """id = "late-meter"
interval = "1m"
[[metric]]
name = "pwr_w"
unit = "W"
kind = "gauge"
[[metric]]
name = "energy_kwh"
unit = "kWh"
kind = "counter"
wrap = 1000
"""
METERS = [{"site": site["site"], "device": "meter", "profile": "late-meter", "connection": "mqtt"} for site in SITES]
WINDOWS = ["1m", "5m", "15m", "1h", "1d"]


def midnight() -> int:
    """Midnight in Shanghai, three days ago."""
    today = datetime.datetime.now(SHANGHAI).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((today - datetime.timedelta(days=3)).timestamp() * 1000)


class Recorder:
    """A store that takes the InfluxDB v2 write path and keeps every version of every point, in the order in which they came."""

    def __init__(self):
        points = self.points = collections.defaultdict(list)
        lock = self.lock = threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with lock:
                    for line in body.decode().splitlines():
                        series, fields, at = line.rsplit(" ", 2)
                        points[series, int(at)].append(dict(field.split("=") for field in fields.split(",")))
                self.send_response(204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def final(self) -> dict:
        with self.lock:
            return {key: versions[-1] for key, versions in self.points.items()}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def readings(t0: int) -> tuple[list, list]:
    """What comes in time, and the backlog: 23:30 to 0:30 around `t0`, one reading a minute and meter.

    The meters' counters wrap at 1000 shortly before midnight. Minutes of the first meter are missing here and there, and
    the second one is silent at first, so that windows are final without it.
    """
    on_time, backlog = [], []
    for minute in range(-30, 30):
        at = t0 + minute * MINUTE + 5_000
        for number, site in enumerate(SITES):
            energy = (880 + 4 * minute + number + (120 if number else 240)) % 1000
            reading = (site["site"], at, float(500 + minute * (number + 1)), float(energy))
            missing = number == 1 or minute % 7 in (2, 3) or minute in (-1, 0, 1) or 10 <= minute < 20
            (backlog if missing else on_time).append(reading)
    return on_time, backlog


def publish(broker: Mosquitto, batch: list) -> None:
    with Publisher(broker.port) as publisher:
        for site, at, watts, energy in batch:
            area = next(row["area"] for row in SITES if row["site"] == site)
            payload = json.dumps({"ts": at, "readings": {"pwr_w": watts, "energy_kwh": energy}})
            publisher.publish(f"telemetry/base_station/{area}/{site}/meter", payload)


class City:
    """A collector with a broker of its own, a store that records, one that is away, and a city brain that listens."""

    def __init__(self, folder):
        self.broker = Mosquitto(folder / "broker")
        self.broker.start()
        self.recorder, self.listener = Recorder(), Listener(self.broker.port)
        self.victoria = VictoriaMetrics(folder / "victoria")
        toml = '[rollup]\nretention = "30d"\nflush_interval = "100ms"\ngrace = "1s"\n'
        toml += (f'[[mqtt]]\nname = "east"\nurl = "mqtt://127.0.0.1:{self.broker.port}"\nclient_id = "late"\n'
                 'topics = ["telemetry/#"]\n')
        # Both kinds of bodies: compressed, and as they are for the store on the same machine.
        for name, port, compress in [("record", self.recorder.port, "true"), ("series", self.victoria.port, "false")]:
            toml += (f'[[influx]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}"\norg = "o"\nbucket = "b"\n'
                     f'windows = {json.dumps(WINDOWS)}\ncompress = {compress}\nbackoff_max = "1s"\ntimeout = "2s"\n')
        toml += f'[city_brain]\nurl = "mqtt://127.0.0.1:{self.broker.port}"\nclient_id = "late-brain"\n'
        self.sitepulse = Sitepulse(folder, toml, SITES, METERS, {"late-meter": PROFILE})
        self.sitepulse.start()
        connected(self.sitepulse)
        self.sent = 0

    def hear(self, batch: list) -> None:
        """Publishes a batch and waits until all that follows from it has gone out."""
        publish(self.broker, batch)
        self.sent += len(batch)
        self.sitepulse.settled(self.sent, 2 * self.sent)
        # The flush that stored the batch has marked what is to be computed; the worker counts that only when it looks.
        wait_for("the indicators are computed", lambda: not self.marks())
        self.sitepulse.caught_up("record")
        wait_for("the city brain has everything", self.brain_caught_up)

    def marks(self) -> int:
        store = sqlite3.connect(f"file:{self.sitepulse.folder}/data/sitepulse.db?mode=ro", uri=True)
        try:
            return store.execute("SELECT count(*) FROM stale").fetchone()[0]
        finally:
            store.close()

    def brain_caught_up(self) -> bool:
        lines = get(self.sitepulse.url + "/metrics").decode().splitlines()
        behind = [line for line in lines if line.startswith("sitepulse_sink_feed_behind_entries{") and 'sink="city_brain"' in line]
        return bool(behind) and all(line.endswith(" 0") for line in behind)

    def span(self, t0: int) -> dict:
        return {"from": t0 - 2 * DAY, "to": t0 + 2 * DAY, "limit": 100_000}

    def rollups(self, t0: int) -> dict:
        """Every row but for what tells how it came about."""
        rows = {}
        for window in WINDOWS:
            for row in self.sitepulse.json("/api/v1/rollups", window=window, **self.span(t0))["rows"]:
                for story in ("late", "revision"):
                    del row[story]
                rows[window, row["site"], row["metric"], row["start"]] = row
        return rows

    def indicators(self, t0: int) -> dict:
        rows = {}
        for row in self.sitepulse.json("/api/v1/indicators", **self.span(t0))["rows"]:
            del row["revision"]
            rows[row["id"], row["level"], row["area"], row["operator"], row["site"], row["window"], row["start"]] = row
        return rows

    def close(self) -> None:
        self.sitepulse.close()
        self.listener.close()
        self.recorder.close()
        self.victoria.close()
        self.broker.close()


def in_span(rows: dict, t0: int) -> dict:
    """Points of the span that the readings are of, but for their revision; empty windows of today are made meanwhile."""
    return {key: {name: value for name, value in fields.items() if name != "revision"} for key, fields in rows.items() if t0 - 2 * DAY <= key[1] < t0 + 2 * DAY}


def retained(port: int) -> dict:
    """What a city brain that connects now is given."""
    found, done = {}, threading.Event()

    def take(client, _data, message):
        if message.topic == "probe":
            done.set()
        elif message.retain and message.topic.startswith("citybrain/v1/indicator/"):
            found[message.topic] = json.loads(message.payload)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="late-comer")
    client.on_message = take
    client.on_connect = lambda client, *_: client.subscribe([("citybrain/#", 1), ("probe", 1)])
    client.on_subscribe = lambda client, *_: client.publish("probe", b"x", qos=1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert done.wait(20), "the broker says nothing"
    client.disconnect()
    client.loop_stop()
    return found


def test_a_backlog_days_late_in_random_order_ends_in_the_state_of_one_that_came_in_order(tmp_path):
    t0 = midnight()
    on_time, backlog = readings(t0)
    dice = random.Random(11)
    ordered, shuffled = City(tmp_path / "ordered"), City(tmp_path / "shuffled")
    try:
        ordered.hear(sorted(on_time + backlog, key=lambda reading: reading[1]))

        shuffled.hear(on_time)
        before = shuffled.indicators(t0)
        silent = [row for row in before.values() if row["id"] == "BS7" and row["area"] == "350103" and row["level"] == "district"]
        assert silent and all(row["value"] is None and row["completeness"] == 0 for row in silent), silent
        first = shuffled.recorder.final()
        dice.shuffle(backlog)
        for part in range(0, len(backlog), 25):
            shuffled.hear(backlog[part:part + 25])

        rows, indicators = ordered.rollups(t0), ordered.indicators(t0)
        assert shuffled.rollups(t0) == rows
        found = shuffled.indicators(t0)
        assert found.keys() == indicators.keys()
        different = [(row, found[key]) for key, row in indicators.items() if row != found[key]]
        assert not different, different[:3]
        levels = {key[1] for key in indicators}
        assert levels == {"site", "district", "operator", "city"}, levels

        # Against what the readings say: 60 minutes of 4 kWh each, through the wrap and over midnight.
        for number, site in enumerate(SITES):
            days = [rows["1d", site["site"], "energy_kwh", row] for row in starts(rows, "1d", site["site"])]
            assert [day["increase"] for day in days] == [29 * 4.0, 30 * 4.0], days
            hours = [rows["1h", site["site"], "pwr_w", row] for row in starts(rows, "1h", site["site"])]
            assert [hour["count"] for hour in hours] == [30, 30], hours
            quarters = [rows["15m", site["site"], "energy_kwh", row] for row in starts(rows, "15m", site["site"])]
            assert [quarter["increase"] for quarter in quarters] == [14 * 4.0] + 3 * [15 * 4.0], quarters
        assert millis(starts(rows, "1d", "LATE1")[1]) == t0

        # The store was sent every version, the last one is the same, and amended points were sent again.
        recorded, wanted = in_span(shuffled.recorder.final(), t0), in_span(ordered.recorder.final(), t0)
        assert recorded == wanted
        amended = [key for key in first if t0 - 2 * DAY <= key[1] < t0 + 2 * DAY and in_span(first, t0)[key] != recorded[key]]
        for window, measurement in [(window, name) for window in WINDOWS for name in ("base_station", "indicator")]:
            found = [series for series, _ in amended if series.startswith(measurement) and f"window={window}" in series]
            assert found, (window, measurement, len(amended))
        # A reading that is late changes the step into the row after it, which came in time.
        successor = next(key for key in first if "site=LATE1" in key[0] and ",window=1m" in key[0] and key[1] == t0 + 4 * MINUTE)
        assert (first[successor]["energy_kwh_increase"], recorded[successor]["energy_kwh_increase"]) == ("24", "4"), first[successor]

        # The city brain: the newest word of each window is the same, revisions only rise, what is retained is the newest.
        for city in (ordered, shuffled):
            with city.listener.lock:
                for (topic, start), revisions in city.listener.revisions.items():
                    assert revisions == sorted(set(revisions)), (topic, start, revisions)
            latest = {}
            for row in city.sitepulse.json("/api/v1/indicators/latest")["rows"]:
                latest[row["id"], row["level"], row["area"], row["operator"], row["site"], row["window"]] = row["start"]
            kept = retained(city.broker.port)
            assert kept
            for topic, body in kept.items():
                key = (body["id"], body["level"], body["area"], body["operator"], body["site"], body["window"])
                assert millis(body["start"]) >= millis(latest[key]) - 2 * MINUTE, (topic, body["start"], latest[key])
        risen = [revisions for revisions in shuffled.listener.revisions.values() if len(revisions) > 2]
        assert risen, "no indicator was amended more than once"

        # A store that was away all the time gets each row once, as it is in the end. (The batch that was made up first and
        # tried ever since would come in its old version and then in the new one; a restart lets it go.)
        shuffled.sitepulse.kill()
        shuffled.sitepulse.start()
        shuffled.victoria.start()
        shuffled.sitepulse.caught_up("series")
        check_series(shuffled, rows)

        expired(shuffled)
        assert_balanced(shuffled.sitepulse.ledger())
        assert_balanced(ordered.sitepulse.ledger())
    finally:
        ordered.close()
        shuffled.close()


def starts(rows: dict, window: str, site: str) -> list:
    return sorted({key[3] for key in rows if key[0] == window and key[1] == site})


def check_series(city: City, rows: dict) -> None:
    for metric, field in [("pwr_w", "sum"), ("pwr_w", "count"), ("energy_kwh", "increase"), ("energy_kwh", "last")]:
        lines = city.victoria.export(f'{{__name__="base_station_{metric}_{field}"}}')
        found = {(line["metric"]["window"], line["metric"]["site"], at): value
                 for line in lines for at, value in zip(line["timestamps"], line["values"])}
        expected = {(key[0], key[1], millis(key[3])): row[field] for key, row in rows.items()
                    if key[2] == metric and row[field] is not None and row["final"]}
        assert found == expected, (metric, field)


def expired(city: City) -> None:
    """A reading older than the retention is counted, shown, and changes nothing."""
    publish(city.broker, [("LATE1", int(time.time() * 1000) - 40 * DAY, 1.0, 1.0)])
    wait_for("it is counted", lambda: city.sitepulse.ledger()["readings"]["expired"] == 2)
    assert 'sitepulse_readings_expired_total{source="east",reason=""} 2' in get(city.sitepulse.url + "/metrics").decode()
    wait_for("it is shown", lambda: any(
        letter["reason"] == "expired" for letter in city.sitepulse.json("/api/v1/dead_letters")["rows"]))
