"""Open the result page of a sweep in a headless Chromium without a network, and use it as a reader would.

    python benchmarks/page_in_chromium.py                               a made-up sweep of 2,000 points, and odd ones
    python benchmarks/page_in_chromium.py --points 100000               one that has to be thinned
    python benchmarks/page_in_chromium.py --page sweep.html             a page that `sweep-machines report` wrote
    python benchmarks/page_in_chromium.py --picture page.png            what it looks like, too

Fails if the page logs an error or a warning, asks for anything but itself, takes a network, or if pointing at a design
does not show it. Prints how long the page takes to be ready and to answer the pointer. Needs `chromium` on the PATH.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.page import write_page
from sweeps.points import SweepTable
from tests.synthetic_sweep import odd_tables, page_arguments, synthetic_table

WIDTH, HEIGHT = 1280, 900
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--window-size={WIDTH},{HEIGHT}", "--remote-debugging-pipe")  # fmt: skip


@dataclass
class Browser:
    """A page in Chromium, driven over the pipe of its DevTools; `faults` collects what it should not do."""

    commands: BinaryIO
    answers: BinaryIO
    session: str = ""
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command; events that come first are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") != self._number:
                self._note(answer)
            elif "error" in answer:
                raise SystemExit(f"{method}: {answer['error']}")
            else:
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            if not byte:
                raise SystemExit("Chromium went away")
            text += byte
        return dict(json.loads(text))

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.faults.append(f"exception: {json.dumps(parameters['exceptionDetails'])[:600]}")
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.faults.append(f"console: {json.dumps(parameters['args'])[:600]}")
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.faults.append(f"log: {parameters['entry']['text'][:600]}")
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])

    def value(self, expression: str) -> Any:
        """Return what an expression of the page gives."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression}: {json.dumps(result['exceptionDetails'])[:600]}")
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> float:
        """Return after how many seconds an expression became true; ends the run if it does not."""
        start = time.perf_counter()
        while not self.value(expression):
            if time.perf_counter() - start > seconds:
                raise SystemExit(f"not after {seconds} s: {expression}; {self.faults}")
            time.sleep(0.02)
        return time.perf_counter() - start

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the mouse."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """Press and release at a place."""
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from one place to another."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, button="left", clickCount=1)
        for step in range(1, 6):
            x, y = (a + (b - a) * step / 5 for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, button="left", buttons=1)
        self.mouse("mouseReleased", *end, button="left", clickCount=1)


@contextlib.contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """Start a Chromium with an empty profile, attached to a blank page."""
    with tempfile.TemporaryDirectory() as profile:
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = f'exec 3<&{command_read} 4>&{answer_write}; exec "$@"'
        command = ["sh", "-c", shell, "sh", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, pass_fds=(command_read, answer_write), stderr=subprocess.DEVNULL)
        os.close(command_read)
        os.close(answer_write)
        with os.fdopen(command_write, "wb") as commands, os.fdopen(answer_read, "rb") as answers:
            browser = Browser(commands, answers)
            try:
                pages = [row for row in browser.call("Target.getTargets")["targetInfos"] if row["type"] == "page"]
                attached = browser.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
                browser.session = attached["sessionId"]
                yield browser
            finally:
                process.terminate()
                process.wait()


def check(browser: Browser, page: Path, picture: Path | None) -> list[str]:
    """Open and use a page; return what is wrong with it."""
    _open(browser, page)
    faults = [*_hover(browser), *_choose(browser), *_brush(browser)]
    if picture is not None:
        _take(browser, picture)
    return [*_faults(browser, page), *faults]


def check_opens(browser: Browser, page: Path) -> list[str]:
    """Open a page and do no more; return what is wrong with it."""
    _open(browser, page)
    return _faults(browser, page)


def _open(browser: Browser, page: Path) -> None:
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable")
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    browser.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
    start = time.perf_counter()
    address = page.resolve().as_uri()
    browser.call("Page.navigate", url=address)
    is_it = f"location.href === {json.dumps(address)}"
    browser.wait_for(f"{is_it} && document.body && document.body.dataset.ready === 'yes'")
    print(f"ready after {time.perf_counter() - start:.2f} s, {page.stat().st_size / 1e6:.2f} MB")


def _faults(browser: Browser, page: Path) -> list[str]:
    """Return the errors so far, what the page asked for besides itself, and whether strange words became code."""
    own = (page.resolve().as_uri(), "data:", "blob:")
    faults = [*browser.faults, *(f"asks for {url}" for url in browser.requests if not url.startswith(own))]
    browser.faults.clear()
    browser.requests.clear()
    if browser.value("window.hostile !== undefined || document.querySelectorAll('script').length !== 3"):
        faults.append("words of the sweep became code")
    return faults


def _take(browser: Browser, picture: Path) -> None:
    """Save the first screen, and the whole page beside it."""
    browser.value("window.scrollTo(0, 0)")
    for path, is_whole in ((picture, False), (picture.with_name(f"{picture.stem}-whole{picture.suffix}"), True)):
        size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {**size, "scale": 1} if is_whole else {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
        shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


_PLACE = """(() => {{
  const left = element => element.getBoundingClientRect().x;
  const found = [...document.querySelectorAll({selector})].sort((a, b) => left(a) - left(b))[0];
  if (!found) return null;
  found.scrollIntoView({{block: "center"}}); const box = found.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2, box.width, box.height]; }})()"""


def _place(browser: Browser, selector: str) -> tuple[float, float, float, float]:
    """Scroll the leftmost element of a selector into view, and return its middle and its size."""
    found = browser.value(_PLACE.format(selector=json.dumps(selector)))
    if found is None:
        raise SystemExit(f"there is no {selector}")
    x, y, width, height = found
    return x, y, width, height


def _hover(browser: Browser) -> Iterator[str]:
    """Point at the leftmost mark of the front; the label and the card have to show the same design, all of it."""
    colour = browser.value("(() => { const dot = document.body.appendChild(document.createElement('i'));"
                           "dot.style.fill = ROLES.front.colour; return dot.style.fill; })()")  # fmt: skip
    marks = f"#trade-offs .scatterlayer path.point[style*='{colour}']"
    x, y, *_ = _place(browser, marks)
    browser.mouse("mouseMoved", x - 40, y - 40)
    start = time.perf_counter()
    browser.mouse("mouseMoved", x, y)
    browser.wait_for("document.querySelector('#trade-offs .hoverlayer .hovertext') !== null", 10)
    print(f"answers the pointer after {time.perf_counter() - start:.2f} s")
    label = browser.value("document.querySelector('#trade-offs .hoverlayer').textContent")
    shown = browser.value("document.querySelector('#card h3').textContent")
    print(f"label: {label}")
    expected = browser.value(
        "(() => { const point = points.find(row => title(row) === document.querySelector('#card h3').textContent);"
        "return [title(point), ...point.told, ...data.parameters.map(row => row.label), "
        "...point.figures.slice(0, data.objectives).map((value, index) => amount(value, data.figures[index]))]; })()"
    )
    missing = [text for text in expected if text not in label]
    if missing or len(expected) < 2:
        yield f"the label of {shown} lacks {missing}"


def _choose(browser: Browser) -> Iterator[str]:
    """A click on the first row of the front's table shows that design."""
    row = _place(browser, "tr[data-point]:not(.base):not(.knee)")
    number = browser.value("document.querySelector('tr[data-point]:not(.base):not(.knee)').dataset.point")
    browser.click(row[0], row[1])
    shown = browser.value("document.querySelector('#card h3').textContent").replace(",", "")
    if shown != f"point {number}":
        yield f"a click on the row of point {number} shows {shown}"


def _brush(browser: Browser) -> Iterator[str]:
    """A box over the lower half of the last axis leaves some designs, a click on the button brings back all."""
    x, y, width, height = _place(browser, "#parallel .nsewdrag")
    axes = browser.value("parallelAxes.length")
    across = x - width / 2 + width * (axes - 1 + 0.35) / (axes - 0.45)
    browser.drag((across - 15, y - height * 0.05), (across + 8, y + height * 0.45))
    browser.wait_for("document.getElementById('brushed').textContent !== ''", 10)
    told = browser.value("document.getElementById('brushed').textContent")
    print(f"brush: {told}")
    if " feasible designs shown pass" not in told or browser.value("points.filter(passes).length") in (0, None):
        yield f"a box over an axis says '{told}'"
    button = _place(browser, "#clear")
    browser.click(button[0], button[1])
    browser.wait_for("document.getElementById('brushed').textContent === ''", 10)


def _made_up(page: Path, table: SweepTable) -> Path:
    start = time.perf_counter()
    write_page(table, page, **page_arguments(table))
    print(f"written in {time.perf_counter() - start:.2f} s", end=", ")
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a page; return 1 if something is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="a page to check instead of one of a made-up sweep")
    parser.add_argument("--points", type=int, default=2000, help="points of the made-up sweep")
    parser.add_argument("--picture", type=Path, help="where to save a picture of the page (.png)")
    parser.add_argument("--chromium", default="chromium", help="the browser")
    options = parser.parse_args(arguments)
    program = shutil.which(options.chromium)
    if program is None:
        raise SystemExit(f"there is no {options.chromium} on the PATH: install Chromium, or name it with --chromium")
    with tempfile.TemporaryDirectory() as folder, chromium(program) as browser:
        if options.page is not None:
            faults = check(browser, options.page, options.picture)
        else:
            faults = check(
                browser, _made_up(Path(folder) / "page.html", synthetic_table(options.points)), options.picture
            )
            for name, table in odd_tables().items():
                print(name, end=": ")
                page = _made_up(Path(folder) / f"{name.replace(' ', '-')}.html", table)
                faults += [f"{name}: {fault}" for fault in check_opens(browser, page)]
    for fault in faults:
        print(f"WRONG: {fault}")
    print("the page works" if not faults else f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
