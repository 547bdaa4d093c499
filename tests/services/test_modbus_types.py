"""Every data type in every byte order, read from a pymodbus server, value by value."""

import math

import modbus_types
from harness import Sitepulse, free_port, assert_balanced, wait_for

SITE = {"site": "LAB", "kind": "data_centre", "area": "350102", "operator": "fuzhou-cloud", "attributes": "racks_built=10"}


def test_every_type_and_byte_order_is_read_right(tmp_path):
    port = free_port()
    with modbus_types.serve(port):
        device = {"site": "LAB", "device": "types", "profile": modbus_types.PROFILE_ID, "unit": modbus_types.UNIT, "interval": "1s",
                  "connection": f"modbus-tcp://127.0.0.1:{port}"}
        sitepulse = Sitepulse(tmp_path, '[rollup]\nflush_interval = "200ms"\n', [SITE], [device],
                              {modbus_types.PROFILE_ID: modbus_types.PROFILE})
        try:
            sitepulse.start()
            held = {name: value for name, value in modbus_types.EXPECTED.items() if value is not None}
            # The first poll is refused where it reads over a hole; from the second on every value comes.
            polls = lambda: sitepulse.part("modbus")["counters"]["polls"]
            wait_for("three polls", lambda: polls() >= 3)
            sitepulse.settled(3, 3 * len(held) - 20)

            def read() -> dict | None:
                rows = sitepulse.json("/api/v1/rollups", site="LAB", device="types", window="1h")["rows"]
                last = {row["metric"]: row["last"] for row in rows}
                return last if len(last) >= len(held) else None

            last = wait_for("every value", read)
            for metric, expected in held.items():
                assert metric in last, f"{metric} was not read"
                assert math.isclose(last[metric], expected, rel_tol=1e-12), (metric, last[metric], expected)
            assert last.keys() == held.keys(), "an absent value was read as a number"
            assert len(held) >= 2 * 8 * 4, "every type in every order, in both register tables"
            ledger = sitepulse.ledger()
            assert ledger["readings"]["invalid"]["reasons"].keys() == {"absent"}, ledger
            assert_balanced(ledger)
        finally:
            sitepulse.close()
