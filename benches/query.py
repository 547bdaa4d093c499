#!/usr/bin/env python3
"""How long the API takes for one series over a day: a real broker, the real binary, a store with a day of minutes.

  benches/query.py                                154 sites of 13 series, 200 requests of each kind
  benches/query.py --sites 1000 --requests 500

The day is made through the front door: each site's messages of the last 24 hours are published, backdated, and read by the
collector as late readings. Then series picked at random are asked for, one request after the other, on one connection.
Needs mosquitto and Python with paho-mqtt (tests/services/requirements.txt). SITEPULSE_BIN is the binary (default:
target/release/sitepulse).
"""

import argparse
import csv
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import paho.mqtt.client as mqtt

REPO = Path(__file__).resolve().parents[1]
BINARY = Path(os.environ.get("SITEPULSE_BIN", REPO / "target" / "release" / "sitepulse"))
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{what}: not within {seconds:.0f} s")


def listens(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    return True


def metric(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith((name + "{", name + " ")))


def metrics_of(profile: Path) -> list[str]:
    import tomllib

    return [entry["name"] for entry in tomllib.loads(profile.read_text())["metric"]]


def series_of(city: Path) -> list[tuple[str, str, str, list[str]]]:
    """Topic, site, device and metrics of every device."""
    with (city / "sites.csv").open() as file:
        sites = {row["site"]: row for row in csv.DictReader(file)}
    with (city / "devices.csv").open() as file:
        devices = list(csv.DictReader(file))
    found = []
    for row in devices:
        site = sites[row["site"]]
        topic = f"telemetry/{site['kind']}/{site['area']}/{row['site']}/{row['device']}"
        found.append((topic, row["site"], row["device"], metrics_of(city / "devices" / f"{row['profile']}.toml")))
    return found


def publish_day(port: int, devices, first_ms: int, interval_ms: int) -> int:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="day")
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent, last = 0, None
    for at_ms in range(first_ms, first_ms + DAY_MS, interval_ms):
        for topic, _, _, metrics in devices:
            values = {name: round(random.uniform(10, 90), 1) for name in metrics}
            last = client.publish(topic, json.dumps({"ts": at_ms + 500, "readings": values}), qos=1)
            sent += 1
        # What is not acknowledged yet is held in memory.
        while not last.is_published() and sent % 5_000 < len(devices):
            time.sleep(0.005)
    last.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()
    return sent


def ask(connection, path: str) -> tuple[float, bytes]:
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {body[:200]!r}")
    return (time.perf_counter() - began) * 1e3, body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=154)
    parser.add_argument("--interval", type=int, default=30, help="seconds between a site's messages")
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sitepulse-query."))
    children = []
    try:
        run(options, folder, children)
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            child.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def run(options, folder: Path, children: list) -> None:
    broker, api = free_port(), free_port()
    (folder / "mosquitto.conf").write_text(
        f"listener {broker} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        "max_queued_messages 0\nmax_inflight_messages 1000\n"
    )
    server = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    children.append(subprocess.Popen([server, "-c", folder / "mosquitto.conf"], **quiet))
    wait_for("the broker", lambda: listens(broker))
    city = folder / "city"
    command = [BINARY, "simulate", "inventory", "--sites", str(options.sites), "--interval", f"{options.interval}s"]
    command += ["--broker", f"mqtt://127.0.0.1:{broker}", "--listen", f"127.0.0.1:{api}", "--out", city]
    subprocess.run([str(part) for part in command], check=True, **quiet)
    with (folder / "collector.log").open("wb") as log:
        children.append(subprocess.Popen([BINARY, "run", "--config", city], stdout=log, stderr=log))
    wait_for("the collector", lambda: listens(api))
    wait_for("its subscription", lambda: metric(api, "sitepulse_part_state") >= 3)
    time.sleep(1)

    devices = series_of(city)
    first_ms = (int(time.time() * 1e3) - DAY_MS) // MINUTE_MS * MINUTE_MS
    began = time.monotonic()
    sent = publish_day(broker, devices, first_ms, options.interval * 1000)
    stored = lambda: metric(api, "sitepulse_pipeline_stored_messages") >= sent
    wait_for("the day in the store", stored, 600)
    took = time.monotonic() - began
    # Indicators of the day's windows are computed meanwhile, once.
    quiet_since = None
    while quiet_since is None or time.monotonic() - quiet_since < 3:
        waiting = metric(api, "sitepulse_indicator_windows_waiting")
        quiet_since = None if waiting else (quiet_since or time.monotonic())
        time.sleep(0.5)
    bytes_mib = sum(file.stat().st_size for file in (city / "data").glob("sitepulse.db*")) >> 20
    series = sum(len(metrics) for *_, metrics in devices)
    print(f"{len(devices)} devices, {series} series, {sent} messages of a day in {took:.0f} s; store {bytes_mib} MiB\n")
    print("| window | format | rows | KiB | p50 ms | p90 ms | p99 ms | max ms |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=30)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for window, kind in [("1m", "json"), ("1m", "csv"), ("15m", "json"), ("1h", "json")]:
        waits, rows, size = [], 0, 0
        for number in range(options.requests + 5):
            _, site, device, metrics = random.choice(devices)
            path = f"/api/v1/rollups?site={site}&device={device}&metric={random.choice(metrics)}&window={window}"
            path += f"&from={iso(first_ms)}&to={iso(first_ms + DAY_MS)}&limit=2000&format={kind}"
            wait_ms, body = ask(connection, path)
            # The first few open the connections to the store.
            if number >= 5:
                waits.append(wait_ms)
            rows = len(json.loads(body)["rows"]) if kind == "json" else body.count(b"\r\n") - 1
            size = len(body) >> 10
            if window == "1m" and rows != 1440:
                raise SystemExit(f"{path}: {rows} rows")
        waits.sort()
        at = lambda share: waits[min(len(waits) - 1, int(share * len(waits)))]
        print(f"| {window} | {kind} | {rows} | {size} | {at(0.5):.1f} | {at(0.9):.1f} | {at(0.99):.1f} | {waits[-1]:.1f} |")


def iso(millis: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(millis // 1000))


if __name__ == "__main__":
    main()
