"""How the window feels while files are indexed at full speed, measured inside the window.

``python -m tests.bench.stalls`` makes small files, opens the real window on a fresh library with the real
service and model, adds the folder, and plays a person who types, looks through the answers and opens the
library dialog. Indexing is paused now and then, so that what is measured under load and at rest is measured
side by side, in one run and on a library of the same size:

- how late a timer of 5 ms comes, which is how long the event loop was held up; for the longest such stalls
  how much of it the thread computed, how much it waited for a core (both from the kernel's ``schedstat``),
  and what it was doing (a second thread looks at its stack);
- from a key to the painted field;
- from a search to its answer, over the window's own connection.

Without a display windows are drawn into memory; under ``xvfb-run -a`` they go to an X server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec
import psutil

from indexer.client import ENDPOINT_FILE

EVERY_MS = 5
LATE_MS = 20.0  # from then on the watchdog looks what is going on
STALL_MS = 50.0
LONGEST = 8
DEPTH = 6
INDEXING_S, PAUSED_S, SETTLE_S, IDLE_S = 9.0, 6.0, 1.5, 12.0
PROBE_MS = 400
KEY_MS = (40, 160)
QUERIES = (
    "how to keep the heat pump running",
    "猫什么时候打疫苗",
    "wann fährt der Zug nach Wien",
    "function that sorts photos by date",
    "contract notice period",
    "recette avec des tomates",
)
_SENTENCES = (
    "The {a} was moved behind the {b} before the first snow came.",
    "Ask the {a} whether the {b} may stay open after nine.",
    "Der {a} liegt neben dem {b}, wie immer im Herbst.",
    "Bitte den {a} bis Freitag mit dem {b} vergleichen.",
    "Le {a} reste dans le {b} jusqu'au printemps.",
    "{a}放在{b}的旁边, 明天再看。",
    "def {a}_of(values):\n    return [v.{b} for v in values]",
    "# {a}\n\nWe bought a new {b} and kept the receipt.",
)
_SUFFIXES = (".md", ".txt", ".txt", ".md", ".txt", ".txt", ".py", ".md")


def make_files(folder: Path, number: int) -> None:
    """Small files, no two with the same text, in folders of a hundred."""
    chance = random.Random(5)
    letters = "bdfgklmnprstv"

    def word() -> str:
        return "".join(chance.choice(letters) + chance.choice("aeiou") for _ in range(chance.randint(2, 4)))

    for n in range(number):
        kind = n % len(_SENTENCES)
        place = folder / f"{n // 100:03d}"
        place.mkdir(parents=True, exist_ok=True)
        text = _SENTENCES[kind].format(a=word(), b=word())
        (place / f"{word()}-{n}{_SUFFIXES[kind]}").write_text(f"{text}\n", encoding="utf-8")


# --- what is measured ---------------------------------------------------------------------------


class Stall(NamedTuple):
    """One time that the event loop was held up; milliseconds."""

    phase: str
    late: float
    computed: float
    queued: float  # ready to go, but other programs had the cores
    stack: str

    @property
    def own(self) -> float:
        """What is left without the time that others had the cores."""
        return max(0.0, self.late - self.queued)


@dataclass
class Figures:
    """Everything measured in the window, by phase."""

    ticks: dict[str, list[float]] = field(default_factory=dict)
    own: dict[str, list[float]] = field(default_factory=dict)
    keys: dict[str, list[float]] = field(default_factory=dict)
    search: dict[str, list[float]] = field(default_factory=dict)
    encode: dict[str, list[float]] = field(default_factory=dict)
    shown: dict[str, list[float]] = field(default_factory=dict)
    stalls: list[Stall] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)
    cores: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


class _Kernel:
    """What the kernel says of this thread: nanoseconds it ran, and waited for a core."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        if path.exists():
            self._file = path.open(encoding="ascii")

    def read(self) -> tuple[int, int]:
        """Both; without such a kernel the first from the clock of the thread, the second 0."""
        if self._file is None:
            return time.thread_time_ns(), 0
        self._file.seek(0)
        ran, queued, _ = self._file.read().split()
        return int(ran), int(queued)


class Watchdog(threading.Thread):
    """Looks at the stack of the window's thread when the event loop is late."""

    def __init__(self) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._of = threading.get_ident()
        self._beat = time.perf_counter()
        self._seen: Counter[str] = Counter()
        self._end = threading.Event()

    def beat(self) -> str:
        """The event loop is alive; what it was seen doing since the last beat, most often seen first."""
        self._beat = time.perf_counter()
        seen, self._seen = self._seen, Counter()
        return seen.most_common(1)[0][0] if seen else ""

    def run(self) -> None:
        """Look every few milliseconds."""
        while not self._end.wait(EVERY_MS / 1e3):
            if (time.perf_counter() - self._beat) * 1e3 < LATE_MS:
                continue
            frame = sys._current_frames().get(self._of)
            stack: list[str] = []
            while frame is not None and len(stack) < DEPTH:
                code = frame.f_code
                stack.append(f"{Path(code.co_filename).stem}:{frame.f_lineno} {code.co_name}")
                frame = frame.f_back
            del frame  # it would keep alive what the window is done with, such as a painter
            self._seen[" < ".join(stack)] += 1

    def end(self) -> None:
        """Stop looking."""
        self._end.set()


class _Cores(threading.Thread):
    """Who has the cores: seconds of computing a second, of the service with its children and of everybody."""

    def __init__(self, data_dir: Path, phase: Callable[[], str]) -> None:
        super().__init__(name="cores", daemon=True)
        self._data_dir, self._phase = data_dir, phase
        self.shares: dict[str, list[tuple[float, float]]] = {}
        self._end = threading.Event()

    def run(self) -> None:
        """Look every second."""
        ours = all_ = at = 0.0
        while not self._end.wait(1.0):
            before = ours, all_, at
            ours, all_, at = self._service(), _busy(), time.monotonic()
            if before[2] and ours >= before[0]:
                took = at - before[2]
                share = ((ours - before[0]) / took, (all_ - before[1]) / took)
                self.shares.setdefault(self._phase(), []).append(share)

    def _service(self) -> float:
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            stored = json.loads((self._data_dir / ENDPOINT_FILE).read_text(encoding="utf-8"))
            service = psutil.Process(stored["pid"])
            times = [process.cpu_times() for process in (service, *service.children(recursive=True))]
            return sum(t.user + t.system for t in times)
        return 0.0

    def end(self) -> None:
        """Stop looking."""
        self._end.set()


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


# --- the window ---------------------------------------------------------------------------------


def measure(folder: Path, data_dir: Path, number: int, limit_s: float, speed: str) -> Figures:
    """Open the window on a fresh library, index the folder and play a person meanwhile.

    Raises:
        RuntimeError: The files were not indexed in time.
    """
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    begun = time.perf_counter()
    from PySide6.QtCore import QEvent, QObject, Qt, QTimer
    from PySide6.QtGui import QKeyEvent
    from PySide6.QtWidgets import QApplication

    from desktop.app import build_window, log_to_file, make_application
    from indexer import api
    from indexer.client import IndexerClient

    figures = Figures()
    app = make_application(["dragoman"])
    log_to_file(data_dir)
    window = build_window(app, data_dir)
    window.show()
    kernel, dog = _Kernel(), Watchdog()
    state = {"phase": "start", "done": False, "failed": ""}

    def keep(where: dict[str, list[float]], value: float, phase: str = "") -> None:
        where.setdefault(phase or str(state["phase"]), []).append(value)

    last = [time.perf_counter(), *kernel.read()]

    def tick() -> None:
        now = time.perf_counter()
        ran, queued = kernel.read()
        late = (now - last[0]) * 1e3 - EVERY_MS
        stack = dog.beat()
        waited = (queued - last[2]) / 1e6
        keep(figures.ticks, max(0.0, late))
        keep(figures.own, max(0.0, late - waited))
        if late > LATE_MS:
            figures.stalls.append(
                Stall(
                    str(state["phase"]),
                    late,
                    (ran - last[1]) / 1e6,
                    waited,
                    stack or "(no look was possible)",
                )
            )
        last[:] = [now, ran, queued]

    beat = QTimer()
    beat.setTimerType(Qt.TimerType.PreciseTimer)
    beat.setInterval(EVERY_MS)
    beat.timeout.connect(tick)

    class Painted(QObject):
        """Notes when the field is painted after a key."""

        pressed = 0.0

        def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802  Qt calls it
            if event.type() == QEvent.Type.Paint and self.pressed:
                pressed, self.pressed = self.pressed, 0.0
                phase = str(state["phase"])
                # After the painting that this event asks for.
                QTimer.singleShot(0, lambda: keep(figures.keys, (time.perf_counter() - pressed) * 1e3, phase))
            return False

    painted = Painted()
    window.field.installEventFilter(painted)

    def press(key: Qt.Key, text: str = "") -> None:
        painted.pressed = time.perf_counter()
        for kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
            QApplication.postEvent(window.field, QKeyEvent(kind, key, Qt.KeyboardModifier.NoModifier, text))

    # What the person waits for: from the search that the window sends to the list.
    asked_at = [0.0]
    search, take = window._search, window._take_result

    def searching() -> None:
        asked_at[0] = time.perf_counter()
        search()

    def taking(reply: api.Reply) -> None:
        first = window._shown != window._asked
        take(reply)
        if first and window._shown == window._asked and asked_at[0]:
            keep(figures.shown, (time.perf_counter() - asked_at[0]) * 1e3)

    window._debounce.timeout.disconnect()
    window._debounce.timeout.connect(searching)
    window._take_result = taking  # type: ignore[method-assign]

    chance = random.Random(7)

    def person() -> Iterator[int]:
        """What a person does; milliseconds to wait are yielded."""
        while True:
            for n, query in enumerate(QUERIES):
                for letter in query:
                    press(Qt.Key.Key_unknown, letter)
                    yield chance.randint(*KEY_MS)
                yield 1500
                for _ in range(6):
                    QApplication.postEvent(
                        window.field,
                        QKeyEvent(QEvent.Type.KeyPress, Qt.Key.Key_Down, Qt.KeyboardModifier.NoModifier),
                    )
                    yield 250
                if n % 3 == 2:
                    window.show_library(n % 2)
                    yield 2000
                    if window._library is not None:
                        window._library.close()
                    yield 200
                window.field.clear()
                yield 400

    steps = person()
    stepper = QTimer()
    stepper.setSingleShot(True)
    stepper.timeout.connect(lambda: stepper.start(next(steps)))

    probes = iter(range(1 << 30))

    def probe() -> None:
        at, phase = time.perf_counter(), str(state["phase"])
        query = QUERIES[next(probes) % len(QUERIES)]

        def answered(reply: api.Reply) -> None:
            if isinstance(reply, api.SearchResult) and reply.final and phase == state["phase"]:
                keep(figures.search, (time.perf_counter() - at) * 1e3, phase)
                keep(figures.encode, reply.encode_ms, phase)

        message = api.Search(id=0, query=query, limit=20, channel="probe", mark=False)
        window._connection.request(message, answered, lambda _: None)

    prober = QTimer()
    prober.setInterval(PROBE_MS)
    prober.timeout.connect(probe)

    def settle(phase: str) -> None:
        state["phase"] = "between"
        QTimer.singleShot(round(SETTLE_S * 1e3), lambda: state.update(phase=phase))

    def turn() -> None:
        """Indexing and rest take turns."""
        if state["done"]:
            return
        pause = state["phase"] == "indexing"
        window._connection.request(api.SetPaused(id=0, paused=pause), lambda _: None)
        settle("paused" if pause else "indexing")
        QTimer.singleShot(round((PAUSED_S if pause else INDEXING_S) * 1e3), turn)

    added = [0.0]

    def begin() -> None:
        figures.notes["connected_s"] = time.perf_counter() - begun
        window._connection.request(api.GetSettings(id=0), set_speed)

    def set_speed(reply: api.Reply) -> None:
        assert isinstance(reply, api.SettingsReply)
        chosen = msgspec.structs.replace(reply.settings, speed=speed)
        window._connection.request(api.PutSettings(id=0, settings=chosen), add)

    def add(_: api.Reply) -> None:
        window.add_folder(str(folder))
        added[0] = time.perf_counter()

    def take_status(status: api.Status) -> None:
        if status.encoder.state == "failed":
            state["failed"] = status.encoder.message
            app.quit()
        if status.state == "indexing" and state["phase"] == "start" and status.tokens_per_s > 0:
            state["phase"] = "indexing"
            stepper.start(0)
            prober.start()
            QTimer.singleShot(round(INDEXING_S * 1e3), turn)
        if state["phase"] == "indexing":
            figures.tokens_per_s.append(status.tokens_per_s)
        if status.state == "watching" and status.files >= number and not state["done"]:
            state["done"] = True
            figures.notes["indexed_s"] = time.perf_counter() - added[0]
            settle("idle after")
            QTimer.singleShot(round((IDLE_S + SETTLE_S) * 1e3), app.quit)

    window._connection.ready.connect(begin)
    window._connection.status.connect(take_status)
    QTimer.singleShot(round(limit_s * 1e3), app.quit)
    cores = _Cores(data_dir, lambda: str(state["phase"]))
    cores.start()
    dog.start()
    beat.start()
    app.exec()
    for timer in (beat, stepper, prober):
        timer.stop()
    dog.end()
    cores.end()
    figures.cores = cores.shares
    window.close()
    with IndexerClient(data_dir, start=False, name="bench") as client:
        client.stop()
    if state["failed"]:
        raise RuntimeError(state["failed"])
    if not state["done"]:
        figures.notes["cut_off_after_s"] = limit_s
    return figures


# --- the start ----------------------------------------------------------------------------------


def measure_start(folder: Path, data_dir: Path, number: int, rounds: int) -> str:
    """From nothing running to a window that takes keys, and to the first answers by words and by meaning."""
    from indexer import api
    from indexer.client import IndexerClient
    from tests.bench.product import window_s

    with IndexerClient(data_dir, name="bench") as client:
        client.add_folder(folder)
    with IndexerClient(data_dir, name="bench") as client:
        for status in client.watch():
            if status.state == "watching" and status.files >= number:
                break
    with IndexerClient(data_dir, name="bench") as client:
        client.stop()
    found: dict[str, list[float]] = {"window takes keys": [], "first answer": [], "first by meaning": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        with IndexerClient(data_dir, name="bench") as client:
            request = api.Search(id=1 << 20, query="receipt behind the snow", mark=False)
            client._send(request)
            first = 0.0
            while True:
                message = client._receive()
                if isinstance(message, api.SearchResult):
                    now = time.perf_counter() - begun
                    first = first or now
                    # Releases before answers by words have one answer only.
                    if message.final:
                        break
            found["first answer"].append(first)
            found["first by meaning"].append(now)
            client.stop()
        found["window takes keys"].append(window_s(data_dir))
    lines = [
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {number} files; seconds, median of {rounds}"
    ]
    lines += [
        f"{what:20s} {statistics.median(v):5.2f}   ({min(v):.2f} to {max(v):.2f})"
        for what, v in found.items()
    ]
    return "\n".join(lines)


# --- telling ------------------------------------------------------------------------------------


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def report(figures: Figures) -> str:
    """The figures as text."""
    lines = []
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    lines.append(
        f"{os.cpu_count()} cores, load {load}; " + ", ".join(f"{k} {v:.1f}" for k, v in figures.notes.items())
    )
    if figures.tokens_per_s:
        lines.append(
            f"encoder while indexing: {statistics.median(figures.tokens_per_s):.0f} tokens/s (median)"
        )
    for phase, shares in figures.cores.items():
        ours, everybody = (statistics.mean(column) for column in zip(*shares, strict=True))
        lines.append(f"cores busy, {phase}: {ours:.2f} by the service, {everybody:.2f} in all")
    rows = (
        ("event loop late, ms", figures.ticks),
        ("  without waiting for a core", figures.own),
        ("key to paint, ms", figures.keys),
        ("search over the wire, ms", figures.search),
        ("  of it embedding", figures.encode),
        ("search to list in the window, ms", figures.shown),
    )
    for title, values in rows:
        for phase in ("start", "indexing", "paused", "idle after"):
            found = values.get(phase, [])
            if found:
                line = "  ".join(f"p{p} {_percentile(found, p / 100):7.1f}" for p in (50, 95, 99))
                lines.append(f"{title:34s} {phase:11s} n {len(found):6d}  {line}  max {max(found):7.1f}")
    rest = figures.search.get("paused", [])
    if rest and figures.search.get("indexing"):
        ratio = _percentile(figures.search["indexing"], 0.95) / _percentile(rest, 0.95)
        lines.append(f"search p95 while indexing / at rest: {ratio:.2f}")
    for title, key in (("by the clock", "late"), ("without waiting for a core", "own")):
        worst = sorted(figures.stalls, key=lambda stall: -getattr(stall, key))[:LONGEST]
        over = Counter(s.phase for s in figures.stalls if getattr(s, key) > STALL_MS)
        lines.append(f"stalls over {STALL_MS:.0f} ms {title}: {dict(over)}; the longest:")
        lines += [
            f"  {stall.phase:10s} late {stall.late:6.1f}  computed {stall.computed:6.1f}"
            f"  waited for a core {stall.queued:6.1f}  {stall.stack}"
            for stall in worst
        ]
    return "\n".join(lines)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="tests.bench.stalls", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds after which it is cut off")
    parser.add_argument("--speed", choices=("gentle", "balanced", "full"), default="full")
    parser.add_argument(
        "--start", type=int, default=0, metavar="ROUNDS", help="measure so many starts instead"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write every figure there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stalls-") as base:
        folder = Path(base) / "files"
        make_files(folder, options.files)
        if options.start:
            sys.stdout.write(measure_start(folder, Path(base) / "data", options.files, options.start) + "\n")
            return 0
        figures = measure(folder, Path(base) / "data", options.files, options.limit, options.speed)
    sys.stdout.write(report(figures) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, default=lambda value: value.__dict__), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
