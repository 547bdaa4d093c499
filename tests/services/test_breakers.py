"""What keeps failing is tried less often, told once, and delays no neighbour: shown on sockets of real servers that fail in real ways."""

import contextlib
import json
import socket
import threading
import time

import pytest

from faulty import Modbus, Peer, Refuser, Store, served
from harness import Sitepulse, assert_balanced, free_port, get, wait_for
from publisher import Publisher

PROFILE = """
id = "registers"
[[metric]]
name = "a"
kind = "gauge"
unit = "1"
register = { table = "holding", address = 5, type = "u16" }
[[metric]]
name = "b"
kind = "gauge"
unit = "1"
register = { table = "holding", address = 6, type = "u16" }
"""
SITE = {"site": "LAB", "kind": "data_centre", "area": "350102", "operator": "fuzhou-cloud", "attributes": "racks_built=10"}
MAST = {"site": "FZ1", "kind": "base_station", "area": "350102", "operator": "mobile"}
METER = {"site": "FZ1", "device": "dc", "profile": "bs-rectifier", "connection": "mqtt"}
ROLLUP = '[rollup]\nflush_interval = "200ms"\ngrace = "1s"\nretention = "3650d"\n'


def device(unit: int, port: int, interval: str, name: str | None = None) -> dict:
    return {"site": "LAB", "device": name or f"u{unit}", "profile": "registers", "unit": unit, "interval": interval,
            "connection": f"modbus-tcp://127.0.0.1:{port}"}


@contextlib.contextmanager
def running(folder, text: str, devices: list[dict]):
    sitepulse = Sitepulse(folder, text, [SITE, MAST], devices, {"registers": PROFILE})
    try:
        sitepulse.start()
        yield sitepulse
        begun = time.monotonic()
        assert_balanced(sitepulse.ledger())
        assert sitepulse.stop() < 10, time.monotonic() - begun
    finally:
        sitepulse.close()


def gaps(asked: list, since: float) -> list[float]:
    times = [at for at, *_ in asked if at >= since]
    return [later - earlier for earlier, later in zip(times, times[1:])]


def log_lines(sitepulse, word: str) -> int:
    return sum(word in line for line in sitepulse.log.read_text().splitlines())


@pytest.mark.parametrize("manner", ["dead", 0.4], ids=["dead", "slow"])
def test_eight_of_thirty_two_units_on_one_connection_do_not_delay_the_others(tmp_path, manner):
    server = Modbus({unit: manner for unit in range(4, 33, 4)})
    with served(server):
        text = ROLLUP + '[modbus]\nrequest_timeout = "500ms"\nbackoff_max = "20s"\n'
        # The slow ones take less of the connection's time than there is: 8 x 0.4 s of every 8 s.
        interval = lambda unit: "8s" if isinstance(manner, float) and unit % 4 == 0 else "2s"
        with running(tmp_path, text, [device(unit, server.port, interval(unit)) for unit in range(1, 33)]) as sitepulse:
            time.sleep(10)  # until the bad ones are known
            name = f"127.0.0.1:{server.port}"
            before, begun = sitepulse.part("modbus", name)["counters"], time.monotonic()
            time.sleep(20)
            after, span = sitepulse.part("modbus", name)["counters"], time.monotonic() - begun
            late = after["late_polls"] - before["late_polls"]
            worst = {unit: max(gaps(server.asked[unit], begun)) for unit in range(1, 33) if unit % 4}
            polls = [len(gaps(server.asked[unit], begun)) + 1 for unit in worst]
            print(f"{manner}: {len(worst)} good units, polls {min(polls)}-{max(polls)} in {span:.1f} s, longest gap {max(worst.values()):.2f} s, late {late}")
            assert min(polls) >= 9 and late == 0, (polls, late)
            assert max(worst.values()) < 2 + 3 * 0.5, worst
            bad = sum(len([1 for at, *_ in server.asked[unit] if at >= begun]) for unit in range(4, 33, 4))
            if manner == "dead":
                print(f"{bad} attempts at dead units: {bad * 0.5 / span:.0%} of the time")
                assert bad * 0.5 / span <= 0.25, bad
                part = sitepulse.part("modbus", name)
                assert part["state"] == "degraded" and len(part["troubles"]) == 8, part
                assert all("no answer" in trouble["reason"] and trouble["next"] for trouble in part["troubles"]), part
                assert log_lines(sitepulse, "modbus device in trouble") == 8
            else:
                assert bad >= 14, bad


MANNERS = {
    "reset": "reset", "closes": "closed without an answer", "garbage": "not Modbus TCP", "http": "no answer", "other_transaction": "another transaction or unit", "other_unit": "another transaction or unit",
    "truncated": "broke off", "short": "", "trickle": "no answer", **{code: f"exception {code} " for code in range(1, 12)},
}


def test_every_kind_of_fault_is_told_once_in_words_and_its_neighbour_goes_on(tmp_path):
    servers = {manner: Modbus({1: manner}) for manner in MANNERS}
    shut = free_port()
    with served(*servers.values()):
        devices = [device(unit, server.port, "500ms", f"{manner}-{unit}") for manner, server in servers.items() for unit in (1, 2)]
        devices.append(device(1, shut, "500ms", "shut"))
        text = ROLLUP + '[modbus]\nrequest_timeout = "300ms"\nbackoff_max = "4s"\n'
        with running(tmp_path, text, devices) as sitepulse:
            def troubles():
                parts = {part["name"]: part for part in sitepulse.json("/api/v1/health")["parts"] if part["kind"] == "modbus"}
                return parts if all(part["troubles"] for part in parts.values()) else None

            wait_for("a trouble of each", troubles)
            time.sleep(12)
            parts, begun = troubles(), time.monotonic()
            for manner, words in MANNERS.items():
                part = parts[f"127.0.0.1:{servers[manner].port}"]
                bad = next((it for it in part["troubles"] if it["subject"] == f"unit 1 (LAB/{manner}-1)"), None)
                assert bad and words in bad["reason"], (manner, part)
                assert bad["since"] and bad["count"] >= 1 and bad["next"], (manner, bad)
                assert part["state"] == "degraded", (manner, part)
                # The neighbour was polled twice a second all the while; the bad one ever less.
                assert servers[manner].requests(2) >= 16, (manner, servers[manner].requests(2))
                assert servers[manner].requests(1) <= 16, (manner, servers[manner].requests(1))
                assert log_lines(sitepulse, f"LAB/{manner}-1 ") <= 2, manner
            part = parts[f"127.0.0.1:{shut}"]
            assert part["state"] == "down" and "connection refused" in part["detail"] and part["troubles"][0]["count"] >= 3, part
            assert log_lines(sitepulse, f"127.0.0.1:{shut}") == 1
            # All is put right, and all come back.
            for server in servers.values():
                server.manners.clear()
            lasting = {f"127.0.0.1:{servers[code].port}" for code in (1, 2, 3)}  # asked again after a minute or so
            healed = lambda: all(part["state"] == "up" for part in sitepulse.json("/api/v1/health")["parts"]
                                 if part["kind"] == "modbus" and part["name"] not in lasting | {f"127.0.0.1:{shut}"})
            wait_for("all up again", healed, 20)
            print(f"all up {time.monotonic() - begun:.1f} s after they were put right")
            changes = [line for line in get(sitepulse.url + "/metrics").decode().splitlines() if line.startswith("sitepulse_part_state_changes_total{kind=\"modbus\"")]
            assert len(changes) == len(servers) + 1 and all(1 <= int(line.split()[-1]) <= 6 for line in changes), changes


def test_malformed_payloads_are_told_once_per_topic_and_a_refused_filter_is_asked_for_again(broker, tmp_path):
    refuser = Refuser()
    with served(refuser):
        text = ROLLUP + (f'[[mqtt]]\nname = "east"\nurl = "mqtt://127.0.0.1:{broker.port}"\nclient_id = "a"\ntopics = ["telemetry/#"]\n'
                         f'[[mqtt]]\nname = "west"\nurl = "mqtt://127.0.0.1:{refuser.port}"\nclient_id = "b"\n'
                         'topics = ["telemetry/+/+/+/+", "telemetry/port/+/+/+"]\n')
        with running(tmp_path, text, [METER]) as sitepulse:
            wait_for("the subscription", lambda: sitepulse.part("mqtt", "east")["state"] == "up")
            with Publisher(broker.port) as publisher:
                for _ in range(2_000):
                    publisher.publish("telemetry/base_station/350102/FZ1/dc", "{broken")
            wait_for("the rejections", lambda: sitepulse.ledger()["messages"]["rejected"]["total"] == 2_000)
            told = wait_for("the trouble", lambda: [it for it in sitepulse.part("pipeline").get("troubles", []) if it["count"] == 2_000])
            assert told[0]["subject"] == "east: telemetry/base_station/350102/FZ1/dc" and "malformed_json" in told[0]["reason"], told
            assert log_lines(sitepulse, "messages are rejected") == 1
            west = wait_for("the refusal", lambda: (part := sitepulse.part("mqtt", "west"))["state"] == "degraded" and part)
            assert [it["subject"] for it in west["troubles"]] == ['topic filter "telemetry/port/+/+/+"'], west
            assert west["troubles"][0]["next"] and west["counters"]["connects"] == 1, west


def influx(name: str, port: int) -> str:
    return (f'[[influx]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}"\norg = "city"\nbucket = "b"\ncreate_bucket = false\n'
            'windows = ["1m"]\ntimeout = "5s"\nbackoff_max = "1s"\n')


def test_sinks_that_hang_fail_or_drip_delay_neither_a_healthy_one_nor_the_stop(broker, tmp_path):
    good, sick, silent = Store("good"), [Store(manner) for manner in ("hang", "500", "drip")], Peer()
    with served(good, silent, *sick):
        head = ROLLUP + f'[[mqtt]]\nname = "east"\nurl = "mqtt://127.0.0.1:{broker.port}"\nclient_id = "a"\ntopics = ["telemetry/#"]\n'
        among = "".join(influx(store.manner.replace("500", "fails"), store.port) for store in sick)
        brain = f'[city_brain]\nurl = "mqtt://127.0.0.1:{silent.port}"\nclient_id = "c"\n'
        latencies = {}
        for label, rest in (("alone", ""), ("among the sick", among + brain)):
            with running(tmp_path / label.replace(" ", "-"), head + influx("series", good.port) + rest, [METER]) as sitepulse:
                wait_for("the subscription", lambda: sitepulse.part("mqtt", "east")["state"] == "up")
                base, found = 1_793_491_200_000 + len(latencies) * 86_400_000, []
                with Publisher(broker.port) as publisher:
                    publisher.publish("telemetry/base_station/350102/FZ1/dc", json.dumps({"ts": base - 60_000, "readings": {"pwr_w": 5.0}}))
                if rest:
                    wait_for("the sick are known", lambda: all(sitepulse.part("influx", name)["state"] == "down" for name in ("hang", "fails", "drip")), 40)
                    wait_for("the silent broker is known", lambda: sitepulse.part("city_brain")["state"] == "down", 40)
                with Publisher(broker.port) as publisher:
                    for minute in range(12):
                        at = base + minute * 60_000
                        publisher.publish("telemetry/base_station/350102/FZ1/dc", json.dumps({"ts": at, "readings": {"pwr_w": 5.0}}))
                        begun = time.monotonic()
                        sent = lambda: next((when for line, when in list(good.lines.items()) if line.endswith(f" {at}") and "window=1m" in line), None)
                        found.append(wait_for("the row at the good store", sent, 5) - begun)
                latencies[label] = sorted(found)
        for label, found in latencies.items():
            print(f"{label}: median {found[6]:.2f} s, worst {found[-1]:.2f} s from published to accepted")
        assert latencies["among the sick"][6] <= latencies["alone"][6] + 0.5, latencies
        assert latencies["among the sick"][-1] <= latencies["alone"][-1] + 1, latencies
        assert sick[0].lines == {} and sick[1].requests <= 60


def test_clients_that_dawdle_delay_no_neighbour_and_no_stop(tmp_path):
    with running(tmp_path, ROLLUP, [METER]) as sitepulse:
        def client(request: bytes) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", sitepulse.port))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            connection.sendall(request)
            return connection

        def answer_ms() -> float:
            begun = time.monotonic()
            sitepulse.json("/api/v1/ledger")
            return 1_000 * (time.monotonic() - begun)

        alone = max(answer_ms() for _ in range(20))
        half = [client(b"GET /api/v1/ledger HTTP/1.1\r\nHost: x\r\n") for _ in range(300)]
        deaf = [client(b"GET /api/v1/live HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(63)]
        stop = threading.Event()

        def trickle():
            while not stop.wait(1):
                for connection in half[:100]:
                    with contextlib.suppress(OSError):
                        connection.send(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        among = max(answer_ms() for _ in range(20))
        print(f"longest answer of 20: {alone:.0f} ms alone, {among:.0f} ms among 363 that dawdle")
        assert among < alone + 500
        with contextlib.closing(client(b"GET /api/v1/live HTTP/1.1\r\nHost: x\r\n\r\n")) as live:
            live.settimeout(10)
            heard = b""
            while b"event: ledger" not in heard:
                heard += live.recv(4_096)
        gone = lambda connection: closed(connection)
        wait_for("half requests lose their place", lambda: all(map(gone, half)), 40)
        fresh = [client(b"GET / HT") for _ in range(50)]
        stop.set()
        thread.join()
        seconds = sitepulse.stop()
        print(f"stopped in {seconds:.1f} s with {len(fresh)} half requests and {len(deaf)} deaf clients")
        assert seconds < 3
        sitepulse.start()


def closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65_536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
