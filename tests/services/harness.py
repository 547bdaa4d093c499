"""Real servers for the tests: mosquitto, VictoriaMetrics and the sitepulse binary itself, on free ports and in folders of their own."""

import collections
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("SITEPULSE_BIN", REPO / "target" / "release" / "sitepulse"))
SHIPPED = REPO / "config"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: str, condition, seconds: float = 30.0):
    """Returns the first true value of `condition`; fails with `what` and the last answer when the time is up."""
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        last = condition()
        if last:
            return last
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s; last seen: {last!r}")


def get(url: str, timeout: float = 15.0) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read()


class Process:
    """A child process whose output goes to a file."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder, self.process = name, folder, None
        self.log = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)

    def spawn(self, command: list) -> None:
        assert self.process is None, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)

    def signal(self, number: int) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self.process = None
        return code

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        if self.process is not None:
            self.kill()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
        return True
    except OSError:
        return False


class Mosquitto(Process):
    """A broker with persistence, so that sessions outlive a restart."""

    def __init__(self, folder: Path, inflight: int = 1000):
        super().__init__("mosquitto", folder)
        self.port = free_port()
        store = folder / "mosquitto"
        store.mkdir(parents=True, exist_ok=True)
        owner = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser {owner}\n"
            f"persistence true\npersistence_location {store}/\nautosave_interval 1\nautosave_on_changes false\n"
            f"max_queued_messages 0\nmax_inflight_messages {inflight}\nset_tcp_nodelay true\n"
        )

    def start(self) -> None:
        mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.spawn([mosquitto, "-c", self.folder / "mosquitto.conf"])
        wait_for("mosquitto listens", lambda: listens(self.port))


    def save(self) -> None:
        """Has it write its sessions and queues to disk now."""
        database = self.folder / "mosquitto" / "mosquitto.db"
        before = database.stat().st_mtime_ns if database.exists() else 0
        self.process.send_signal(signal.SIGUSR1)
        wait_for("the broker saved", lambda: database.exists() and database.stat().st_mtime_ns > before)


class VictoriaMetrics(Process):
    """A time-series store that takes the InfluxDB v2 write path."""

    def __init__(self, folder: Path):
        super().__init__("victoria-metrics", folder)
        self.port = free_port()

    def start(self) -> None:
        self.spawn([
            "victoria-metrics", f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={self.folder}/victoria-metrics", "-retentionPeriod=100y",
            "-dedup.minScrapeInterval=1ms", "-search.maxUniqueTimeseries=2000000",
        ])
        wait_for("victoria-metrics listens", lambda: listens(self.port))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def export(self, selector: str, start: str = "2022-01-01T00:00:00Z") -> list[dict]:
        """Every series that fits: its labels, values and timestamps (ms)."""
        get(f"{self.url}/internal/force_flush")
        query = urllib.parse.urlencode({"match[]": selector, "start": start})
        lines = get(f"{self.url}/api/v1/export?{query}", timeout=60).splitlines()
        return [json.loads(line) for line in lines]


class Sitepulse(Process):
    """The collector under test, with a configuration folder of its own around the shipped profiles and indicators."""

    def __init__(self, folder: Path, toml: str, sites: list[dict], devices: list[dict], profiles: dict[str, str] | None = None):
        super().__init__("sitepulse", folder)
        self.port = free_port()
        self.config = folder / "config"
        shutil.copytree(SHIPPED / "devices", self.config / "devices", dirs_exist_ok=True)
        shutil.copytree(SHIPPED / "indicators", self.config / "indicators", dirs_exist_ok=True)
        shutil.copy(SHIPPED / "areas.csv", self.config / "areas.csv")
        for name, text in (profiles or {}).items():
            (self.config / "devices" / f"{name}.toml").write_text(text)
        write_csv(self.config / "sites.csv",
                  ["site", "name", "kind", "area", "operator", "lat", "lon", "attributes", "in_service_from", "in_service_to"], sites)
        write_csv(self.config / "devices.csv", ["site", "device", "profile", "connection", "unit", "interval"], devices)
        head = f'data_dir = "{folder}/data"\ntime_zone = "Asia/Shanghai"\n'
        head += '[inventory]\n' + "".join(
            f'{key} = "{path}"\n' for key, path in [("areas", "areas.csv"), ("sites", "sites.csv"), ("devices", "devices.csv"),
                                                    ("profiles", "devices"), ("indicators", "indicators")])
        api = f'\n[api]\nlisten = "127.0.0.1:{self.port}"\n'
        (self.config / "sitepulse.toml").write_text(head + toml + api)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, until: str | None = "/ready") -> None:
        """Starts it and waits until this page answers; without one, waits for nothing."""
        self.spawn([BINARY, "run", "--config", self.config])
        if until:
            wait_for("sitepulse answers", lambda: self.answers(until), 60)

    def answers(self, path: str) -> bool:
        assert self.alive(), f"sitepulse ended: {self.log.read_text()[-2000:]}"
        try:
            get(self.url + path, timeout=5)
            return True
        except (OSError, urllib.error.URLError):
            return False

    def json(self, path: str, **query):
        text = urllib.parse.urlencode(query)
        return json.loads(get(f"{self.url}{path}{'?' if text else ''}{text}", timeout=60))

    def ledger(self) -> dict:
        return self.json("/api/v1/ledger")

    def part(self, kind: str, name: str | None = None) -> dict:
        """What a part reports; of one that has not reported yet, no state and no counts."""
        parts = self.json("/api/v1/health")["parts"]
        part = next((part for part in parts if part["kind"] == kind and name in (None, part["name"])), {"state": None, "counters": {}})
        return part | {"counters": collections.Counter(part["counters"])}

    def settled(self, messages: int, applied: int, seconds: float = 60) -> dict:
        """Waits until so many messages and readings, or more, are in the store and nothing is pending; the ledger then."""
        def look():
            ledger = self.ledger()
            received = ledger["messages"]["received"]
            stored = self.part("pipeline")["counters"]["stored_messages"] == received
            enough = received >= messages and ledger["readings"]["applied"] >= applied
            return ledger if stored and enough and ledger["messages"]["pending"] == 0 else None

        return wait_for(f"{messages} messages and {applied} readings in the store", look, seconds)

    def caught_up(self, sink: str, seconds: float = 120) -> None:
        """Waits until every final window is computed and the sink has passed every place of both feeds."""
        def look():
            behind = [line for line in get(self.url + "/metrics").decode().splitlines()
                      if line.startswith("sitepulse_sink_feed_behind_entries{") and f'sink="{sink}"' in line]
            waiting = self.part("indicator")["counters"]["windows_waiting"]
            return waiting == 0 and len(behind) == 2 and all(line.endswith(" 0") for line in behind)

        wait_for(f"{sink} caught up", look, seconds)

    def stop(self) -> float:
        """Stops it with SIGTERM; returns the seconds it took. It must leave with exit code 0."""
        begun = time.monotonic()
        code = self.signal(signal.SIGTERM)
        assert code == 0, f"exit code {code}: {self.log.read_text()[-2000:]}"
        return time.monotonic() - begun


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def assert_balanced(ledger: dict) -> None:
    """Both equations of the ledger, summed here anew and not taken from its own word."""
    messages, readings = ledger["messages"], ledger["readings"]
    accounted = messages["decoded"] + sum(messages["rejected"]["reasons"].values()) + messages["pending"]
    assert messages["received"] == accounted, ledger
    outcomes = readings["applied"] + readings["duplicate"] + readings["conflicting"] + readings["expired"]
    assert readings["decoded"] == outcomes + sum(readings["invalid"]["reasons"].values()), ledger
    assert ledger["balanced"] is True, ledger
