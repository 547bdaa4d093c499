"""The page in a headless Chromium: its document, its picture, and what its console complains of.

Talks to the browser over its debugging pipe (file descriptors 3 and 4, JSON ended by a zero byte), because only that way can
a test wait until the page has its data, be as narrow as a phone, and read the console.
"""

import base64
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

# The page has its data, or knows that it cannot get it, and no chart is on its way.
SETTLED = """document.documentElement.dataset.state !== "loading" && !document.querySelector('[aria-busy="true"]')"""
SWITCHES = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
]


class Page:
    """One page, open in a browser of its own; a context manager."""

    def __init__(self, url: str, width: int = 1280, height: int = 1400, scheme: str = "light", seconds: float = 30.0):
        self.errors: list[str] = []
        self.number, self.buffer, self.session = 0, b"", None
        self.deadline = time.monotonic() + seconds
        self.profile = tempfile.TemporaryDirectory(prefix="sitepulse-page-", ignore_cleanup_errors=True)
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        # bash puts the pipe where Chromium looks for it, whatever their numbers are here.
        line = f'exec "$@" 3<&{commands} 4>&{answers}'
        command = ["bash", "-c", line, "bash", "chromium", *SWITCHES, f"--user-data-dir={self.profile.name}", "about:blank"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.browser = subprocess.Popen(command, pass_fds=(commands, answers), **quiet)
        os.close(commands)
        os.close(answers)
        try:
            self._open(url, width, height, scheme)
        except BaseException:
            self.close()
            raise

    def _open(self, url: str, width: int, height: int, scheme: str) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        failure = self.send("Page.navigate", url=url).get("errorText")
        assert not failure, f"{url}: {failure}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Ends the browser; politely first, so that its helpers have left the profile before it goes."""
        try:
            os.write(self.commands, b'{"id": 0, "method": "Browser.close"}\0')
            self.browser.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self.browser.kill()
            self.browser.wait()
        os.close(self.commands)
        os.close(self.answers)
        self.profile.cleanup()

    def send(self, method: str, **parameters) -> dict:
        """Sends a command and returns its result; notes what the console says meanwhile."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, self.deadline - time.monotonic()))
            chunk = os.read(self.answers, 1 << 16) if ready else b""
            assert chunk, "chromium gives no answer in time"
            self.buffer += chunk
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def _note(self, event: dict) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert", "warning"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in about["args"]))
        elif method == "Runtime.exceptionThrown":
            thrown = about["exceptionDetails"]
            self.errors.append(thrown.get("exception", {}).get("description") or thrown["text"])
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}".strip())

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window in CSS pixels; below 640 it is a phone."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 640)

    def evaluate(self, expression: str):
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str = SETTLED) -> None:
        """Waits until a JavaScript expression is true."""
        # While a page is loading its context may go away under the question; the next one gets the new context.
        while not self.evaluate(f"document.readyState === 'complete' && location.href !== 'about:blank' && !!({expression})"):
            assert time.monotonic() < self.deadline, f"not true in time: {expression}; console: {self.errors}"
            time.sleep(0.05)

    def html(self) -> str:
        return self.evaluate("document.documentElement.outerHTML")

    def picture(self, path: Path) -> None:
        """Writes what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


def dom(url: str, until: str = SETTLED) -> str:
    """The document as HTML once `until`, a JavaScript expression, is true."""
    with Page(url) as page:
        page.wait(until)
        return page.html()


def screenshot(url: str, path: Path, width: int, height: int, scheme: str = "light", until: str = SETTLED) -> None:
    """Writes a picture of the page; `scheme` is light or dark."""
    with Page(url, width, height, scheme) as page:
        page.wait(until)
        page.picture(Path(path))


def console_errors(url: str, until: str = SETTLED) -> list[str]:
    """What the console complains of until the page has its data: errors, warnings, refused resources."""
    with Page(url) as page:
        page.wait(until)
        return page.errors


def overflow(url: str, width: int, until: str = SETTLED) -> int:
    """By how many pixels the page is wider than a window of this width; 0 where only tables scroll."""
    with Page(url, width) as page:
        page.wait(until)
        return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
