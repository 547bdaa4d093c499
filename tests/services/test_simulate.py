"""The load of `sitepulse simulate` through a real broker: what it says it sent is what the collector's ledger says it heard."""

import json
import socket
import struct
import subprocess

from harness import BINARY, Sitepulse, assert_balanced, free_port, wait_for


class City(Sitepulse):
    """A collector on the folder that `simulate inventory` writes."""

    def __init__(self, folder, broker, sites: int, *options):
        super().__init__(folder, "", [], [])
        self.config = folder / "city"
        made = subprocess.run([BINARY, "simulate", "inventory", "--out", self.config, "--sites", str(sites),
                               "--broker", f"mqtt://127.0.0.1:{broker.port}", "--listen", f"127.0.0.1:{self.port}",
                               *options], capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        text = (self.config / "sitepulse.toml").read_text()
        (self.config / "sitepulse.toml").write_text(text + '\n[rollup]\nflush_interval = "200ms"\n')

    def start(self, *args, **options) -> None:
        super().start(*args, **options)
        if (self.config / "devices.csv").read_text().count(",mqtt,"):
            wait_for("the subscription", lambda: self.part("mqtt")["state"] == "up")


def simulate(broker, *options) -> dict:
    command = [BINARY, "simulate", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
    return json.loads(done.stdout)


def test_the_ledger_counts_what_simulate_says_it_sent(broker, tmp_path):
    sitepulse = City(tmp_path, broker, 300)
    try:
        sitepulse.start()
        said = simulate(broker, "--sites", "300", "--messages", "2000", "--late", "0.1", "--repeat", "0.2", "--connections", "5")
        assert said["messages"] == said["acked"] == 2000 and said["waiting"] == said["resent"] == 0, said
        assert said["distinct"] + said["repeats"] == 2000 and said["late"] > 100 and said["repeats"] > 200, said
        ledger = sitepulse.settled(2000, 13 * said["distinct"])
        assert_balanced(ledger)
        assert ledger["messages"]["received"] == 2000 and ledger["messages"]["rejected"]["total"] == 0, ledger
        assert ledger["readings"]["applied"] == 13 * said["distinct"], ledger
        assert ledger["readings"]["duplicate"] == 13 * said["repeats"], ledger
        assert ledger["readings"]["conflicting"] == ledger["readings"]["expired"] == ledger["readings"]["invalid"]["total"] == 0, ledger
        counters = sitepulse.part("mqtt")["counters"]
        assert counters["acks"] == 2000 and 0 < counters["acks_within_1000_ms"] <= 2000, counters
        sitepulse.stop()
    finally:
        sitepulse.close()


def test_a_rate_is_kept_and_times_can_be_told(broker, tmp_path):
    sitepulse = City(tmp_path, broker, 50)
    try:
        sitepulse.start()
        said = simulate(broker, "--sites", "50", "--rate", "500", "--for", "2s", "--qos", "0")
        assert 800 <= said["messages"] <= 1010 and said["acked"] == said["waiting"] == 0, said
        told = simulate(broker, "--sites", "50", "--messages", "300", "--clock", "2026-11-01T00:00:00Z", "--seed", "7")
        ledger = sitepulse.settled(said["messages"] + 300, 13 * (said["messages"] + 300))
        assert ledger["readings"]["applied"] == 13 * (said["messages"] + 300), ledger
        assert told["distinct"] == 300
        site = next(line for line in (sitepulse.config / "devices.csv").read_text().splitlines() if line.startswith("BS-"))
        rows = sitepulse.json("/api/v1/rollups", site=site.split(",")[0], device="gateway", metric="pwr_w", window="1m",
                              **{"from": "2026-11-01T00:00:00Z", "to": "2026-11-01T00:02:00Z"})
        assert sum(row["count"] for row in rows["rows"]) == 6, rows
        sitepulse.stop()
    finally:
        sitepulse.close()


def test_a_bare_consumer_gets_and_acknowledges_every_message(broker, tmp_path):
    for qos in ["0", "1"]:
        consumer = subprocess.Popen([BINARY, "simulate", "consume", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--qos", qos,
                                     "--messages", "2000", "--for", "60s", "--json"],
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert consumer.stderr.readline() == "subscribed\n"
            simulate(broker, "--sites", "100", "--messages", "2000")
            out, err = consumer.communicate(timeout=60)
        finally:
            consumer.kill()
        assert consumer.returncode == 0, err
        said = json.loads(out)
        assert said["messages"] == 2000 and said["acks"] == (2000 if qos == "1" else 0), said


def test_messages_on_their_way_are_sent_again_after_the_broker_was_killed(broker, tmp_path):
    sender = subprocess.Popen([BINARY, "simulate", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--json", "--sites", "500",
                               "--rate", "20000", "--messages", "60000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for("some sent", lambda: sender.poll() is None and b"simulate" in broker.log.read_bytes())
        broker.kill()
        broker.start()
        out, err = sender.communicate(timeout=90)
    finally:
        sender.kill()
    said = json.loads(out)
    assert sender.returncode == 0 and said["acked"] == 60_000 and said["waiting"] == 0, (said, err)
    assert said["breaks"] > 0 and said["messages"] == 60_000, said


def test_no_broker_is_an_error_and_no_hang(tmp_path):
    command = [BINARY, "simulate", "--broker", f"mqtt://127.0.0.1:{free_port()}", "--messages", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "cannot connect to the broker" in done.stderr, done.stderr


def test_modbus_devices_are_polled_by_the_collector(broker, tmp_path):
    port = free_port()
    devices = subprocess.Popen([BINARY, "simulate", "modbus", "--devices", "20", "--units-per-port", "20", "--port", str(port)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sitepulse = City(tmp_path, broker, 3, "--modbus-devices", "20", "--units-per-port", "20", "--modbus-port", str(port),
                     "--modbus-interval", "1s")
    try:
        assert devices.stderr.readline() == "listening\n"
        sitepulse.start()
        ledger = sitepulse.settled(60, 60 * 60)
        assert_balanced(ledger)
        assert ledger["readings"]["applied"] == 60 * ledger["messages"]["received"], ledger
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            peer.sendall(struct.pack(">HHHBBHH", 7, 0, 6, 3, 3, 60, 1))
            assert peer.recv(100)[7:] == bytes([0x83, 2])
        sitepulse.stop()
    finally:
        devices.kill()
        sitepulse.close()
