"""The page in a real browser, fed by the real daemon: what stands on it, live, on a desk and on a phone."""

import json

from harness import Sitepulse, wait_for
from page import SETTLED, Page
from publisher import Publisher
from test_faults import METERS, SITES, T0, connected, toml

CARD = """document.querySelector('.card[data-indicator="BS7"]')?.textContent ?? ''"""
HOSTILE = '<img src=x onerror="document.title=1">'


def send(broker, minute: int, watts: float) -> None:
    with Publisher(broker.port) as publisher:
        for site in SITES:
            payload = json.dumps({"ts": T0 + 60_000 * minute, "readings": {"pwr_w": watts}})
            publisher.publish(f"telemetry/base_station/350102/{site['site']}/dc", payload)


def test_the_page_shows_what_is_known_and_follows_what_is_new(broker, tmp_path):
    sites = [SITES[0] | {"name": HOSTILE, "operator": HOSTILE}, *SITES[1:]]
    sitepulse = Sitepulse(tmp_path, toml(broker), sites, METERS)
    try:
        sitepulse.start()
        connected(sitepulse)
        send(broker, 0, 500.0)
        latest = lambda: [row for row in sitepulse.json("/api/v1/indicators/latest", level="city", window="1m")["rows"] if row["id"] == "BS7"]
        wait_for("the city's power", lambda: latest() and latest()[0]["value"] == 10_000.0)
        with Page(f"{sitepulse.url}/?window=1m", width=1280, seconds=60) as page:
            page.wait(SETTLED)
            card = page.evaluate(CARD)
            assert "功率" in card and "10" in card and "kW" in card, card
            # Unknown is a dash, never 0: nothing was heard of the port.
            port = page.evaluate("""document.querySelector('.card[data-indicator="PT6"]')?.textContent ?? ''""")
            assert "—" in port and "not known" in port, port
            assert "鼓楼" in page.evaluate("document.querySelector('#district-table').textContent")
            assert "balanced" in page.evaluate("document.querySelector('#balance').textContent").lower()
            assert "east" in page.evaluate("document.querySelector('#part-list').textContent")
            send(broker, 1, 700.0)
            page.wait(f"({CARD}).includes('14')")
            assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0, "a name became an element"
            assert page.errors == []
        for scheme in ("light", "dark"):
            with Page(f"{sitepulse.url}/", width=375, height=812, scheme=scheme) as phone:
                phone.wait(SETTLED)
                assert phone.evaluate("document.documentElement.scrollWidth") <= 375, "the page scrolls sideways on a phone"
                phone.picture(tmp_path / f"phone-{scheme}.png")
                assert phone.errors == []
    finally:
        sitepulse.close()
