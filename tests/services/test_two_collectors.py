"""Two collectors where one was meant, and two that share the work: what each does, and that nothing is lost over it."""

import os
import re
import subprocess
import time

from fleet import PROFILES, Comparison, Fleet
from harness import BINARY, Sitepulse, assert_balanced, free_port, wait_for
from publisher import Outbox

TOML = """[rollup]
retention = "3650d"
flush_interval = "200ms"
grace = "1s"
[[mqtt]]
name = "east"
url = "mqtt://127.0.0.1:{port}"
client_id = "{client_id}"
topics = ["{topics}"]
backoff_max = "1s"
"""


def collector(folder, broker, fleet: Fleet, client_id: str, topics: str = "telemetry/#") -> Sitepulse:
    toml = TOML.format(port=broker.port, client_id=client_id, topics=topics)
    return Sitepulse(folder, toml, *fleet.inventory(), PROFILES)


def is_up(sitepulse: Sitepulse) -> bool:
    return sitepulse.part("mqtt")["state"] == "up"


def publish(fleet: Fleet, outbox: Outbox, messages: int, seconds: float = 0) -> None:
    """So many messages, spread over so many seconds."""
    begun = time.monotonic()
    for number in range(messages):
        outbox.publish(*fleet.message(time.time_ns() // 1_000_000))
        while number * seconds / messages > time.monotonic() - begun:
            outbox.exchange(0.01)
    outbox.flush()


def sums(stores: list[dict]) -> dict:
    """The rows of several stores as one: counts and sums added, the lesser minimum, the greater maximum."""
    rows: dict = {}
    for key, row in ((key, row) for store in stores for key, row in store.items()):
        one = rows.setdefault(key, {"count": 0, "sum": 0.0, "min": row["min"], "max": row["max"]})
        one.update(count=one["count"] + row["count"], sum=one["sum"] + row["sum"],
                   min=min(one["min"], row["min"]), max=max(one["max"], row["max"]))
    return rows


def test_a_second_collector_on_the_same_folder_leaves_and_the_first_goes_on(broker, tmp_path):
    fleet = Fleet(50, seed=31)
    first = collector(tmp_path, broker, fleet, "sitepulse-one")
    try:
        first.start()
        wait_for("the subscription", lambda: is_up(first))
        outbox = Outbox(broker.port, "fleet")
        publish(fleet, outbox, 500)
        environment = os.environ | {"SITEPULSE__API__LISTEN": f"127.0.0.1:{free_port()}", "SITEPULSE__MQTT__0__CLIENT_ID": "sitepulse-two"}
        for _ in range(3):
            second = subprocess.run([BINARY, "run", "--config", first.config], capture_output=True, text=True, timeout=20, env=environment)
            said = second.stderr + second.stdout
            assert second.returncode == 1, said
            assert f"another sitepulse runs with the data folder {tmp_path}/data (process {first.process.pid})" in said, said
        publish(fleet, outbox, 500)
        ledger = first.settled(1_000, 3 * fleet.numbered)
        assert_balanced(ledger)
        assert (ledger["messages"]["received"], first.part("mqtt")["counters"]["disconnects"]) == (1_000, 0)
        fleet.compare(fleet.found(first)).check()
        first.kill()
        first.start()  # the lock of one that was killed is nobody's
        fleet.compare(fleet.found(first)).check()
        assert first.stop() < 10
    finally:
        first.close()


def test_two_collectors_with_one_client_id_say_so_and_lose_nothing(broker, tmp_path):
    fleet = Fleet(50, seed=32)
    pair = [collector(tmp_path / name, broker, fleet, "sitepulse-twin") for name in ("one", "two")]
    contested = lambda sitepulse: 'another client seems to use client_id "sitepulse-twin"' in sitepulse.part("mqtt").get("detail", "")
    try:
        pair[0].start()
        wait_for("the subscription", lambda: is_up(pair[0]))
        outbox = Outbox(broker.port, "fleet")
        publish(fleet, outbox, 1_000)
        pair[1].start()
        publish(fleet, outbox, 8_000, seconds=8)
        for sitepulse in pair:
            wait_for("it says what is wrong", lambda: contested(sitepulse))
            assert sitepulse.part("mqtt")["state"] == "degraded"
        connects = [sitepulse.part("mqtt")["counters"]["connects"] for sitepulse in pair]
        publish(fleet, outbox, 4_000, seconds=4)
        for sitepulse, before in zip(pair, connects):
            # Each waits 0.5 s to 1 s before it comes back: backoff_max, here one second.
            assert sitepulse.part("mqtt")["counters"]["connects"] - before <= 9
            assert len(re.findall("mqtt source is degraded", sitepulse.log.read_text())) == 1, sitepulse.log.read_text()
        assert pair[1].stop() < 10
        wait_for("it is alone again", lambda: is_up(pair[0]))
        wait_for("the broker has nothing left", lambda: quiet(pair[0]))
        # Each has a client_id of its own at last.
        file = pair[1].config / "sitepulse.toml"
        file.write_text(file.read_text().replace("sitepulse-twin", "sitepulse-other"))
        pair[1].start()
        for sitepulse in pair:
            wait_for("the subscription", lambda: is_up(sitepulse))
            ledger = sitepulse.ledger()
            assert_balanced(ledger)
            assert ledger["messages"]["pending"] == 0 and ledger["readings"]["conflicting"] == 0, ledger
        covered(fleet, [fleet.found(sitepulse) for sitepulse in pair])
    finally:
        for sitepulse in pair:
            sitepulse.close()


def quiet(sitepulse: Sitepulse, seconds: float = 2.0) -> bool:
    """Whether nothing has come for a while and all that came is in the store."""
    received = sitepulse.ledger()["messages"]["received"]
    time.sleep(seconds)
    ledger = sitepulse.ledger()
    return ledger["messages"]["received"] == received and ledger["messages"]["pending"] == 0


def covered(fleet: Fleet, stores: list[dict]) -> None:
    """What was published is in one store at the least, and no store has more of a minute than was published."""
    for key, right in fleet.expected().items():
        seen = [store[key] for store in stores if key in store]
        assert sum(row["count"] for row in seen) >= right["count"], (key, right, seen)
        assert all(row["count"] <= right["count"] for row in seen), (key, right, seen)
        assert min(row["min"] for row in seen) == right["min"] and max(row["max"] for row in seen) == right["max"], (key, right, seen)
    assert all(store.keys() <= fleet.expected().keys() for store in stores)


def test_two_collectors_that_share_a_subscription_have_every_message_once_between_them(broker, tmp_path):
    fleet = Fleet(50, seed=33)
    fleet.repeats = 0.0  # a repeat may go to the other one, which has not seen the first
    pair = [collector(tmp_path / name, broker, fleet, f"sitepulse-{name}", "$share/city/telemetry/#") for name in ("one", "two")]
    try:
        for sitepulse in pair:
            sitepulse.start()
            wait_for("the subscription", lambda: is_up(sitepulse))
        outbox = Outbox(broker.port, "fleet")
        publish(fleet, outbox, 6_000, seconds=3)
        pair[1].kill()  # what the broker had given it, it gives it again
        publish(fleet, outbox, 6_000, seconds=3)
        pair[1].start()
        publish(fleet, outbox, 6_000, seconds=3)

        def together():
            ledgers = [sitepulse.ledger() for sitepulse in pair]
            enough = sum(ledger["readings"]["applied"] for ledger in ledgers) >= 3 * fleet.numbered
            return ledgers if enough and all(quiet(sitepulse, 0.5) for sitepulse in pair) else None

        for ledger in wait_for("all of it in the two stores", together):
            assert_balanced(ledger)
            assert ledger["readings"]["applied"] > 3 * 2_000, ledger
            assert ledger["readings"]["conflicting"] == 0, ledger
        expected = {key: {field: row[field] for field in ("count", "sum", "min", "max")} for key, row in fleet.expected().items()}
        comparison = Comparison(expected, sums([fleet.found(sitepulse) for sitepulse in pair]))
        comparison.check()
        assert (comparison.missing, comparison.doubled) == (0, 0)
        for sitepulse in pair:
            assert sitepulse.stop() < 10
    finally:
        for sitepulse in pair:
            sitepulse.close()
