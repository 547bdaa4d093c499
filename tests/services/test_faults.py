"""A broker that restarts, a store that is away, a device that hangs: nothing lost, nothing doubled, shown by the ledger."""

import json
import math
import random
import signal
import socket
import sqlite3
import subprocess
import threading

from harness import BINARY, Sitepulse, free_port, assert_balanced, wait_for
from publisher import Publisher

T0 = 1_793_491_200_000  # 2026-11-01T00:00:00Z, a whole minute; the readings below lie in the minutes after it
SITES = [{"site": f"FZ{n:03}", "kind": "base_station", "area": "350102", "operator": "mobile"} for n in range(20)]
METERS = [{"site": site["site"], "device": "dc", "profile": "bs-rectifier", "connection": "mqtt"} for site in SITES]


def toml(broker=None, influx=None) -> str:
    text = '[rollup]\nretention = "3650d"\nflush_interval = "200ms"\ngrace = "1s"\n'
    if broker:
        text += (f'[[mqtt]]\nname = "east"\nurl = "mqtt://127.0.0.1:{broker.port}"\nclient_id = "sitepulse-test"\n'
                 'topics = ["telemetry/#"]\nbackoff_max = "1s"\n')
    if influx:
        text += (f'[[influx]]\nname = "series"\nurl = "http://127.0.0.1:{influx}"\norg = "city"\nbucket = "sitepulse"\n'
                 'create_bucket = false\nwindows = ["1m", "1h"]\nbackoff_max = "1s"\ntimeout = "2s"\n')
    return text


def connected(sitepulse: Sitepulse) -> None:
    wait_for("the subscription", lambda: sitepulse.part("mqtt")["state"] == "up")


class Load:
    """Numbered readings with a known oracle: one per site and second, in random order."""

    def __init__(self, seconds: int, seed: int = 7):
        dice = random.Random(seed)
        self.readings = [(site["site"], T0 + 1000 * s, round(dice.uniform(300, 900), 1)) for site in SITES for s in range(seconds)]
        dice.shuffle(self.readings)

    def by_minute(self) -> "Load":
        """The same readings, minute after minute, in random order within each."""
        self.readings.sort(key=lambda reading: reading[1] // 60_000)
        return self

    def publish(self, publisher: Publisher, part: slice) -> None:
        for site, at, watts in self.readings[part]:
            payload = json.dumps({"ts": at, "readings": {"pwr_w": watts}})
            publisher.publish(f"telemetry/base_station/350102/{site}/dc", payload)

    def minutes(self) -> dict:
        rows = {}
        for site, at, watts in self.readings:
            rows.setdefault((site, at // 60_000 * 60_000), []).append(watts)
        return {key: (len(watts), math.fsum(watts), min(watts), max(watts)) for key, watts in rows.items()}

    def check(self, sitepulse: Sitepulse) -> None:
        """Every minute of every site as the oracle has it, and not one more."""
        found = {}
        for site in SITES:
            answer = sitepulse.json("/api/v1/rollups", site=site["site"], device="dc", metric="pwr_w", window="1m",
                                    **{"from": T0 - 3_600_000, "to": T0 + 7_200_000})
            for row in answer["rows"]:
                if row["count"]:
                    found[site["site"], millis(row["start"])] = (row["count"], row["sum"], row["min"], row["max"])
        expected = self.minutes()
        assert found.keys() == expected.keys()
        for key, (count, total, low, high) in expected.items():
            assert found[key][0] == count and found[key][2:] == (low, high), (key, found[key], expected[key])
            assert math.isclose(found[key][1], total, rel_tol=1e-12), (key, found[key], expected[key])


def millis(text: str) -> int:
    import datetime

    return int(datetime.datetime.fromisoformat(text).timestamp() * 1000)


def test_a_broker_that_is_killed_and_restarted_loses_and_doubles_nothing(broker, tmp_path):
    sitepulse = Sitepulse(tmp_path, toml(broker), SITES, METERS)
    load = Load(120)
    try:
        sitepulse.start()
        connected(sitepulse)
        thirds = [slice(0, 800), slice(800, 1600), slice(1600, None)]
        for n, part in enumerate(thirds):
            with Publisher(broker.port, f"publisher-{n}") as publisher:
                load.publish(publisher, part)
            if n < 2:
                # A broker killed between two saves forgets what it told its publishers; that loss is its own.
                broker.save()
                broker.kill()
                broker.start()
                wait_for("the collector is back", lambda: sitepulse.part("mqtt")["counters"]["connects"] > n + 1)
        ledger = sitepulse.settled(len(load.readings), len(load.readings))
        assert_balanced(ledger)
        assert ledger["readings"]["applied"] == len(load.readings), ledger
        load.check(sitepulse)
        assert sitepulse.stop() < 10
    finally:
        sitepulse.close()


def test_the_collector_killed_while_messages_stream_has_every_one_once(broker, tmp_path):
    sitepulse = Sitepulse(tmp_path, toml(broker), SITES, METERS)
    load = Load(1200)
    try:
        sitepulse.start()
        connected(sitepulse)
        go_on = threading.Semaphore(1)

        def publish():
            with Publisher(broker.port) as publisher:
                for quarter in range(0, len(load.readings), 6_000):
                    assert go_on.acquire(timeout=120)
                    load.publish(publisher, slice(quarter, quarter + 6_000))

        thread = threading.Thread(target=publish)
        thread.start()
        for kill in range(3):
            wait_for("messages come in", lambda: sitepulse.ledger()["messages"]["received"] > 6_000 * kill)
            sitepulse.kill()
            sitepulse.start()
            go_on.release()
            assert_balanced(sitepulse.ledger())
        thread.join()
        ledger = sitepulse.settled(len(load.readings), len(load.readings))
        assert_balanced(ledger)
        assert ledger["readings"]["applied"] == len(load.readings), ledger
        assert ledger["readings"]["conflicting"] == 0, ledger
        load.check(sitepulse)
    finally:
        sitepulse.close()


def test_a_store_that_is_away_is_caught_up_without_loss_or_doubling(broker, victoria, tmp_path):
    sitepulse = Sitepulse(tmp_path, toml(broker, victoria.port), SITES, METERS)
    # VictoriaMetrics keeps either version of a row that is amended (docs/sinks.md), so it is there only while minutes
    # are complete: twice it goes away, twice it is caught up with.
    load = Load(180).by_minute()
    away = lambda: sitepulse.part("influx")["state"] == "down"
    try:
        victoria.signal(signal.SIGTERM)
        sitepulse.start()
        connected(sitepulse)
        with Publisher(broker.port) as publisher:
            load.publish(publisher, slice(0, 1200))
            publisher.flush()
            sitepulse.settled(1200, 1200)
            wait_for("the sink notices", away)
            victoria.start()
            sitepulse.caught_up("series")
            victoria.signal(signal.SIGTERM)
            load.publish(publisher, slice(1200, None))
        sitepulse.settled(len(load.readings), len(load.readings))
        wait_for("the sink notices again", away)
        sitepulse.kill()  # its position is in the store, not in memory
        sitepulse.start()
        victoria.start()
        sitepulse.caught_up("series")
        assert sitepulse.part("influx")["state"] == "up"

        def values(field: str) -> dict:
            lines = victoria.export(f'{{__name__="base_station_pwr_w_{field}",window="1m"}}')
            return {(line["metric"]["site"], at): value for line in lines for at, value in zip(line["timestamps"], line["values"])}

        expected = load.minutes()
        counts, lows, highs, means = values("count"), values("min"), values("max"), values("mean")
        assert counts == {key: row[0] for key, row in expected.items()}
        assert lows == {key: row[2] for key, row in expected.items()}
        assert highs == {key: row[3] for key, row in expected.items()}
        for key, row in expected.items():
            assert math.isclose(means[key], row[1] / row[0], rel_tol=1e-12)
        assert_balanced(sitepulse.ledger())
    finally:
        sitepulse.close()


class Deaf:
    """A device that accepts connections and never answers."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.held, self.thread = [], threading.Thread(target=self.accept, daemon=True)
        self.thread.start()
        return self

    def accept(self):
        try:
            while True:
                self.held.append(self.socket.accept()[0])
        except OSError:
            pass

    def __exit__(self, *_):
        self.socket.close()
        for connection in self.held:
            connection.close()


def test_a_modbus_device_that_hangs_costs_only_itself(tmp_path):
    import modbus_types

    port = free_port()
    with Deaf() as deaf, modbus_types.serve(port):
        site = {"site": "DC1", "kind": "data_centre", "area": "350102", "operator": "fuzhou-cloud", "attributes": "racks_built=10"}
        devices = [{"site": "DC1", "device": "good", "profile": modbus_types.PROFILE_ID, "unit": modbus_types.UNIT, "interval": "1s",
                    "connection": f"modbus-tcp://127.0.0.1:{port}"},
                   {"site": "DC1", "device": "deaf", "profile": modbus_types.PROFILE_ID, "unit": modbus_types.UNIT, "interval": "1s",
                    "connection": f"modbus-tcp://127.0.0.1:{deaf.port}"}]
        text = toml() + '[modbus]\nrequest_timeout = "500ms"\nbackoff_max = "2s"\n'
        sitepulse = Sitepulse(tmp_path, text, [site], devices, {modbus_types.PROFILE_ID: modbus_types.PROFILE})
        try:
            sitepulse.start()
            good_name, deaf_name = f"127.0.0.1:{port}", f"127.0.0.1:{deaf.port}"
            wait_for("the deaf one times out", lambda: sitepulse.part("modbus", deaf_name)["counters"]["timeouts"] >= 2)
            polls = sitepulse.part("modbus", good_name)["counters"]["polls"]
            wait_for("the good one goes on", lambda: sitepulse.part("modbus", good_name)["counters"]["polls"] >= polls + 3, 10)
            assert sitepulse.part("modbus", good_name)["counters"].get("late_polls", 0) == 0
            assert sitepulse.part("modbus", deaf_name)["state"] == "down"
            assert_balanced(sitepulse.ledger())
            assert sitepulse.stop() < 10
        finally:
            sitepulse.close()


def test_it_leaves_in_time_while_somebody_holds_the_store(broker, tmp_path):
    sitepulse = Sitepulse(tmp_path, toml(broker).replace("200ms", "1m"), SITES, METERS)
    try:
        sitepulse.start()
        connected(sitepulse)
        with Publisher(broker.port) as publisher:
            publisher.publish(f"telemetry/base_station/350102/{SITES[0]['site']}/dc", json.dumps({"ts": T0, "readings": {"pwr_w": 5.0}}))
        wait_for("the reading", lambda: sitepulse.ledger()["readings"]["applied"] == 1)
        held = sqlite3.connect(tmp_path / "data" / "sitepulse.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        assert sitepulse.stop() < 10
        held.execute("ROLLBACK")
        held.close()
        sitepulse.start()
        ledger = sitepulse.settled(1, 1)
        assert ledger["readings"]["applied"] == 1, ledger
        assert_balanced(ledger)
    finally:
        sitepulse.close()


def test_a_second_collector_on_the_same_folder_refuses_and_says_why(broker, tmp_path):
    sitepulse = Sitepulse(tmp_path, toml(broker), SITES, METERS)
    try:
        sitepulse.start()
        second = subprocess.run([BINARY, "run", "--config", sitepulse.config], capture_output=True, text=True, timeout=20)
        assert second.returncode == 1
        assert "another sitepulse runs with the data folder" in second.stderr + second.stdout
    finally:
        sitepulse.close()
