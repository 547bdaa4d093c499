"""The long outage: both time-series stores are away while two hours of event time come in as fast as they go.

    python tests/services/store_outage.py --messages 2000000 --devices 1000

The collector goes on; its memory stays what it was, since the rows wait on disk and not in a queue. Then the stores come back, one a
real VictoriaMetrics, the other one that first is slow, refuses and breaks off half-way; both have every row in the end.
"""

import argparse
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from crash_run import progress_line, table
from fleet import METRICS, PROFILES, Fleet
from harness import Mosquitto, Sitepulse, VictoriaMetrics, assert_balanced, free_port, get, wait_for
from publisher import Outbox
from scripted_store import ScriptedStore

T0 = 1_793_491_200_000  # 2026-11-01T00:00:00Z
SPAN_MS = 2 * 3_600_000
TIMEOUT_S = 2
# How far the publisher may be ahead: the broker would queue the rest in its own memory.
LEAD_MAX = 20_000
# What memory may grow between the first and the last third of an outage. A queue of what came in would grow by more than this.
GROWTH_MIB_MAX = 24
FIELDS = {"power_w": ["count", "sum", "min", "max", "last"], "number": ["count", "sum", "min", "max", "last"],
          "energy_kwh": ["count", "last", "increase"]}

TOML = """[rollup]
retention = "3650d"
flush_interval = "1s"
grace = "2s"
[[mqtt]]
name = "east"
url = "mqtt://127.0.0.1:{broker}"
client_id = "sitepulse-outage"
topics = ["telemetry/#"]
"""
SINK = """[[influx]]
name = "{name}"
url = "http://127.0.0.1:{port}"
org = "city"
bucket = "sitepulse"
create_bucket = false
windows = ["1m", "1h"]
backoff_max = "1s"
timeout = "{timeout}s"
"""


class Spread(Fleet):
    """A fleet whose readings ascend through two hours; its oracle keeps no readings, only what rows they come to."""

    def __init__(self, count: int, messages: int, seed: int):
        super().__init__(count, seed)
        self.messages, self.minutes = messages, {}
        self.dice = random.Random(seed)

    def reading(self, at: int) -> tuple[str, bytes]:
        index = self.numbered % len(self.devices)
        self.numbered += 1
        tenths = self.dice.randrange(3_000, 9_001)
        energy = index + self.numbered
        row = self.minutes.setdefault((index, at // 60_000), [0, 0, tenths, tenths, 0, 0, self.numbered, 0, energy])
        row[:6] = row[0] + 1, row[1] + tenths, min(row[2], tenths), max(row[3], tenths), tenths, row[5] + self.numbered
        row[7:] = self.numbered, energy
        site, device = self.devices[index]
        payload = f'{{"ts":{at},"readings":{{"power_w":{tenths / 10},"energy_kwh":{energy},"number":{self.numbered}}}}}'
        return f"telemetry/base_station/350102/{site}/{device}", payload.encode()

    def next(self) -> tuple[str, bytes]:
        return self.reading(T0 + self.numbered * SPAN_MS // self.messages)

    def values(self) -> dict[tuple, float]:
        """Every field of every row of a minute, as a store has to have it."""
        found, before = {}, {}
        for (index, minute), (count, tenths, low, high, last, numbers, first_number, number, energy) in sorted(self.minutes.items()):
            first_energy = index + first_number
            values = {"power_w_count": count, "power_w_sum": tenths / 10, "power_w_min": low / 10, "power_w_max": high / 10,
                      "power_w_last": last / 10, "number_count": count, "number_sum": numbers, "number_min": first_number,
                      "number_max": number, "number_last": number, "energy_kwh_count": count, "energy_kwh_last": energy,
                      "energy_kwh_increase": energy - before.get(index, first_energy)}
            before[index] = energy
            found |= {(*self.devices[index], minute * 60_000, field): value for field, value in values.items()}
        return found


class ResidentMemory:
    """Samples how much memory a process has in use, from /proc."""

    def __init__(self, process: int, seconds: float = 1.0):
        self.process, self.seconds, self.samples, self.over = process, seconds, [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while not self.over.wait(self.seconds):
            status = Path(f"/proc/{self.process}/status").read_text(encoding="ascii")
            line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
            self.samples.append(int(line.split()[1]) / 1_024)

    def end(self) -> list[float]:
        self.over.set()
        self.thread.join()
        return self.samples


def growth(samples: list[float]) -> float:
    """MiB from the usual of the first third, without its beginning, to the most of the last."""
    third = len(samples) // 3
    assert third >= 3, f"too short to tell: {samples}"
    return max(samples[-third:]) - statistics.median(samples[third // 2:third])


class StoreOutage:
    def __init__(self, folder: Path, messages: int, devices: int, seed: int, progress=lambda text: None):
        self.progress = progress
        self.fleet = Spread(devices, messages, seed)
        self.broker, self.victoria = Mosquitto(folder / "broker"), VictoriaMetrics(folder / "victoria")
        self.scripted = ScriptedStore(free_port(), too_slow_s=TIMEOUT_S * 1.25)
        toml = TOML.format(broker=self.broker.port)
        for name, port in [("victoria", self.victoria.port), ("scripted", self.scripted.port)]:
            toml += SINK.format(name=name, port=port, timeout=TIMEOUT_S)
        self.sitepulse = Sitepulse(folder, toml, *self.fleet.inventory(), PROFILES)

    def run(self) -> dict:
        try:
            self.broker.start()
            self.sitepulse.start()
            wait_for("the subscription", lambda: self.sitepulse.part("mqtt")["state"] == "up")
            return self.outage_and_return()
        finally:
            self.sitepulse.close()
            self.scripted.close()
            self.victoria.close()
            self.broker.close()

    def outage_and_return(self) -> dict:
        sitepulse, messages = self.sitepulse, self.fleet.messages
        begun = time.monotonic()
        memory = ResidentMemory(sitepulse.process.pid, 0.5 if messages < 1_000_000 else 1.0)
        self.publish(begun)
        ledger = sitepulse.settled(messages, 3 * messages, 120)
        away_s = time.monotonic() - begun
        away = memory.end()
        for sink in ("victoria", "scripted"):
            part = sitepulse.part("influx", sink)
            assert part["state"] == "down" and part["counters"]["lines_written"] == 0, part
        assert_balanced(ledger)
        behind = self.behind()
        assert behind >= 2 * len(self.fleet.devices), behind
        # Its positions are on disk. Started anew it also forgets the batch that it has offered in vain since the outage began, whose
        # rows were amended meanwhile; of two versions of a row VictoriaMetrics keeps either (docs/sinks.md).
        sitepulse.kill()
        sitepulse.start()
        memory = ResidentMemory(sitepulse.process.pid, 0.5)
        returned = time.monotonic()
        self.scripted.start()
        self.victoria.start()
        for sink in ("victoria", "scripted"):
            sitepulse.caught_up(sink, 600)
        caught_up_s = time.monotonic() - returned
        back = memory.end()
        rows = self.compare()
        grown = growth(away)
        figures = {
            "messages": messages,
            "seconds of the outage": f"{away_s:.1f} ({messages / away_s:.0f} messages/s, {SPAN_MS / 1000 / away_s:.0f} times as fast as time)",
            "changes waiting at the end of it": behind,
            "seconds to catch up": f"{caught_up_s:.1f}",
            "rows of minutes in each store and the API": rows,
            "writes that the scripted store answered": ", ".join(f"{n} {mood}" for mood, n in self.scripted.answers.items()),
            "memory in the outage, MiB": spread(away) + f", grown by {grown:.1f}",
            "  by tenths of it": " ".join(f"{statistics.median(part):.0f}" for part in tenths(away)),
            "memory while catching up, MiB": spread(back),
        }
        self.progress("")
        assert grown <= GROWTH_MIB_MAX, table(figures)
        assert sitepulse.stop() < 10
        return figures

    def publish(self, begun: float) -> None:
        outbox = Outbox(self.broker.port, "fleet", window=4_000)
        while self.fleet.numbered < self.fleet.messages:
            for _ in range(min(5_000, self.fleet.messages - self.fleet.numbered)):
                outbox.publish(*self.fleet.next())
            outbox.flush()
            wait_for("the collector keeps up", lambda: self.received() + LEAD_MAX >= self.fleet.numbered, 120)
            self.progress(f"{self.fleet.numbered} of {self.fleet.messages} messages, {time.monotonic() - begun:.0f} s")
        outbox.close()

    def received(self) -> int:
        return self.sitepulse.ledger()["messages"]["received"]

    def behind(self) -> int:
        lines = get(self.sitepulse.url + "/metrics").decode().splitlines()
        return sum(int(line.split()[-1]) for line in lines if line.startswith("sitepulse_sink_feed_behind_entries{") and "scripted" in line)

    def compare(self) -> int:
        """Both stores and the API have every row of the oracle and no other."""
        expected = self.fleet.values()
        api = {(site, device, at, f"{metric}_{field}"): row[field]
               for (site, device, metric, at), row in self.fleet.found(self.sitepulse).items() for field in FIELDS[metric]}
        for name, values in [("the API", api), ("the scripted store", self.scripted.values("1m")), ("VictoriaMetrics", self.stored())]:
            wanted = {key: value for key, value in values.items() if key in expected}
            missing = expected.keys() - wanted.keys()
            assert not missing, f"{name} lacks {len(missing)} of {len(expected)} values, {sorted(missing)[:3]} among them"
            others = {key[:3] for key in values} - {key[:3] for key in expected}
            assert not others, f"{name} has {len(others)} rows too many, {sorted(others)[:3]} among them"
            wrong = {key: (values[key], value) for key, value in expected.items() if not math.isclose(values[key], value, rel_tol=1e-12)}
            assert not wrong, f"{name} has {len(wrong)} wrong values, {sorted(wrong.items())[:3]} among them"
        hours = sum(value for key, value in self.scripted.values("1h").items() if key[3] == "number_count")
        assert hours == self.fleet.messages, (hours, self.fleet.messages)
        return len({key[:3] for key in expected})

    def stored(self) -> dict[tuple, float]:
        names = "|".join(f"base_station_{metric}_({'|'.join(FIELDS[metric])})" for metric in METRICS)
        lines = self.victoria.export(f'{{__name__=~"{names}",window="1m"}}')
        return {(line["metric"]["site"], line["metric"]["device"], at, line["metric"]["__name__"].removeprefix("base_station_")): value
                for line in lines for at, value in zip(line["timestamps"], line["values"])}


def spread(samples: list[float]) -> str:
    return f"{min(samples):.0f} to {max(samples):.0f}, median {statistics.median(samples):.0f}"


def tenths(samples: list[float]) -> list[list[float]]:
    return [part for n in range(10) if (part := samples[n * len(samples) // 10:(n + 1) * len(samples) // 10])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="on the disk to be tried; its default is the system's folder for temporary files")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sitepulse-outage-", dir=asked.folder) as folder:
        print(table(StoreOutage(Path(folder), asked.messages, asked.devices, asked.seed, progress_line).run()))


if __name__ == "__main__":
    sys.exit(main())
