"""The crash run: the collector killed and the broker restarted at random moments, while a thousand devices publish.

    python tests/services/crash_run.py --kills 100 --broker-restarts 10 --seed 1

Real broker, real binary, real disk, SIGKILL. At the end every minute of every device has to be what the oracle says: nothing missing,
nothing twice; and the ledger has to balance, as it has to on the way. The broker loses nothing that it acknowledged (it has saved just
before it is killed), the publisher sends again what was not acknowledged; so whatever is missing, the collector lost.
"""

import argparse
import collections
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from fleet import PROFILES, Fleet
from harness import Mosquitto, Sitepulse, assert_balanced, wait_for
from publisher import Outbox

TOML = """[rollup]
retention = "3650d"
flush_interval = "1s"
grace = "2s"
[[mqtt]]
name = "east"
url = "mqtt://127.0.0.1:{port}"
client_id = "sitepulse-crash"
topics = ["telemetry/#"]
backoff_max = "1s"
"""
# When a kill comes, and how often of a hundred.
MOMENTS = {"while it starts": 30, "just after it connected": 25, "while it catches up": 20, "while messages stream": 25}


@dataclass
class Plan:
    kills: int
    broker_restarts: int
    seed: int
    devices: int = 1_000
    messages_per_s: int = 2_000


class Stream:
    """Publishes without pause on a thread of its own, at a steady pace, until it is told to end."""

    def __init__(self, fleet: Fleet, port: int, messages_per_s: int):
        self.fleet, self.pace = fleet, messages_per_s
        self.outbox = Outbox(port, "fleet")
        self.go, self.held, self.ending = threading.Event(), threading.Event(), False
        self.trouble = None
        self.go.set()
        self.thread = threading.Thread(target=self.guarded, daemon=True)
        self.thread.start()

    def guarded(self) -> None:
        try:
            self.run()
        except BaseException as trouble:  # it is raised where the run can see it
            self.trouble = trouble
        finally:
            self.held.set()

    def run(self) -> None:
        due = time.monotonic()
        while not self.ending:
            if not self.go.is_set():
                self.outbox.flush()
                self.held.set()
                self.go.wait()
                due = time.monotonic()
            for _ in range(max(1, self.pace // 100)):
                self.outbox.publish(*self.fleet.message(time.time_ns() // 1_000_000))
            self.outbox.exchange(0)
            due = max(due + 0.01, time.monotonic() - 0.5)
            time.sleep(max(0.0, due - time.monotonic()))
        self.outbox.flush()

    def hold(self) -> None:
        """Returns when everything published is acknowledged and nothing more is."""
        self.held.clear()
        self.go.clear()
        assert self.held.wait(90), "the publisher does not come to rest"
        self.check()

    def release(self) -> None:
        self.go.set()

    def end(self) -> None:
        self.ending = True
        self.go.set()
        self.thread.join(90)
        self.check()
        assert not self.thread.is_alive() and not self.outbox.waiting, "the publisher does not come to its end"

    def check(self) -> None:
        if self.trouble is not None:
            raise AssertionError("the publisher failed") from self.trouble


class CrashRun:
    def __init__(self, folder: Path, plan: Plan, progress=lambda text: None):
        self.plan, self.progress = plan, progress
        self.dice = random.Random(plan.seed)
        self.fleet = Fleet(plan.devices, plan.seed)
        self.broker = Mosquitto(folder / "broker")
        self.sitepulse = Sitepulse(folder, TOML.format(port=self.broker.port), *self.fleet.inventory(), PROFILES)
        self.kills: collections.Counter = collections.Counter()
        self.restarts = self.received = self.ledgers = 0
        self.start_s = 0.2

    def run(self) -> dict:
        """The whole run; the figures of it."""
        begun = time.monotonic()
        stream = None
        try:
            self.broker.start()
            started = time.monotonic()
            self.sitepulse.start()
            self.start_s = time.monotonic() - started
            wait_for("the subscription", self.is_up)
            stream = Stream(self.fleet, self.broker.port, self.plan.messages_per_s)
            restarts_at = set(self.dice.sample(range(1, self.plan.kills), self.plan.broker_restarts))
            for kill in range(self.plan.kills):
                if kill in restarts_at:
                    self.restart_broker(stream)
                self.kill_collector()
                stream.check()
                self.progress(f"{kill + 1} of {self.plan.kills} kills, {self.restarts} broker restarts, "
                              f"{stream.outbox.acknowledged} messages acknowledged, {time.monotonic() - begun:.0f} s")
            stream.end()
            return self.settle(stream, begun)
        finally:
            if stream:
                stream.ending = True
            self.sitepulse.close()
            self.broker.close()

    def is_up(self) -> bool:
        return self.sitepulse.part("mqtt")["state"] == "up"

    def kill_collector(self) -> None:
        """Kills it once, at a moment that the dice choose, and starts it again."""
        moment = self.dice.choices(list(MOMENTS), MOMENTS.values())[0]
        if moment == "while it starts":
            time.sleep(self.dice.uniform(0, 1.2 * self.start_s))
        else:
            wait_for("sitepulse answers", lambda: self.sitepulse.answers("/health"))
            wait_for("the subscription", self.is_up)
            longest = {"just after it connected": 0.03, "while it catches up": 0.3, "while messages stream": 1.5}[moment]
            time.sleep(self.dice.uniform(longest / 10, longest))
            if moment == "while messages stream":
                self.look()
        assert self.sitepulse.alive(), f"sitepulse ended by itself: {self.sitepulse.log.read_text()[-2000:]}"
        self.sitepulse.kill()
        self.kills[moment] += 1
        # At times the broker gathers a backlog meanwhile.
        time.sleep(self.dice.uniform(0, 0.1) if self.dice.random() < 0.8 else self.dice.uniform(0.5, 2))
        self.sitepulse.start(until=None)

    def look(self) -> None:
        """The ledger balances at any moment, and what was received stays received."""
        ledger = self.sitepulse.ledger()
        assert_balanced(ledger)
        assert ledger["messages"]["received"] >= self.received, (ledger, self.received)
        self.received = ledger["messages"]["received"]
        self.ledgers += 1

    def restart_broker(self, stream: Stream) -> None:
        """Kills the broker with messages on their way to it that it has not acknowledged; at times the collector dies with it."""
        stream.hold()
        # A broker killed between two saves forgets what it told its publishers; that loss is its own.
        self.broker.save()
        self.broker.process.send_signal(signal.SIGSTOP)
        stream.release()
        wait_for("messages on their way", lambda: len(stream.outbox.waiting) >= stream.outbox.window or stream.trouble)
        self.broker.kill()
        together = self.dice.random() < 0.5
        if together:
            self.sitepulse.kill()
            self.kills["together with the broker"] += 1
        self.broker.start()
        if together:
            self.sitepulse.start(until=None)
        self.restarts += 1

    def settle(self, stream: Stream, begun: float) -> dict:
        """Waits until everything is in the store, and once more after a clean restart compares it with the oracle."""
        expected = self.fleet.numbered * 3
        quiet = {"received": -1, "since": time.monotonic()}

        def drained():
            if not (self.sitepulse.answers("/ready") and self.is_up()):
                return False
            ledger = self.sitepulse.ledger()
            received = ledger["messages"]["received"]
            if received != quiet["received"] or ledger["messages"]["pending"]:
                quiet.update(received=received, since=time.monotonic())
            wait = 2 if ledger["readings"]["applied"] >= expected else 15
            return ledger if time.monotonic() - quiet["since"] > wait else None

        wait_for("the broker has nothing left for us", drained, 180)
        self.look()
        self.sitepulse.stop()
        self.sitepulse.start()
        wait_for("the subscription", self.is_up)
        self.look()
        ledger = self.sitepulse.ledger()
        comparison = self.fleet.compare(self.fleet.found(self.sitepulse))
        figures = self.figures(stream, ledger, comparison, time.monotonic() - begun)
        self.progress("")
        comparison.check()
        readings = ledger["readings"]
        assert readings["applied"] == expected, (expected, ledger)
        assert readings["conflicting"] == readings["expired"] == 0 and not any(readings["invalid"]["reasons"].values()), ledger
        assert not any(ledger["messages"]["rejected"]["reasons"].values()), ledger
        assert ledger["messages"]["received"] >= self.fleet.numbered + self.fleet.repeated, ledger
        self.sitepulse.stop()
        return figures

    def figures(self, stream: Stream, ledger: dict, comparison, seconds: float) -> dict:
        fleet, outbox = self.fleet, stream.outbox
        return {
            "kills of the collector": f"{sum(self.kills.values())} ({', '.join(f'{n} {moment}' for moment, n in self.kills.items())})",
            "restarts of the broker": self.restarts,
            "messages published": f"{outbox.published} ({fleet.numbered} new, {fleet.repeated} repeats, {fleet.late} late)",
            "sent again by the publisher": outbox.resent,
            "messages received": ledger["messages"]["received"],
            "readings applied": f"{ledger['readings']['applied']} of {fleet.numbered * 3}",
            "readings recognised as duplicates": ledger["readings"]["duplicate"],
            "rows compared (count, sum, min, max, first, last, increase)": comparison.rows,
            "readings missing / doubled, rows wrong": f"{comparison.missing} / {comparison.doubled}, {len(comparison.faults)}",
            "ledgers that balanced": self.ledgers,
            "seconds": round(seconds, 1),
        }


def table(figures: dict) -> str:
    width = max(map(len, figures))
    return "\n".join(f"{name:{width}}  {value}" for name, value in figures.items())


def progress_line(text: str) -> None:
    print(f"\r{text:100}" if text else "", end="" if text else "\n", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--broker-restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--messages-per-second", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="on the disk to be tried; its default is the system's folder for temporary files")
    asked = parser.parse_args()
    plan = Plan(asked.kills, asked.broker_restarts, asked.seed, asked.devices, asked.messages_per_second)
    with tempfile.TemporaryDirectory(prefix="sitepulse-crash-", dir=asked.folder) as folder:
        print(table(CrashRun(Path(folder), plan, progress_line).run()))


if __name__ == "__main__":
    main()
