"""Publishers at QoS 1 that know what the broker has acknowledged."""

import select
import socket
import threading
import time

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


class Outbox:
    """A publisher that keeps each QoS 1 message until the broker has acknowledged it, and sends what is left again on its next
    connection, as a device with a disk of its own does. Written on the socket: it has to be faster than the collector."""

    def __init__(self, port: int, client_id: str, window: int = 1_000):
        self.port, self.client_id, self.window = port, client_id, window
        self.waiting: dict[int, bytes] = {}  # by packet identifier, in the order in which they were published
        self.out, self.heard, self.identifier = bytearray(), bytearray(), 0
        self.published = self.acknowledged = self.resent = self.connections = 0
        self.socket = None
        self.connect()

    def connect(self, seconds: float = 60) -> None:
        """Connects with the session of before, trying until the broker is there, and sends again what it has not acknowledged."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                self.socket.sendall(packet(0x10, text("MQTT") + bytes([4, 0, 0, 0]) + text(self.client_id)))
                answer = self.socket.recv(4, socket.MSG_WAITALL)
                if len(answer) == 4 and answer[0] == 0x20 and answer[3] == 0:
                    break
                raise OSError(f"no CONNACK: {answer!r}")
            except OSError as trouble:
                if time.monotonic() > deadline:
                    raise AssertionError(f"the publisher could not connect: {trouble}") from trouble
                time.sleep(0.02)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.heard.clear()
        self.resent += len(self.waiting)
        self.connections += 1
        self.out = bytearray(b"".join(bytes([message[0] | 0x08]) + message[1:] for message in self.waiting.values()))

    def publish(self, topic: str, payload: bytes) -> None:
        while len(self.waiting) >= self.window:
            self.exchange(1)
        self.identifier = self.identifier % 65_535 + 1
        while self.identifier in self.waiting:
            self.identifier = self.identifier % 65_535 + 1
        message = packet(0x32, text(topic) + self.identifier.to_bytes(2, "big") + payload)
        self.waiting[self.identifier] = message
        self.out += message
        self.published += 1
        if len(self.out) > 16_384:
            self.exchange(0)

    def exchange(self, seconds: float) -> None:
        """Writes what waits and takes in acknowledgements; waits up to `seconds` for either."""
        try:
            readable, writable, _ = select.select([self.socket], [self.socket] if self.out else [], [], seconds)
            if writable:
                del self.out[:self.socket.send(self.out[:65_536])]
            if readable:
                chunk = self.socket.recv(65_536)
                if not chunk:
                    raise OSError("the broker closed the connection")
                self.take(chunk)
        except BlockingIOError:
            pass
        except OSError:
            self.socket.close()
            self.connect()

    def take(self, chunk: bytes) -> None:
        self.heard += chunk
        whole = len(self.heard) // 4 * 4
        for at in range(0, whole, 4):
            assert self.heard[at:at + 2] == b"\x40\x02", f"no PUBACK: {self.heard[at:at + 4]!r}"
            if self.waiting.pop(int.from_bytes(self.heard[at + 2:at + 4], "big"), None):
                self.acknowledged += 1
        del self.heard[:whole]

    def flush(self, seconds: float = 60) -> None:
        """Waits until everything published so far is acknowledged."""
        deadline = time.monotonic() + seconds
        while self.waiting:
            assert time.monotonic() < deadline, f"{len(self.waiting)} messages are not acknowledged"
            self.exchange(0.2)

    def close(self) -> None:
        self.socket.close()


def packet(head: int, body: bytes) -> bytes:
    """An MQTT packet: its first byte, the length of the rest, the rest."""
    length, left = bytearray(), len(body)
    while True:
        left, low = divmod(left, 128)
        length.append(low | (0x80 if left else 0))
        if not left:
            return bytes([head]) + bytes(length) + body


def text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded
