"""A fleet of devices that number their messages, and what the collector has to make of them: an oracle that shares no code with it.

Each message carries a gauge, a counter that only rises with event time, and its own number; some are repeated as they were, some come
minutes or hours late. The oracle keeps every reading and works out every minute anew.
"""

import collections
import datetime
import json
import math
import random

from harness import Sitepulse

SITE_DEVICES = 50
PROFILE = """
id = "numbered"
description = "A device that numbers its messages"
interval = "1s"
[[metric]]
name = "power_w"
unit = "W"
kind = "gauge"
[[metric]]
name = "energy_kwh"
unit = "kWh"
kind = "counter"
[[metric]]
name = "number"
unit = "1"
kind = "gauge"
"""
PROFILES = {"numbered": PROFILE}
METRICS = ["power_w", "energy_kwh", "number"]
COUNTER_ORIGIN = 1_700_000_000_000
REPEATED, LATE = 0.05, 0.05
LATE_MINUTES = (2, 360)
RECENT = 20_000


class Fleet:
    """`count` devices, 50 at a site, all of them in the inventory."""

    def __init__(self, count: int, seed: int):
        self.dice = random.Random(seed)
        names = [(f"FZ{number // SITE_DEVICES:03}", f"m{number % SITE_DEVICES:02}") for number in range(count)]
        self.devices = names
        self.minutes: dict[tuple, dict] = collections.defaultdict(dict)  # (device index, minute) -> event time -> values
        self.recent: collections.deque = collections.deque(maxlen=RECENT)
        self.repeats = REPEATED
        self.next_device = self.numbered = self.repeated = self.late = 0

    def inventory(self) -> tuple[list[dict], list[dict]]:
        sites = [{"site": site, "kind": "base_station", "area": "350102", "operator": "mobile"}
                 for site in dict.fromkeys(site for site, _ in self.devices)]
        devices = [{"site": site, "device": device, "profile": "numbered", "connection": "mqtt"} for site, device in self.devices]
        return sites, devices

    def message(self, now_ms: int) -> tuple[str, bytes]:
        """The next message: mostly a new one, at times one that was sent before."""
        kind = self.dice.random()
        if kind < self.repeats and self.recent:
            self.repeated += 1
            return self.recent[self.dice.randrange(len(self.recent))]
        if kind < self.repeats + LATE:
            self.late += 1
            now_ms -= round(60_000 * self.dice.uniform(*LATE_MINUTES))
        message = self.reading(now_ms)
        self.recent.append(message)
        return message

    def reading(self, at: int) -> tuple[str, bytes]:
        """A new reading of the next device, at this event time or the next one that it has not used."""
        index = self.next_device
        self.next_device = (index + 1) % len(self.devices)
        while at in self.minutes.get((index, at // 60_000), ()):
            at += 1
        self.numbered += 1
        energy = round(index + (at - COUNTER_ORIGIN) / 3_600_000 * (1 + index % 7), 6)
        values = (round(self.dice.uniform(300, 900), 1), energy, self.numbered)
        self.minutes[index, at // 60_000][at] = values
        site, device = self.devices[index]
        payload = json.dumps({"ts": at, "readings": dict(zip(METRICS, values))}).encode()
        return f"telemetry/base_station/350102/{site}/{device}", payload

    def expected(self) -> dict[tuple, dict]:
        """Every row that there has to be, by site, device, metric and start."""
        rows, before = {}, {}
        for (index, minute), readings in sorted(self.minutes.items()):
            times = sorted(readings)
            for place, metric in enumerate(METRICS):
                values = [readings[at][place] for at in times]
                row = {"count": len(values), "sum": math.fsum(values), "min": min(values), "max": max(values),
                       "first": values[0], "last": values[-1]}
                if metric == "energy_kwh":
                    row["increase"] = values[-1] - before.get(index, values[0])
                    before[index] = values[-1]
                rows[(*self.devices[index], metric, minute * 60_000)] = row
        return rows

    def found(self, sitepulse: Sitepulse) -> dict[tuple, dict]:
        """Every row of a minute that the API gives."""
        minutes = [minute for _, minute in self.minutes]
        span = {"from": (min(minutes) - 600) * 60_000, "to": (max(minutes) + 600) * 60_000}
        rows = {}
        for site in dict.fromkeys(site for site, _ in self.devices):
            for metric in METRICS:
                answer = sitepulse.json("/api/v1/rollups", site=site, metric=metric, window="1m", limit=100_000, **span)
                assert not answer["truncated"]
                rows |= {(row["site"], row["device"], row["metric"], millis(row["start"])): row for row in answer["rows"] if row["count"]}
        return rows

    def compare(self, found: dict[tuple, dict]) -> "Comparison":
        return Comparison(self.expected(), found)


class Comparison:
    """What is missing, what is there twice and what is wrong otherwise."""

    def __init__(self, expected: dict[tuple, dict], found: dict[tuple, dict]):
        self.rows = len(found)
        self.missing = self.doubled = 0
        self.faults: list[str] = []
        for key in expected.keys() | found.keys():
            right, seen = expected.get(key, {"count": 0}), found.get(key, {"count": 0})
            if key[2] == "number":
                self.missing += max(0, right["count"] - seen["count"])
                self.doubled += max(0, seen["count"] - right["count"])
            wrong = [field for field, value in right.items() if not same(field, seen.get(field), value)]
            if wrong:
                self.faults.append(f"{key}: expected {right}, found {({field: seen.get(field) for field in right})}")

    def check(self) -> None:
        told = f"{self.missing} readings missing, {self.doubled} doubled, {len(self.faults)} rows wrong"
        assert not self.faults, told + "\n" + "\n".join(self.faults[:5])


def same(field: str, seen, value) -> bool:
    if seen is None:
        return False
    if field == "sum":
        return math.isclose(seen, value, rel_tol=1e-12)
    return math.isclose(seen, value, rel_tol=1e-9, abs_tol=1e-9) if field == "increase" else seen == value


def millis(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp() * 1000)
