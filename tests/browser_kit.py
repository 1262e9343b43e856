"""Chromium without a window, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-port=0",
)  # fmt: skip
STARTS_S, ANSWERS_S = 60, 60


def chromium() -> str:
    """The browser's path; the test is skipped where there is none."""
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    return found or pytest.skip("no Chromium is installed: apt-get install chromium")


@dataclass
class Page:
    """One tab. requests: every address that it asked for; complaints: errors of its scripts and of its console."""

    socket: Any
    session: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _loaded: bool = False
    _count: int = 0

    def tell(self, method: str, **parameters: object) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self.socket.send(json.dumps({**message, "sessionId": self.session} if self.session else message))
        while True:
            answer = json.loads(self.socket.recv(timeout=ANSWERS_S))
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._heard(answer)

    def _heard(self, event: dict[str, Any]) -> None:
        method, about = event.get("method", ""), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(about["args"])[:500])
        elif method == "Log.entryAdded":
            self.complaints.append(f"{about['entry']['level']}: {about['entry']['text']}")
        elif method == "Page.loadEventFired":
            self._loaded = True

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, file: Path) -> None:
        self._loaded = False
        self.tell("Page.navigate", url=file.absolute().as_uri())
        until = time.monotonic() + ANSWERS_S
        while not self._loaded:
            assert time.monotonic() < until, "the page did not load"
            self._heard(json.loads(self.socket.recv(timeout=ANSWERS_S)))
        self.drawn()

    def drawn(self) -> None:
        """Returns when what was asked for is on the screen."""
        self.ask("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def show(self, width: int, height: int = 900, *, scheme: str = "light") -> None:
        """Sets the window and what the user prefers."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.drawn()

    def type(self, selector: str, text: str) -> None:
        """Types into a field, over what stood there."""
        self.ask(f"document.querySelector({json.dumps(selector)}).select()")
        self.ask(f"document.querySelector({json.dumps(selector)}).focus()")
        if text:
            self.tell("Input.insertText", text=text)
        else:
            self.key("Delete", 46)
        self.drawn()

    def key(self, name: str, code: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)
        self.drawn()

    def click(self, selector: str) -> None:
        """Presses the mouse in the middle of an element."""
        x, y = self.middle(selector)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)
        self.drawn()

    def hover(self, selector: str) -> None:
        self.mouse("mouseMoved", *self.middle(selector))
        self.drawn()

    def mouse(self, kind: str, x: float, y: float) -> None:
        button = "none" if kind == "mouseMoved" else "left"
        self.tell("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        x, y = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return x, y

    def screenshot(self, file: Path) -> None:
        """The whole page, not only what the window shows."""
        size = self.tell("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def opened() -> Iterator[Page]:
    """A tab in a browser of its own."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [chromium(), *FLAGS, f"--user-data-dir={home}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(home), process), max_size=None, compression=None, proxy=None) as socket:
                browser = Page(socket, "")
                target = browser.tell("Target.createTarget", url="about:blank")["targetId"]
                session = browser.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
                page = Page(socket, session, _count=browser._count)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    page.tell(f"{domain}.enable")
                yield page
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address(home: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the browser listens: it writes that down once it does."""
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until and process.poll() is None:
        file = home / "DevToolsActivePort"
        lines = file.read_text().splitlines() if file.is_file() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError(f"Chromium did not start (exit {process.poll()})")
