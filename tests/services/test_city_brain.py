"""The city brain's feed: retained indicators in the published shape, amended ones again, a last will when we die."""

import json
import threading

import jsonschema
import paho.mqtt.client as mqtt

from harness import REPO, Sitepulse, wait_for
from publisher import Publisher
from test_faults import METERS, SITES, T0, connected, toml

SCHEMA = json.loads((REPO / "docs" / "schema" / "indicator-v1.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
HOUR = "citybrain/v1/indicator/city/350100/BS7/1h"


class Listener:
    """Everything under citybrain/, the newest message per topic."""

    def __init__(self, port: int):
        self.messages, self.lock, self.revisions = {}, threading.Lock(), {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="city-brain")
        self.client.on_connect = lambda client, *_: client.subscribe("citybrain/#", qos=1)
        self.client.on_message = self.take
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def take(self, _client, _data, message):
        with self.lock:
            body = json.loads(message.payload) if message.payload else None
            self.messages[message.topic] = body
            if "/indicator/" in message.topic and body and "revision" in body:
                self.revisions.setdefault((message.topic, body["start"]), []).append(body["revision"])

    def get(self, topic: str):
        with self.lock:
            return self.messages.get(topic)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def send(broker, minute: int, watts: float) -> None:
    with Publisher(broker.port) as publisher:
        for site in SITES:
            payload = json.dumps({"ts": T0 + 60_000 * minute, "readings": {"pwr_w": watts}})
            publisher.publish(f"telemetry/base_station/350102/{site['site']}/dc", payload)


def test_indicators_reach_the_city_brain_and_are_amended_and_our_death_is_told(broker, tmp_path):
    brain = f'[city_brain]\nurl = "mqtt://127.0.0.1:{broker.port}"\nclient_id = "sitepulse-brain"\nbackoff_max = "1s"\n'
    sitepulse = Sitepulse(tmp_path, toml(broker) + brain, SITES, METERS)
    listener = Listener(broker.port)
    try:
        sitepulse.start()
        connected(sitepulse)
        wait_for("we are online", lambda: (listener.get("citybrain/v1/status") or {}).get("status") == "online")
        send(broker, 0, 500.0)
        first = wait_for("the city's power", lambda: listener.get(HOUR))
        assert first["value"] == 500.0 * len(SITES) and first["unit"] == "W", first
        send(broker, 1, 700.0)
        amended = wait_for("the amended row", lambda: (row := listener.get(HOUR)) and row["revision"] > first["revision"] and row)
        assert amended["start"] == first["start"] and amended["value"] == 600.0 * len(SITES), amended

        with listener.lock:
            rows = {topic: body for topic, body in listener.messages.items() if topic.startswith("citybrain/v1/indicator/")}
            histories = dict(listener.revisions)
        assert rows
        for topic, body in rows.items():
            VALIDATOR.validate(body)
            level, area, indicator, window = topic.split("/")[3:7]
            assert (body["level"], body["area"], body["id"], body["window"]) == (level, area, indicator, window), topic
        for (topic, start), revisions in histories.items():
            assert revisions == sorted(revisions), (topic, start, revisions)

        sitepulse.kill()
        wait_for("the last will", lambda: listener.get("citybrain/v1/status")["status"] == "offline", 60)
        sitepulse.start()
        wait_for("we are back", lambda: listener.get("citybrain/v1/status")["status"] == "online")
        sitepulse.stop()
        wait_for("a clean goodbye", lambda: listener.get("citybrain/v1/status")["status"] == "offline")
    finally:
        listener.close()
        sitepulse.close()
