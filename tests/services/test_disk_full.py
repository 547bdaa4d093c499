"""A disk that is full, by a foreign file or by nothing but the journal and the store: acknowledgements stop, HTTP answers, and it
recovers with no hand on it. Each test has a small file system of its own (tmpfs), which needs the right to mount."""

import json
import os
import shutil
import sqlite3
import subprocess
import threading

import pytest

from harness import BINARY, Sitepulse, assert_balanced, get, wait_for
from publisher import Publisher
from test_faults import METERS, SITES, T0, Load, connected, toml

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A disk of 48 MiB at the place of the data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def free_bytes(disk) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk) -> None:
    """Takes the last byte of the disk, as somebody else's file."""
    with (disk / "foreign").open("ab", buffering=0) as file:
        for size in [MIB, 4096, 1]:
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


def answers_everything(sitepulse) -> None:
    for path in ["/health", "/api/v1/ledger", "/api/v1/health", "/metrics", "/", "/api/v1/sites"]:
        assert get(sitepulse.url + path, timeout=10), path
    assert_balanced(sitepulse.ledger())


def discards(sitepulse) -> dict:
    """What the store counts of what it let go."""
    lines = [line.split() for line in get(sitepulse.url + "/metrics").decode().splitlines() if not line.startswith("#")]
    return {line[0].removeprefix("sitepulse_"): int(float(line[1])) for line in lines if len(line) == 2}


def test_a_disk_that_a_foreign_file_fills_stops_acknowledgements_and_nothing_is_lost(broker, disk, tmp_path):
    sitepulse = Sitepulse(tmp_path, toml(broker), SITES, METERS)
    load = Load(300).by_minute()
    try:
        sitepulse.start()
        connected(sitepulse)
        with Publisher(broker.port, "before") as publisher:
            load.publish(publisher, slice(0, 2000))
        sitepulse.settled(2000, 2000)
        fill(disk)
        # The broker takes these, and keeps what the collector does not acknowledge.
        with Publisher(broker.port, "meanwhile") as publisher:
            load.publish(publisher, slice(2000, 4000))
        part = wait_for("the journal refuses", lambda: (part := sitepulse.part("journal"))["counters"]["refused_full"] and part)
        assert part["state"] in ("degraded", "down") and str(disk) in part["detail"] and "room" in part["detail"], part
        answers_everything(sitepulse)
        assert sitepulse.ledger()["messages"]["received"] < 4000
        (disk / "foreign").unlink()
        with Publisher(broker.port, "after") as publisher:
            load.publish(publisher, slice(4000, None))
        ledger = sitepulse.settled(len(load.readings), len(load.readings), 90)
        assert_balanced(ledger)
        assert ledger["readings"]["applied"] == len(load.readings), ledger
        load.check(sitepulse)
        wait_for("the journal is up again", lambda: sitepulse.part("journal")["state"] == "up")
        assert sitepulse.part("pipeline")["state"] == "up"
        assert sitepulse.stop() < 10
    finally:
        sitepulse.close()


def test_a_kill_on_a_full_disk_and_a_start_on_it_lose_nothing(broker, disk, tmp_path):
    sitepulse = Sitepulse(tmp_path, toml(broker), SITES, METERS)
    load = Load(200).by_minute()
    try:
        sitepulse.start()
        connected(sitepulse)
        with Publisher(broker.port, "before") as publisher:
            load.publish(publisher, slice(0, 2000))
        wait_for("the journal has some", lambda: sitepulse.ledger()["messages"]["received"] >= 1000)
        fill(disk)
        with Publisher(broker.port, "meanwhile") as publisher:
            load.publish(publisher, slice(2000, None))
        sitepulse.kill()
        fill(disk)
        # It either runs and answers, or leaves with code 1 and says why, for the service manager to try again.
        run = subprocess.Popen([BINARY, "run", "--config", sitepulse.config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = run.communicate(timeout=5)
            assert run.returncode == 1 and "full" in output, output
        except subprocess.TimeoutExpired:
            answers_everything(sitepulse)
            run.kill()
            run.communicate()
        (disk / "foreign").unlink()
        sitepulse.start()
        ledger = sitepulse.settled(len(load.readings), len(load.readings), 90)
        assert_balanced(ledger)
        assert ledger["readings"]["applied"] == len(load.readings), ledger
        load.check(sitepulse)
    finally:
        sitepulse.close()


def test_journal_and_store_alone_fill_the_disk_and_go_on_at_its_bound(broker, disk, tmp_path):
    # A sink that is away, and bounds that are larger than the disk: the oldest rows go, and each is counted.
    text = '[journal]\nbytes_max = "1GiB"\n' + toml(broker, influx=1)
    sitepulse = Sitepulse(tmp_path, text, SITES, METERS)
    minutes, messages = 0, 0

    def publish(publisher, count):
        nonlocal minutes, messages
        for _ in range(count):
            at = T0 - 60_000 * 20_000 + 60_000 * minutes
            minutes += 1
            for site in SITES:
                messages += 1
                readings = {"pwr_w": 500.0 + minutes % 7, "dc_voltage_v": 53.0, "load_current_a": 11.0}
                publisher.publish(f"telemetry/base_station/350102/{site['site']}/dc", json.dumps({"ts": at, "readings": readings}))

    def rows() -> int:
        with sqlite3.connect(f"file:{disk}/sitepulse.db?mode=ro", uri=True) as store:
            return store.execute("SELECT count(*) FROM rollup").fetchone()[0]

    try:
        sitepulse.start()
        connected(sitepulse)
        least_free = threading.Event()
        for round_number in range(60):
            with Publisher(broker.port, f"round-{round_number}") as publisher:
                publish(publisher, 250)
            if free_bytes(disk) < 2 * MIB:
                least_free.set()
            if discards(sitepulse).get("store_rows_shed", 0) > 20_000:
                break
        answers_everything(sitepulse)
        ledger = sitepulse.settled(messages, 0, 120)
        assert_balanced(ledger)
        counted = discards(sitepulse)
        assert counted["store_rows_shed"] > 20_000, counted
        assert counted["feed_expired_entries"] > 0, counted
        store = sitepulse.part("store")
        assert store["state"] == "degraded" and "disk" in store["detail"], store
        assert store["counters"]["used_bytes"] < 34 * MIB, store
        assert not least_free.is_set(), "the reserve was used up"
        # Every reading that was acknowledged is in a row, in one that was shed and counted, or counted as expired.
        expired_messages = ledger["readings"]["expired"]
        assert ledger["readings"]["applied"] + ledger["readings"]["invalid"]["total"] + expired_messages == ledger["readings"]["decoded"], ledger
        assert expired_messages == 0, ledger
        assert rows() + counted["store_rows_shed"] == messages, (rows(), counted, messages)
        assert sitepulse.stop() < 10
        sitepulse.start()
        assert_balanced(sitepulse.ledger())
        assert rows() + discards(sitepulse)["store_rows_shed"] == messages
    finally:
        sitepulse.close()


def test_a_city_whose_rows_take_more_than_the_journal_leaves_free_is_stored_and_the_journal_goes_on(broker, disk, tmp_path):
    url = f"mqtt://127.0.0.1:{broker.port}"
    sitepulse = Sitepulse(tmp_path, "", [], [])
    shutil.rmtree(sitepulse.config)
    inventory = ["simulate", "inventory", "--sites", "20000", "--broker", url, "--listen", f"127.0.0.1:{sitepulse.port}"]
    subprocess.run([BINARY, *inventory, "--out", sitepulse.config], check=True, stdout=subprocess.DEVNULL)
    config = sitepulse.config / "sitepulse.toml"
    config.write_text(config.read_text().replace('data_dir = "data"', f'data_dir = "{disk}"'))
    try:
        sitepulse.start()
        connected(sitepulse)
        load = ["simulate", "--broker", url, "--sites", "20000", "--rate", "30000", "--for", "6s", "--json"]
        sent = json.loads(subprocess.run([BINARY, *load], check=True, capture_output=True, text=True).stdout)["messages"]
        # The disk is full before the first flush is due, and takes two of them at the most.
        wait_for("the journal refuses", lambda: sitepulse.part("journal")["counters"]["refused_full"])
        ledger = sitepulse.settled(sent, 13 * sent, 180)
        assert_balanced(ledger)
        assert ledger["readings"]["applied"] == 13 * sent, ledger
        wait_for("the journal is up again", lambda: sitepulse.part("journal")["state"] == "up")
        assert sitepulse.stop() < 10
    finally:
        sitepulse.close()
