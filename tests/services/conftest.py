"""Fixtures: each test gets servers of its own, ended with it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import BINARY, Mosquitto, VictoriaMetrics  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def binary():
    assert BINARY.exists(), f"{BINARY} is not built; run tests/run, or `cargo build --release`"


@pytest.fixture
def broker(tmp_path):
    server = Mosquitto(tmp_path / "broker")
    server.start()
    yield server
    server.close()


@pytest.fixture
def victoria(tmp_path):
    server = VictoriaMetrics(tmp_path / "victoria")
    server.start()
    yield server
    server.close()
