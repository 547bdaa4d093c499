"""A Modbus TCP server that holds every data type in every byte order, and what a collector must read from it.

`serve(port)` runs it in a thread, `PROFILE` is the device profile that maps its registers, `EXPECTED` the value of each
metric (None: the device says that it has no value). By hand: `python modbus_types.py --port 5020`.

The registers are laid out here with `struct` alone, so that nothing of the collector's own decoding is trusted.
"""

import argparse
import asyncio
import contextlib
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

UNIT = 17
PROFILE_ID = "modbus-types"

# Type, how struct packs it big-endian, and a value whose bytes all differ.
TYPES = [
    ("u16", "H", 0xFEDC),
    ("i16", "h", -12_345),
    ("u32", "I", 0xFEDCBA98),
    ("i32", "i", -1_234_567_890),
    ("f32", "f", -1.2345678e-07),
    ("u64", "Q", 0xFEDCBA9876543210),
    ("i64", "q", -1_234_567_890_123_456_789),
    ("f64", "d", 2_606_487.1451234567),
]
ORDERS = ["ABCD", "CDAB", "BADC", "DCBA"]


@dataclass
class Map:
    """Registers and bits by address, the profile that names them, and the values."""

    tables: dict[str, dict[int, int]] = field(
        default_factory=lambda: {"coil": {}, "discrete_input": {}, "holding": {}, "input": {}}
    )
    profile: list[str] = field(
        default_factory=lambda: [
            f'id = "{PROFILE_ID}"',
            'description = "Every data type in every byte order"',
            'interval = "1s"',
        ]
    )
    expected: dict[str, float | None] = field(default_factory=dict)

    def metric(self, name: str, register: str, value: float | None) -> None:
        self.profile += ["", "[[metric]]", f'name = "{name}"', 'unit = "1"', 'kind = "gauge"', f"register = {{ {register} }}"]
        self.expected[name] = value

    def put(self, table: str, address: int, words: list[int]) -> int:
        self.tables[table].update(enumerate(words, address))
        return address + len(words)


def words_in(order: str, big_endian: bytes) -> list[int]:
    """The registers of a value whose bytes are ABCD... in the given order."""
    pairs = [big_endian[at : at + 2] for at in range(0, len(big_endian), 2)]
    if order in ("CDAB", "DCBA"):
        pairs.reverse()
    if order in ("BADC", "DCBA"):
        pairs = [pair[::-1] for pair in pairs]
    return [int.from_bytes(pair, "big") for pair in pairs]


def build() -> Map:
    layout = Map()
    for table, address in (("holding", 100), ("input", 40_000)):
        for data_type, code, value in TYPES:
            packed = struct.pack(f">{code}", value)
            # What the bytes say: a 32-bit float is not the decimal that it was made from.
            held = float(struct.unpack(f">{code}", packed)[0])
            for order in ORDERS:
                register = f'table = "{table}", address = {address}, type = "{data_type}", order = "{order}"'
                layout.metric(f"{table}_{data_type}_{order.lower()}", register, held)
                address = layout.put(table, address, words_in(order, packed))

    # The last register and a lone one: between them lie 64,000 that do not exist.
    layout.put("holding", 65_535, [4_242])
    layout.metric("last", 'table = "holding", address = 65535, type = "u16"', 4_242.0)
    # Registers 310-314 do not exist: a range that reads over them is refused with exception 2.
    layout.put("holding", 309, [1])
    layout.put("holding", 315, [2])
    layout.metric("before_hole", 'table = "holding", address = 309, type = "u16"', 1.0)
    layout.metric("after_hole", 'table = "holding", address = 315, type = "u16"', 2.0)

    layout.put("holding", 400, [0b1000_0000_0000_0101])
    for bit, value in ((0, 1.0), (1, 0.0), (2, 1.0), (15, 1.0)):
        layout.metric(f"bit_{bit}", f'table = "holding", address = 400, type = "u16", bit = {bit}', value)
    layout.metric("bit_swapped", 'table = "holding", address = 400, type = "u16", order = "BADC", bit = 7', 1.0)

    layout.put("holding", 410, [1_234, 0xFFEC, 650])
    layout.metric("scaled", 'table = "holding", address = 410, type = "u16", scale = 0.1', 123.4)
    layout.metric("scaled_i16", 'table = "holding", address = 411, type = "i16", scale = 0.01', -0.2)
    layout.metric("offset", 'table = "holding", address = 412, type = "u16", scale = 0.1, offset = -40.0', 25.0)

    nan32, nan64 = struct.pack(">f", float("nan")), struct.pack(">d", float("nan"))
    absent = [
        ("u16", [0xFFFF], "[0xFFFF]"),
        ("i16", [0x7FFF], "[0x7FFF, 0x8000]"),
        ("u32", [0xFFFF, 0xFFFF], "[0xFFFFFFFF]"),
        ("i32", [0x8000, 0x0000], "[0x80000000]"),
        ("u64", [0xFFFF] * 4, '["0xFFFFFFFFFFFFFFFF"]'),
        ("f32", words_in("ABCD", nan32), "[]"),
        ("f64", words_in("ABCD", nan64), "[]"),
    ]
    address = 420
    for data_type, words, sentinels in absent:
        register = f'table = "holding", address = {address}, type = "{data_type}", absent = {sentinels}'
        layout.metric(f"absent_{data_type}", register, None)
        address = layout.put("holding", address, words)
    register = f'table = "holding", address = {address}, type = "u32", order = "CDAB", absent = [0xFFFF0000]'
    layout.metric("absent_u32_cdab", register, None)
    layout.put("holding", address, [0x0000, 0xFFFF])

    for table, first in (("coil", 3), ("discrete_input", 1_000)):
        bits = [1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1]
        layout.put(table, first, bits)
        for at, bit in enumerate(bits):
            register = f'table = "{table}", address = {first + at}, type = "bool"'
            layout.metric(f"{table}_{at}", register, float(bit))
    return layout


LAYOUT = build()
PROFILE = "\n".join(LAYOUT.profile) + "\n"
EXPECTED = LAYOUT.expected


def device() -> SimDevice:
    """The device; addresses that the layout does not name are answered with exception 2."""

    def registers(table: str) -> list[SimData]:
        cells = sorted(LAYOUT.tables[table].items())
        return [SimData(address, values=word, datatype=DataType.REGISTERS) for address, word in cells]

    def bits(table: str) -> list[SimData]:
        cells = sorted(LAYOUT.tables[table].items())
        return [SimData(cells[0][0], values=[bool(bit) for _, bit in cells], datatype=DataType.BITS)]

    return SimDevice(
        id=UNIT, simdata=(bits("coil"), bits("discrete_input"), registers("holding"), registers("input"))
    )


@contextlib.contextmanager
def serve(port: int, host: str = "127.0.0.1") -> Iterator[None]:
    """Serves the device at unit id `UNIT` while the context is open; it takes connections when the context opens."""
    ready, failure = threading.Event(), []
    stopping: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stop = asyncio.Event()
        server = ModbusTcpServer(device(), address=(host, port))
        await server.serve_forever(background=True)
        stopping.append((asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        await server.shutdown()

    def thread_main() -> None:
        try:
            asyncio.run(run())
        except Exception as error:  # the context re-raises it
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=thread_main, name="modbus-types", daemon=True)
    thread.start()
    ready.wait()
    if failure:
        raise failure[0]
    try:
        yield
    finally:
        loop, stop = stopping[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=5020)
    parser.add_argument("--profile", action="store_true", help="print the profile and leave")
    parser.add_argument("--expected", action="store_true", help="print the expected values and leave")
    options = parser.parse_args()
    if options.profile:
        print(PROFILE, end="")
    elif options.expected:
        for name, value in EXPECTED.items():
            print(name, "absent" if value is None else repr(value))
    else:
        with serve(options.port), contextlib.suppress(KeyboardInterrupt):
            print(f"unit {UNIT} at 127.0.0.1:{options.port}", flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    main()
