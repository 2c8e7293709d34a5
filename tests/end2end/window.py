"""A person's first hour with the window and the service, with real keys and clicks on an X server.

    python -m tests.end2end.window [--out docs/screenshots] [--no-corpus]

Starts Xvfb (and openbox, where there is one), opens the window of an empty library, and goes from
"Try the sample library" over questions in Chinese and English, previews, the library and its
problems to quitting and opening again. Keys and clicks come from xdotool, outside of the process;
every step is checked by what is on the screen and by what the service says. With --out the screen
is kept as pictures. Then the same on the real documents of `tests.end2end.corpus`, where they are.
Needs xdotool and ImageMagick. Prints the times it took and exits with 1 at the first
thing that is not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from PySide6.QtCore import QRect
from PySide6.QtGui import QImage

from indexer import api
from indexer.client import IndexerClient, find_service
from tests.end2end import corpus

_T = TypeVar("_T")
ROOT = Path(__file__).resolve().parents[2]
SIZE = (1180, 760)
# Yellow as it comes out of the marker on white paper: much red and green, little blue.
MARKED = (255, 232, 140)
# One of the sample library's own questions: what to do about a smell of gas. The answer is in an English PDF.
GAS = "在家里闻到煤气味该怎么办"


class WrongError(Exception):
    """Something on the screen, or in the service, is not as a person would expect."""


def until(what: str, look: Callable[[], _T | None], timeout: float = 20.0) -> _T:
    """Look again and again until there is something; that.

    Raises:
        WrongError: There was nothing in `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise WrongError(f"{what}: not within {timeout:.0f} s, but {seen!r}")
        time.sleep(0.05)


@contextlib.contextmanager
def screen() -> Iterator[str]:
    """An X server of our own with a window manager; its display."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "2560x1720x24", "-dpi", "96"]
    with subprocess.Popen([*command, "-nolisten", "tcp"], pass_fds=[writing], stderr=subprocess.DEVNULL) as x:
        os.close(writing)
        try:
            with os.fdopen(reading) as answer:
                number = answer.readline().strip()
            if not number:
                raise WrongError("Xvfb did not start")
            environment = {**os.environ, "DISPLAY": f":{number}"}
            manager = shutil.which("openbox")
            if manager is None:
                yield f":{number}"
                return
            null = subprocess.DEVNULL
            with subprocess.Popen([manager], env=environment, stdout=null, stderr=null) as keeper:
                try:
                    yield f":{number}"
                finally:
                    keeper.terminate()
        finally:
            x.terminate()


class Desk:
    """Somebody's computer: a home with a copy of the program in it, and a screen.

    Args:
        home: An empty folder.
        display: The screen.
    """

    def __init__(self, home: Path, display: str) -> None:
        self.home = home
        self.display = display
        self.program = home / "Dragoman"
        for part in ("desktop", "indexer", "assets"):
            leave = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, self.program / part, ignore=leave)
        shutil.copytree(ROOT / "tests" / "end2end", self.program / "tests" / "end2end", dirs_exist_ok=True)
        self.sample = self.program / "assets" / "sample-library"
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "XDG_CACHE_HOME": cache,  # the model need not be unpacked again
            "DISPLAY": display,
            "PYTHONPATH": str(self.program),
            "QT_QPA_PLATFORM": "xcb",
            "DRAGOMAN_LANG": "en",
        }
        self.environment.pop("WAYLAND_DISPLAY", None)

    def xdo(self, *command: object) -> str:
        """Run xdotool on this screen."""
        done = subprocess.run(
            ["xdotool", *map(str, command)],
            env={"DISPLAY": self.display, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise WrongError(f"xdotool {' '.join(map(str, command))}: {done.stderr.strip()}")
        return done.stdout


class App:
    """The window, from outside.

    Args:
        desk: Where it is opened.
        data: The library's data folder.
        language: Of the window, such as ``zh_CN``.
        scale: Device pixels a pixel.
    """

    def __init__(self, desk: Desk, data: Path, *, language: str = "en", scale: int = 1) -> None:
        self.desk = desk
        self.data = data
        self.scale = scale
        environment = {**desk.environment, "DRAGOMAN_LANG": language, "QT_SCALE_FACTOR": str(scale)}
        command = [sys.executable, "-m", "tests.end2end.inside", "--data-dir", str(data)]
        began = time.monotonic_ns()
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=desk.program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.usable_s = (self._line(60)["ready"] - began) / 1e9
        self.window = until("the window's title", lambda: self._titled("Dragoman"))

    def _titled(self, title: str) -> int:
        found = [w for w in self.every("mainWindow") if w["title"] == title and w["visible"]]
        return found[0]["window"] if found else 0

    def _line(self, timeout: float = 20.0) -> Any:
        out = self.process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], timeout)
        line = out.readline() if ready else b""
        if not line:
            raise WrongError(f"the window does not answer; its exit code is {self.process.poll()}")
        return json.loads(line)

    def ask(self, question: str) -> Any:
        """Ask the one inside."""
        assert self.process.stdin is not None
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()
        return self._line()

    def every(self, name: str) -> list[dict[str, Any]]:
        """All widgets of a name, from the top of the screen."""
        found: list[dict[str, Any]] = self.ask(f"find {name}")
        return sorted(found, key=lambda widget: widget["rect"][1])

    def see(self, name: str) -> dict[str, Any]:
        """The one visible widget of a name, empty for none."""
        seen = [widget for widget in self.every(name) if widget["visible"]]
        return seen[0] if seen else {}

    def text(self, name: str) -> str:
        """The text of a visible widget, empty for none."""
        return self.see(name).get("text") or ""

    def stall(self) -> str:
        """The longest time the event loop stood still since the last such question, and where."""
        longest, own, place = self.ask("stall")
        return f"{longest:.0f} ms, {own:.0f} ms of it at work" + (f" at {place}" if place else "")

    def click(self, name: str, number: int = 0) -> None:
        """Click into the middle of a visible widget."""

        def there() -> list[dict[str, Any]]:
            return [w for w in self.every(name) if w["visible"] and w["enabled"]][number:]

        x, y, width, height = until(f"{name} to click on", there)[0]["rect"]
        self.desk.xdo("mousemove", x + width // 2, y + height // 2, "click", 1)

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        self.desk.xdo("key", "--delay", 30, *keys)

    def write(self, text: str) -> None:
        """Type into the search field, in place of what is there."""
        # For letters that no key has, xdotool changes the keyboard under way, and the one or other is lost.
        for delay in (25, 100, 250):
            self.press("ctrl+l")
            self.desk.xdo("type", "--delay", delay, text)
            with contextlib.suppress(WrongError):
                until("the text", lambda: self.text("searchField") == text, 2)
                return
        self.ask(f"clipboard {json.dumps(text)}")
        self.press("ctrl+l", "ctrl+v")
        with contextlib.suppress(WrongError):
            until("the text", lambda: self.text("searchField") == text, 2)
            return
        raise WrongError(f"“{text}” was typed, but the field says “{self.text('searchField')}”")

    def search(self, text: str) -> list[str]:
        """Ask a question and wait until the list shows the service's answer.

        Returns:
            The rows as a screen reader says them.
        """
        self.write(text)
        with IndexerClient(self.data, start=False) as client:
            found = client.search(text, limit=40, passages=4, mark=False)
        hits = list(found.hits)
        strong = max((at + 1 for at, hit in enumerate(hits) if not hit.weak), default=0)
        if 0 < strong < len(hits) - 3:
            hits = hits[:strong]  # many weaker ones wait behind a button
        names = [Path(hit.path).name for hit in hits]

        def shown() -> list[str]:
            rows = list(self.see("results").get("rows", []))
            same = [row.split(", ")[0] for row in rows] == names
            return rows if same and "·" in self.text("resultsSummary") else []

        return until(f"the answer to “{text}”", shown)

    def select(self, part: str, among: int = 10) -> int:
        """Go down the list to the row with `part` in it; how many rows down it is."""
        rows = self.see("results")["rows"]
        found = [number for number, row in enumerate(rows[:among]) if part in row]
        if not found:
            raise WrongError(f"“{part}” is not among the first {among}: {[row[:40] for row in rows]}")
        for number in range(1, found[0] + 1):
            self._step("Down", number)
        if not found[0]:  # the arrow keys work all the same
            self._step("Down", 1)
            self._step("Up", 0)
        until("the preview's title", lambda: self.text("previewTitle") in rows[found[0]])
        return found[0]

    def _step(self, key: str, row: int) -> None:
        self.press(key)
        until(f"row {row + 1} selected", lambda: self.see("results")["current"] == row)

    def _reached(self, number: int) -> None:
        until(f"row {number + 1} selected", lambda: self.see("results")["current"] == number)

    def picture(self, window: int | None = None) -> QImage:
        """What the screen shows of a window."""
        command = ["import", "-silent", "-window", str(window or self.window), "-strip", "png:-"]
        environment = {"DISPLAY": self.desk.display, "PATH": os.environ["PATH"]}
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        image = QImage.fromData(done.stdout)
        if image.isNull() or len(colours(image, image.rect())) < 8:
            raise WrongError("the window is blank on the screen")
        return image

    def scene(self) -> QImage:
        """What the screen shows where the window is, with what lies over it."""
        x, y, width, height = next(w for w in self.every("mainWindow") if w["visible"])["rect"]
        command = ["import", "-silent", "-window", "root", "-crop", f"{width}x{height}+{x}+{y}", "+repage"]
        environment = {"DISPLAY": self.desk.display, "PATH": os.environ["PATH"]}
        done = subprocess.run([*command, "-strip", "png:-"], env=environment, capture_output=True, check=True)
        return QImage.fromData(done.stdout)

    def part(self, name: str) -> QImage:
        """What the screen shows of a widget."""
        x, y, width, height = self.see(name)["rect"]
        main = next(w for w in self.every("mainWindow") if w["visible"])["rect"]
        return self.picture().copy(QRect(x - main[0], y - main[1], width, height))

    def close(self) -> float:
        """Quit with the keyboard; seconds until the process was gone."""
        began = time.monotonic()
        self.press("ctrl+q")
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired as error:
            raise WrongError("the window does not quit") from error
        if code:
            raise WrongError(f"the window quit with code {code}")
        return time.monotonic() - began

    def __enter__(self) -> App:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            picture = Path(tempfile.gettempdir()) / "dragoman-window-wrong.png"
            command = ["import", "-silent", "-window", "root", str(picture)]
            subprocess.run(command, env=self.desk.environment, check=False)
            print(f"What the screen showed then is in {picture}.", file=sys.stderr)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def colours(image: QImage, rect: QRect, step: int = 3) -> dict[tuple[int, int, int], int]:
    """How often each colour is in a part of a picture, looking at every `step`-th pixel each way."""
    seen: dict[tuple[int, int, int], int] = {}
    for y in range(rect.top(), rect.bottom() + 1, step):
        for x in range(rect.left(), rect.right() + 1, step):
            colour = image.pixelColor(x, y)
            key = (colour.red(), colour.green(), colour.blue())
            seen[key] = seen.get(key, 0) + 1
    return seen


def near(one: tuple[int, int, int], other: tuple[int, int, int], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


class Visit:
    """One run: what is measured and what is kept.

    Args:
        desk: The computer.
        out: Where pictures go; None for nowhere.
    """

    def __init__(self, desk: Desk, out: Path | None) -> None:
        self.desk = desk
        self.out = out

    def say(self, text: str) -> None:
        print(text, flush=True)

    def open(self, data: Path, *, language: str = "en", scale: int = 1, scheme: str = "light") -> App:
        """Open the window at a size that is the same in every picture."""
        app = App(self.desk, data, language=language, scale=scale)
        app.ask(f"scheme {scheme}")
        size = [n * scale for n in SIZE]
        self.desk.xdo("windowsize", app.window, *size)

        def sized() -> bool:
            return bool(app.every("mainWindow")[0]["rect"][2:] == size)

        until(f"the window at {size}", sized)
        self.desk.xdo("mousemove", 2, 1700)
        return app

    def keep(self, app: App, name: str, window: int | None = None, *, over: bool = False) -> None:
        """Keep a picture of a window, with `over` of what pops up over it, too."""
        image = app.scene() if over else app.picture(window)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            whole = self.out / f"{name}.whole.png"
            image.save(str(whole))
            # 256 colours are plenty for a window, and a third of the bytes.
            small = [
                "convert",
                str(whole),
                "+dither",
                "-colors",
                "256",
                "-strip",
                f"PNG8:{self.out / name}.png",
            ]
            subprocess.run(small, check=True)
            whole.unlink()


def sentences_marked(app: App) -> bool:
    """Whether the list shows best sentences on a marker's ground, in the colours of day or night."""
    image = app.part("results")
    seen = colours(image, image.rect())
    # Those of weak matches are paler.
    marks = ((255, 226, 138), (112, 90, 20), (255, 248, 225), (45, 42, 29))
    return any(near(colour, mark, 4) for colour in seen for mark in marks)


def page_marked(app: App) -> bool:
    """Whether the page in the preview has a marked place in view."""
    if not app.see("pageView"):
        return False
    image = app.part("pageView")
    seen = colours(image, image.rect())
    return sum(n for colour, n in seen.items() if near(colour, MARKED)) > 60


def idle(client: IndexerClient) -> api.Status | None:
    """The service's status once it has nothing left to do."""
    status = client.status()
    return status if status.state == "watching" and not status.waiting and status.files else None


def sample(visit: Visit, data: Path) -> None:
    """The sample library, from the first start to opening it again."""
    first_start(visit, data)
    again(visit, data)


def first_start(visit: Visit, data: Path) -> None:
    """From an empty library to the sample's answers."""
    say, desk = visit.say, visit.desk
    with visit.open(data) as app:
        say(f"usable {app.usable_s:.2f} s after the process began (first start: no library, no service)")
        until("the welcome", lambda: app.see("trySample"), 60)
        visit.keep(app, "first-start")
        app.click("trySample")
        with IndexerClient(data, start=False) as client:
            began = time.monotonic()
            until("files being read", lambda: client.status().done > 12, 60)
            visit.keep(app, "indexing")
            say(f"  while indexing the strip says: {app.text('statusText')}")
            app.write("how do I stop the coffee machine from clogging up")
            until("an answer meanwhile", lambda: app.see("results").get("rows"))
            say(f"  a search meanwhile: {app.text('resultsSummary')}")
            app.press("Escape")
            status = until("the sample read", lambda: idle(client), 300)
            say(f"  {status.files} files read in {time.monotonic() - began:.0f} s")
            assert [folder.path for folder in client.folders()] == [str(desk.sample)]
            assert status.failed == 0
            until("the strip at rest", lambda: "Up to date" in app.text("statusText"))
            say(f"  longest stall of the event loop: {app.stall()}")
            visit.keep(app, "ready")
            questions(visit, app)
            asking(visit, app)
            library(visit, app, client)
        say(f"quit in {app.close():.2f} s")


def questions(visit: Visit, app: App) -> None:
    """One question for each kind of preview."""
    app.search(GAS)
    app.select("boiler-manual.pdf", 5)
    label = until("the page's number", lambda: app.text("pageLabel"))
    if label.split()[0] != "6":
        raise WrongError(f"gas is on page 6; the preview stands at “{label}”")
    until("the passage marked on the page", lambda: page_marked(app))
    until("the best sentences marked", lambda: sentences_marked(app))
    visit.keep(app, "pdf")
    app.search("measure how sharp a photo is")
    app.select("photo_sort.py")
    code = until("the code", lambda: app.see("codeView"))
    if not any("sharpness" in line for line in code["selected"]):
        raise WrongError(f"the code is not at the function: {code['selected'][:3]}")
    lines = code["text"].splitlines()
    there = next(number for number, line in enumerate(lines) if "def sharpness" in line)
    first, last = code["at"]
    if not first <= there < last:
        raise WrongError(f"line {there} is not in view, which is {first} to {last}")
    until("the code in colours", lambda: coloured(app))
    visit.keep(app, "code")
    app.search("how long must the dough rest overnight")
    app.select("sauerteigbrot.md")
    reading = until("the Markdown", lambda: app.see("textView"))
    until("the best sentence marked", lambda: len(app.see("textView")["selected"]) == 2)
    if "#" in reading["text"][:3]:
        raise WrongError("the Markdown is not rendered")
    height = reading["rect"][3]
    if not any(0 <= y < height for _, y in reading["at"]):
        raise WrongError(f"the passage is not in view: {reading['at']} of {height}")
    visit.keep(app, "markdown")
    visit.say(f"  longest stall of the event loop while searching: {app.stall()}")


def coloured(app: App) -> bool:
    """Whether source code shows its keywords and strings in colours."""
    image = app.part("codeView")
    seen = colours(image, image.rect(), 1)
    wanted = ((139, 47, 143), (34, 107, 46), (29, 79, 156))
    return all(any(near(colour, want, 6) for colour in seen) for want in wanted)


LETTER = """Dear neighbour,

while you were away the display of your heating showed an error. I looked into the cellar: the needle of
the gauge stood at half a bar. I have not touched the valves, since I do not know how much water it takes.
"""


@contextlib.contextmanager
def a_copy(desk: Desk, data: Path) -> Iterator[None]:
    """A second folder in the library for a while, with a copy of one of the sample's notes."""
    folder = desk.home / "Documents" / "Kitchen"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(desk.sample / "notes" / "kaffeemaschine-entkalken.md", folder / "Kaffeemaschine (2).md")
    with IndexerClient(data, start=False) as client:
        before = client.status().files
        client.add_folder(folder)
        until("the copy read", lambda: client.status().files == before + 1 and idle(client), 60)
        yield
        client.remove_folder(folder)
        until("the copy forgotten", lambda: client.status().files == before and idle(client), 60)


ASKED = {
    "en": ("cleaning filter coffee machine", "gas boiler warning", "soup"),
    "zh_CN": ("咖啡机除垢 滤芯", GAS, "汤"),
}


def asking(visit: Visit, app: App, language: str = "en", suffix: str = "") -> None:
    """Everything the search line can do beside asking: filters, reasons, weak matches, a pasted letter."""
    coffee, boiler, soup = ASKED[language]

    def keep(name: str, *, over: bool = False) -> None:
        if app.scale == 1 or name in ("results", "why"):
            visit.keep(app, f"{name}{suffix}", over=over)

    with a_copy(visit.desk, app.data):
        app.search(coffee)
        app.select("affeemaschine", 3)
        until("the best sentences marked", lambda: sentences_marked(app))
        shown = len(app.see("results")["rows"])
        app.press("Right")
        until("the copy below its file", lambda: len(app.see("results")["rows"]) > shown)
        keep("results")
    app.search(boiler)
    app.select("boiler-manual.pdf", 3)
    until("the best sentences marked", lambda: sentences_marked(app))
    app.press("ctrl+i")
    until("the reasons", lambda: app.see("whyPopup"))
    values = [widget["text"] for widget in app.every("whyValue") if widget["visible"]]
    visit.say(f"  why: {values}")
    keep("why", over=True)
    app.press("Escape")
    until("the reasons gone", lambda: not app.see("whyPopup"))
    if app.see("showWeak"):
        app.click("showWeak")
    until("the weaker matches", lambda: len(app.see("results")["rows"]) > 5)
    keep("weaker")
    app.search("zxqv blorf wug")
    until("that nothing is close", lambda: app.see("nothingClose"))
    until("the best sentences marked", lambda: sentences_marked(app))
    until("the nearest in the preview", lambda: "pdf" not in app.text("previewTitle") or page_marked(app))
    keep("nothing-close")
    app.write(f"{soup} lang:")
    listed = until("the completions", lambda: app.see("completions").get("rows"))
    if not any(row.startswith("zh") and row.split(", ")[-1][0].isdigit() for row in listed):
        raise WrongError(f"no Chinese among the completions, or not counted: {listed}")
    visit.say(f"  completions: {listed}")
    keep("completions")
    app.press("Escape")
    app.write(f"{soup} lang:xx ")
    until("what was not understood", lambda: "xx" in app.text("queryProblems"))
    said = app.text("queryProblems")
    visit.say(f"  said of lang:xx: {said}")
    keep("not-understood")
    app.press("Escape")
    app.ask(f"clipboard {json.dumps(LETTER)}")
    app.press("ctrl+l", "ctrl+v")
    chip = until("the chip", lambda: app.text("likeChip"))
    until("what the letter is like", lambda: "boiler-manual" in str(app.see("results").get("rows")))
    visit.say(f"  pasted: {chip}")
    until("the best sentences marked", lambda: sentences_marked(app))
    keep("pasted")
    app.press("Escape")
    until("the chip gone", lambda: not app.see("likeChip"))
    app.click("filtersButton")
    until("the filters", lambda: app.see("filterMenu"))
    keep("filters", over=True)
    app.press("Down", "Return")
    until("the filter in the query", lambda: app.text("searchField") == "ext:pdf ")
    until("both PDFs", lambda: len(app.see("results").get("rows", [])) == 2)
    until("a page of the first", lambda: app.see("pageView"))
    keep("filtered")
    app.search("reset key of the boiler")
    app.select("boiler-manual.pdf", 3)
    app.press("ctrl+shift+m")
    until("similar passages", lambda: app.text("likeChip"))
    app.press("alt+Left")
    until("the question again", lambda: app.text("searchField") == "reset key of the boiler")
    app.press("Escape")
    visit.say(f"  longest stall of the event loop while asking: {app.stall()}")


def library(visit: Visit, app: App, client: IndexerClient) -> None:
    """The dialog: folders, a broken file, removing with a question."""
    desk = visit.desk
    broken = desk.home / "Documents" / "Scans"
    broken.mkdir(parents=True)
    whole = (desk.sample / "manuals" / "boiler-manual.pdf").read_bytes()
    (broken / "contract.pdf").write_bytes(whole[: len(whole) // 3])
    (broken / "empty.pdf").write_bytes(b"")
    (broken / "list.txt").write_text("Milk, bread, a new lamp for the cellar.\n", encoding="utf-8")
    app.press("ctrl+comma")
    dialog = until("the library dialog", lambda: app.see("libraryDialog"))
    until("the sample's card", lambda: app.see("removeFolder"))
    app.click("addFolder")
    until("the folder dialog", lambda: app.see("fileNameEdit"))
    desk.xdo("type", "--delay", 20, str(broken))
    until("the folder's name typed", lambda: app.text("fileNameEdit") == str(broken))
    app.press("Return")
    until("the folder in the library", lambda: len(client.folders()) == 2)
    until("the broken file noticed", lambda: client.problems().total >= 1, 60)
    until("the library at rest", lambda: idle(client), 60)
    until("both folders at rest on their cards", lambda: settled(app))
    until("the broken file told", lambda: "1 problem" in app.text("problemsButton"))
    visit.keep(app, "library", dialog["window"])
    app.press("ctrl+Tab")
    rows = until("the problems", lambda: app.see("problems").get("rows"))
    if not any("contract.pdf" in row for row in rows):
        raise WrongError(f"the broken file is not in the list: {rows}")
    app.click("problems")  # into the list; the arrow takes the first row
    app.press("Home")
    detail = until("what is wrong, in words", lambda: app.text("problemDetail"))
    visit.say(f"  problems: {rows}; {detail!r}")
    visit.keep(app, "problems", dialog["window"])
    app.press("ctrl+shift+Tab")
    until("the folders again", lambda: app.see("addFolder"))
    number = [folder.path for folder in client.folders()].index(str(broken))
    app.click("removeFolder", number)
    question = until("the question", lambda: app.see("removeQuestion"))
    visit.keep(app, "remove", question["window"])
    app.press("Return")
    until("the question gone", lambda: not app.see("removeQuestion"))
    if len(client.folders()) != 2:
        raise WrongError("Return alone removed a folder")
    app.click("removeFolder", number)
    app.click("confirmRemove")
    until("one folder", lambda: [folder.path for folder in client.folders()] == [str(desk.sample)])
    until("one card", lambda: len([w for w in app.every("removeFolder") if w["visible"]]) == 1)
    if not (broken / "list.txt").exists():
        raise WrongError("removing a folder from the library touched its files")
    app.press("Escape")
    until("the dialog gone", lambda: not app.see("libraryDialog"))


def settled(app: App) -> bool:
    """Whether the cards of the library show two folders that were read."""
    names = [card["name"] for card in app.every("card") if card["visible"] and card["name"]]
    return len(names) == 2 and all("live" in name and "waiting" not in name for name in names)


def again(visit: Visit, data: Path) -> None:
    """Opened again: at once, and in other clothes."""
    clothes = (
        ("zh_CN", 1, "dark", "pdf-dark-zh"),
        ("en", 2, "light", "pdf-2x"),
        ("en", 2, "dark", "pdf-dark-2x"),
    )
    for language, scale, scheme, name in clothes:
        with visit.open(data, language=language, scale=scale, scheme=scheme) as app:
            visit.say(f"usable {app.usable_s:.2f} s after the process began ({name}; the service runs)")
            app.search(GAS)
            app.select("boiler-manual.pdf", 5)
            until("the passage marked on the page", lambda: page_marked(app))
            until("the best sentences marked", lambda: sentences_marked(app))
            visit.keep(app, name)
            asking(visit, app, language, name.removeprefix("pdf"))
            visit.say(f"  longest stall of the event loop: {app.stall()}; quit in {app.close():.2f} s")


def real_documents(visit: Visit, data: Path, folder: Path) -> None:
    """A Chinese question on the Debian Reference, whose answer is in the English PDF only."""
    library = shutil.copytree(folder, visit.desk.home / "Documents" / "Debian")
    with visit.open(data) as app:
        until("the welcome", lambda: app.see("trySample"), 60)
        with IndexerClient(data, start=False) as client:
            began = time.monotonic()
            client.add_folder(library)
            for done in (5, 30):
                until("files being read", lambda n=done: client.status().done > n, 300)  # type: ignore[misc]
                visit.say(f"  the strip says: {app.text('statusText')}")
            app.write("how to read the log of the system")
            until("an answer meanwhile", lambda: app.see("results").get("rows"))
            visit.say(f"  a search meanwhile: {app.text('resultsSummary')}")
            status = until("everything read", lambda: idle(client), 900)
            visit.say(f"real documents: {status.files} files, {status.chunks} passages")
            visit.say(f"  read in {time.monotonic() - began:.0f} s; longest stall {app.stall()}")
        question = next(
            q for q in corpus.questions() if q.query == "装了好几个编辑器，怎样选择 vi 命令启动哪一个"
        )
        app.search(question.query)
        place = app.select("ch02.en.pdf")
        until("the passage marked on the page", lambda: page_marked(app))
        visit.say(
            f"  “{question.query}”: row {place + 1}, {app.text('pageLabel')}, {app.text('previewPlace')}"
        )
        visit.keep(app, "debian-reference")
        app.close()


def stop(data: Path) -> None:
    """End the service of a library."""
    if find_service(data) is not None:
        with IndexerClient(data, start=False) as client:
            client.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    parser.add_argument("--no-corpus", action="store_true", help="leave out the real documents")
    options = parser.parse_args()
    for tool in ("Xvfb", "xdotool", "import", "convert"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed")
    real = corpus.default_folder() / "mixed"
    with tempfile.TemporaryDirectory(prefix="dragoman-") as base, screen() as display:
        visit = Visit(Desk(Path(base), display), options.out and options.out.absolute())
        steps: list[tuple[Path, Callable[[Path], None]]] = [
            (Path(base) / "data", lambda data: sample(visit, data))
        ]
        if real.is_dir() and not options.no_corpus:
            steps.append((Path(base) / "real", lambda data: real_documents(visit, data, real)))
        for data, step in steps:
            try:
                step(data)
            except WrongError as error:
                print(f"WRONG: {error}", file=sys.stderr)
                return 1
            finally:
                stop(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
