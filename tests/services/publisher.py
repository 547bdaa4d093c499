"""Publishes over QoS 1 and returns only when the broker has acknowledged everything."""

import threading

import paho.mqtt.client as mqtt


class Publisher:
    """One connection that publishes; use as a context manager."""

    def __init__(self, port: int, client_id: str = "publisher"):
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
        self.client.max_inflight_messages_set(500)
        self.client.max_queued_messages_set(0)
        self.connected = threading.Event()
        self.client.on_connect = lambda *_: self.connected.set()
        self.port, self.last = port, []

    def __enter__(self):
        self.client.connect("127.0.0.1", self.port, keepalive=60)
        self.client.loop_start()
        assert self.connected.wait(20), "the publisher could not connect"
        return self

    def __exit__(self, *_):
        self.flush()
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, topic: str, payload: str | bytes) -> None:
        self.last.append(self.client.publish(topic, payload, qos=1))
        if len(self.last) >= 2000:
            self.flush()

    def flush(self) -> None:
        """Waits until everything published so far is acknowledged."""
        for info in self.last:
            info.wait_for_publish(timeout=60)
            assert info.is_published(), "the broker did not acknowledge a message"
        self.last.clear()
