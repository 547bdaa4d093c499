"""The real-data run: hourly energy of 923 real 5G base stations through a real broker, a killed collector and a real store.

The readings are shuffled, a tenth of the messages is sent twice, and the collector is killed with SIGKILL twice on the
way. What it says per station and day must be what this script sums from the file itself, without any code of the project.

    python tests/services/itu_energy.py --data ../shared/data/itu-5g-energy
"""

import argparse
import collections
import csv
import datetime
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness import Mosquitto, Sitepulse, VictoriaMetrics, assert_balanced, wait_for  # noqa: E402
from publisher import Publisher  # noqa: E402

ZONE = datetime.timezone(datetime.timedelta(hours=8))
READINGS, TOTAL_KWH = 92_629, 2_606_487.144993088
DISTRICTS = ["350102", "350103", "350104", "350105", "350111", "350112", "350121", "350122", "350181"]
OPERATORS = ["mobile", "telecom", "unicom"]
DAY_MS = 86_400_000


def read(data: Path) -> list[tuple[str, int, float]]:
    """(station, epoch ms, kWh) of every row, times read as China standard time."""
    rows = []
    with (data / "energy.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            time_ = datetime.datetime.strptime(row["Time"], "%m/%d/%Y %H:%M").replace(tzinfo=ZONE)
            rows.append((row["BS"], int(time_.timestamp() * 1000), float(row["Energy"])))
    return rows


def oracle(rows) -> dict[tuple[str, int], tuple[int, float]]:
    """Count and sum per station and local day, which starts at 16:00 UTC of the day before."""
    values = collections.defaultdict(list)
    for station, at, kwh in rows:
        day = (at + 8 * 3_600_000) // DAY_MS * DAY_MS - 8 * 3_600_000
        values[station, day].append(kwh)
    return {key: (len(kwh), math.fsum(kwh)) for key, kwh in values.items()}


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def inventory(stations: list[str]) -> tuple[list[dict], list[dict]]:
    sites = [{"site": station, "name": f"ITU {station}", "kind": "base_station",
              "area": DISTRICTS[n % len(DISTRICTS)], "operator": OPERATORS[n % len(OPERATORS)]}
             for n, station in enumerate(stations)]
    devices = [{"site": station, "device": "meter", "profile": "bs-energy-hourly", "connection": "mqtt"} for station in stations]
    return sites, devices


def publish(broker: Mosquitto, sitepulse: Sitepulse, rows, areas: dict[str, str], seed: int) -> int:
    """Publishes everything in random order, a tenth twice, with two kills of the collector. Returns the messages sent."""
    dice = random.Random(seed)
    deliveries = rows + dice.sample(rows, len(rows) // 10)
    dice.shuffle(deliveries)
    kills = {len(deliveries) // 3, 2 * len(deliveries) // 3}
    with Publisher(broker.port) as publisher:
        for n, (station, at, kwh) in enumerate(deliveries):
            if n in kills:
                sitepulse.kill()
                print(f"killed with SIGKILL after {n} messages", flush=True)
            if n - 2_000 in kills:  # the broker queues meanwhile
                sitepulse.start(until="/health")
            payload = json.dumps({"ts": at, "readings": {"energy_kwh": kwh}})
            publisher.publish(f"telemetry/base_station/{areas[station]}/{station}/meter", payload)
    return len(deliveries)


def check_rollups(sitepulse: Sitepulse, expected) -> None:
    stations = sorted({station for station, _ in expected})
    seen, count, total = {}, 0, []
    for station in stations:
        answer = sitepulse.json("/api/v1/rollups", site=station, device="meter", metric="energy_kwh", window="1d",
                                **{"from": "2022-12-30T00:00:00Z", "to": "2023-01-12T00:00:00Z"})
        assert answer["truncated"] is False
        for row in answer["rows"]:
            start = int(datetime.datetime.fromisoformat(row["start"]).timestamp() * 1000)
            if row["count"]:
                seen[station, start] = (row["count"], row["sum"])
                count += row["count"]
                total.append(row["sum"])
    assert seen.keys() == expected.keys(), (len(seen), len(expected))
    for key, (n, kwh) in expected.items():
        assert seen[key][0] == n and close(seen[key][1], kwh), (key, seen[key], (n, kwh))
    assert count == READINGS and close(math.fsum(total), TOTAL_KWH), (count, math.fsum(total))
    print(f"api: {len(seen)} station-days equal, {count} readings, {math.fsum(total):.6f} kWh", flush=True)


def check_victoria(victoria: VictoriaMetrics, expected) -> None:
    def series(field: str) -> dict:
        found = {}
        for line in victoria.export(f'{{__name__="base_station_energy_kwh_{field}",window="1d"}}'):
            for at, value in zip(line["timestamps"], line["values"]):
                found[line["metric"]["site"], at] = value
        return found

    counts, sums = series("count"), series("sum")
    assert counts.keys() == expected.keys() == sums.keys(), (len(counts), len(sums), len(expected))
    for key, (n, kwh) in expected.items():
        assert counts[key] == n and close(sums[key], kwh), (key, counts[key], sums[key], (n, kwh))
    count, total = sum(counts.values()), math.fsum(sums.values())
    assert count == READINGS and close(total, TOTAL_KWH), (count, total)
    print(f"victoria-metrics: {len(counts)} station-days equal, {count:.0f} readings, {total:.6f} kWh", flush=True)


def run(data: Path, folder: Path, seed: int = 2021) -> None:
    rows = read(data)
    assert len(rows) == READINGS and close(math.fsum(kwh for *_, kwh in rows), TOTAL_KWH), "this is another file"
    expected = oracle(rows)
    stations = sorted({station for station, *_ in rows})
    sites, devices = inventory(stations)
    broker, victoria = Mosquitto(folder), VictoriaMetrics(folder)
    toml = f"""
[rollup]
retention = "3650d"
[[mqtt]]
name = "itu"
url = "mqtt://127.0.0.1:{broker.port}"
client_id = "sitepulse-itu"
topics = ["telemetry/#"]
[[influx]]
name = "victoria"
url = "{victoria.url}"
org = "city"
bucket = "sitepulse"
create_bucket = false
windows = ["1h", "1d"]
"""
    sitepulse = Sitepulse(folder, toml, sites, devices)
    try:
        broker.start()
        sitepulse.start()
        wait_for("the subscription", lambda: sitepulse.part("mqtt")["state"] == "up")
        begun = time.monotonic()
        sent = publish(broker, sitepulse, rows, {site["site"]: site["area"] for site in sites}, seed)
        ledger = sitepulse.settled(sent, READINGS, 180)
        print(f"{sent} messages sent and settled in {time.monotonic() - begun:.1f} s", flush=True)
        assert_balanced(ledger)
        readings = ledger["readings"]
        assert readings["duplicate"] == readings["decoded"] - READINGS, ledger
        assert readings["conflicting"] == readings["expired"] == readings["invalid"]["total"] == 0, ledger
        assert ledger["messages"]["rejected"]["total"] == 0, ledger
        print(f"ledger: {json.dumps(ledger['messages'])} {json.dumps(readings)}", flush=True)
        # Shuffled, every day is amended over and over, and VictoriaMetrics keeps any version of an amended row
        # (docs/sinks.md). It is away until all is settled, so that each row reaches it once.
        victoria.start()
        sitepulse.caught_up("victoria", 300)
        check_rollups(sitepulse, expected)
        check_victoria(victoria, expected)
        print(f"clean stop in {sitepulse.stop():.1f} s", flush=True)
    finally:
        for server in (sitepulse, victoria, broker):
            server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with energy.csv")
    parser.add_argument("--seed", type=int, default=2021, help="order of messages and choice of repeats")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(arguments.data, Path(folder), arguments.seed)


if __name__ == "__main__":
    main()
