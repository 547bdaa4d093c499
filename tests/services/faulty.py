"""Peers that fail in real ways: Modbus devices, HTTP stores and an MQTT broker, each a raw TCP server on a port of its own."""

import asyncio
import collections
import contextlib
import gzip
import socket
import struct
import threading
import time


@contextlib.contextmanager
def served(*peers):
    """Runs the peers on a thread of their own; each then has its `port`."""
    ready, loop = threading.Event(), asyncio.new_event_loop()

    def main():
        asyncio.set_event_loop(loop)
        for peer in peers:
            loop.run_until_complete(peer.listen())
        ready.set()
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield peers
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)


class Peer:
    """A listener; every connection is handled by `talk`, and held open when that returns."""

    port = 0

    async def listen(self):
        server = await asyncio.start_server(self.handle, "127.0.0.1", self.port)
        self.port, self.server, self.held = server.sockets[0].getsockname()[1], server, []

    async def handle(self, reader, writer):
        self.held.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.talk(reader, writer)

    async def talk(self, reader, writer):
        await asyncio.Event().wait()


class Modbus(Peer):
    """Answers holding registers with their addresses; `manners` maps a unit to what it does instead."""

    def __init__(self, manners: dict | None = None):
        self.manners = manners or {}
        self.asked = collections.defaultdict(list)  # unit -> (time, address, count)

    def requests(self, unit: int) -> int:
        return len(self.asked[unit])

    async def talk(self, reader, writer):
        while True:
            head = await reader.readexactly(7)
            transaction, _, length, unit = struct.unpack(">HHHB", head)
            function, address, count = struct.unpack(">BHH", await reader.readexactly(length - 1))
            self.asked[unit].append((time.monotonic(), address, count))
            answer = struct.pack(">BB", function, 2 * count) + struct.pack(f">{count}H", *range(address, address + count))
            manner = self.manners.get(unit, "good")
            if manner == "dead":
                continue
            if isinstance(manner, float):
                await asyncio.sleep(manner)
            if isinstance(manner, int):
                answer = bytes([function | 0x80, manner])
            if manner in ("reset", "closes"):
                if manner == "reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return
            frame = struct.pack(">HHHB", transaction, 0, len(answer) + 1, unit) + answer
            if manner == "garbage":
                frame = frame[:2] + b"\x12\x34" + frame[4:]
            elif manner == "http":
                frame = b"HTTP/1.1 400 Bad Request\r\n\r\n"
            elif manner == "other_transaction":
                frame = struct.pack(">H", transaction ^ 0x55) + frame[2:]
            elif manner == "other_unit":
                frame = frame[:6] + bytes([unit ^ 1]) + frame[7:]
            elif manner == "truncated":
                writer.write(frame[:-3])
                await writer.drain()
                writer.close()
                return
            elif manner == "short":
                frame = struct.pack(">HHHB", transaction, 0, len(answer) - 1, unit) + struct.pack(">BB", function, 2 * count) + answer[2:-2]
            elif manner == "trickle":
                for byte in frame:
                    if writer.is_closing():
                        return
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.3)
                continue
            writer.write(frame)
            await writer.drain()


class Store(Peer):
    """A time-series store: takes every write (`good`), answers 500, hangs, or answers a byte a second."""

    def __init__(self, manner: str):
        self.manner, self.lines, self.requests = manner, {}, 0

    async def talk(self, reader, writer):
        if self.manner == "hang":
            await asyncio.Event().wait()
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            body = await reader.readexactly(length)
            self.requests += 1
            if self.manner == "good":
                for line in gzip.decompress(body).decode().splitlines():
                    self.lines.setdefault(line, time.monotonic())
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            elif self.manner == "500":
                writer.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops")
            else:
                for byte in b"HTTP/1.1 204 No Content\r\nx-slow: " + b"x" * 10_000:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(1)
            await writer.drain()


class Refuser(Peer):
    """A broker that takes a connection and refuses every topic filter but the first, until `grants` is set."""

    grants = False

    async def talk(self, reader, writer):
        while True:
            kind, length = (await reader.readexactly(2))
            body = await reader.readexactly(length)
            if kind >> 4 == 1:
                writer.write(b"\x20\x02\x00\x00")
            elif kind >> 4 == 8:
                filters, at = 0, 2
                while at < len(body):
                    at += 3 + struct.unpack(">H", body[at:at + 2])[0]
                    filters += 1
                codes = [1] + [1 if self.grants else 0x80] * (filters - 1)
                writer.write(bytes([0x90, 2 + filters]) + body[:2] + bytes(codes))
            elif kind >> 4 == 12:
                writer.write(b"\xd0\x00")
            await writer.drain()
