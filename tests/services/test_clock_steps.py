"""A gateway without a clock of its own: it starts in 1970, is set, runs ahead and is set back, under the real daemon."""

import json
import struct
import subprocess
import time

import pytest

from harness import Sitepulse, assert_balanced, wait_for
from publisher import Publisher
from test_faults import METERS, SITES, connected, millis, toml

# Adds the seconds that a file holds to what the system tells of the time of day, and to nothing else.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    static volatile int64_t *offset;
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (!offset) {
        int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
        offset = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    }
    int code = real(clock, out);
    if (code == 0 && clock == CLOCK_REALTIME) out->tv_sec += *offset;
    return code;
}
"""


class GatewayClock:
    def __init__(self, folder, monkeypatch):
        source, self.library, self.file = folder / "shim.c", folder / "shim.so", folder / "offset"
        source.write_text(SHIM)
        built = subprocess.run(["cc", "-shared", "-fPIC", "-o", self.library, source, "-ldl"], capture_output=True, text=True)
        if built.returncode != 0:
            pytest.skip(f"no C compiler for the clock's shim: {built.stderr}")
        self.set(0)
        monkeypatch.setenv("CLOCK_OFFSET_FILE", str(self.file))
        self.monkeypatch = monkeypatch

    def set(self, offset_s: int) -> None:
        mode = "r+b" if self.file.exists() else "wb"
        with self.file.open(mode) as file:
            file.write(struct.pack("<q", offset_s))

    def start(self, sitepulse: Sitepulse) -> None:
        with self.monkeypatch.context() as patched:
            patched.setenv("LD_PRELOAD", str(self.library))
            sitepulse.start()


def publish(broker, at: int | None, watts: float) -> None:
    body = {"readings": {"pwr_w": watts}} | ({} if at is None else {"ts": at})
    with Publisher(broker.port) as publisher:
        publisher.publish(f"telemetry/base_station/350102/{SITES[0]['site']}/dc", json.dumps(body))


def rows(sitepulse: Sitepulse, now: int) -> dict:
    answer = sitepulse.json("/api/v1/rollups", site=SITES[0]["site"], window="1m", **{"from": now - 86_400_000, "to": now + 86_400_000})
    return {millis(row["start"]): row for row in answer["rows"] if row["count"]}


def test_a_gateway_that_starts_in_1970_runs_ahead_and_is_set_back_loses_nothing(broker, tmp_path, monkeypatch):
    clock = GatewayClock(tmp_path, monkeypatch)
    sitepulse = Sitepulse(tmp_path, toml(broker), SITES, METERS)
    now = int(time.time() * 1000)
    minute = now // 60_000 * 60_000
    steps = lambda: sitepulse.part("pipeline")["counters"]["clock_steps"]
    detail = lambda: sitepulse.json("/api/v1/health")["parts"]
    told = lambda words: any(words in part["detail"] for part in detail() if part["kind"] == "pipeline")
    try:
        clock.set(60 - now // 1000)
        clock.start(sitepulse)
        connected(sitepulse)
        publish(broker, minute - 600_000, 5.0)
        publish(broker, None, 6.0)
        ledger = sitepulse.settled(2, 1)
        assert ledger["readings"]["invalid"]["reasons"] == {"no_clock": 1}, ledger
        assert not rows(sitepulse, now)[minute - 600_000]["final"]

        clock.set(0)
        wait_for("the step is counted", lambda: steps() == 1)
        wait_for("the minute is final", lambda: rows(sitepulse, now)[minute - 600_000]["final"])
        assert told("clock stepped forward by"), detail()
        publish(broker, None, 7.0)
        ledger = sitepulse.settled(3, 2)
        assert ledger["readings"]["invalid"]["total"] == 1, ledger

        clock.set(8 * 3600)
        wait_for("the second step", lambda: steps() == 2)
        publish(broker, minute - 540_000, 8.0)
        sitepulse.settled(4, 3)
        clock.set(0)
        wait_for("the third step", lambda: steps() == 3)
        wait_for("it is told", lambda: told("clock stepped back by 8h") or told("clock stepped back by 7h"))
        # A window that had not begun is open, and final at its own time.
        ahead = minute + 3 * 60_000
        publish(broker, ahead, 9.0)
        sitepulse.settled(5, 4)
        row = rows(sitepulse, now)[ahead]
        assert (row["final"], row["revision"], row["late"]) == (False, 0, 0), row
        clock.set(600)
        wait_for("its time has come", lambda: rows(sitepulse, now)[ahead]["final"])
        assert rows(sitepulse, now)[ahead]["late"] == 0
        assert_balanced(sitepulse.ledger())
        assert sitepulse.stop() < 10
    finally:
        sitepulse.close()
