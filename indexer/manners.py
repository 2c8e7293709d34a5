"""How much of the machine indexing may take now, and why that is less than the person chose.

A thread looks every few seconds at what costs next to nothing to look at: the battery, when somebody last
asked something, what other programs compute, the room on the disk. `decide` makes a `Pace` of it. Searches
are never slowed; whoever does work that nobody waits for asks for the pace and keeps to it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import psutil

from indexer.settings import Settings

_Result = TypeVar("_Result")

log = logging.getLogger(__name__)

Reason = Literal["", "battery", "active", "disk"]

EVERY_S = 3.0
# A person who asked something so long ago is still there.
ASKED_S = 15.0
# Share of all cores that other programs compute on: above the first they are given way to, until it has
# been below the second. Apart, so that what they gain when they are given way to does not end it again.
OTHERS_BEGIN, OTHERS_END = 0.30, 0.15
# Over about so many seconds the load of others is averaged, and so long they are given way to at least.
_SMOOTH_S = 6.0
_AT_LEAST_S = 15.0
# Charge below which even full speed gives way, and above which it does not any more.
WEAK, RECOVERED = 0.20, 0.25
# Room on the disk that is left to others, in bytes, as shares of the disk, and how much more there has to be
# before indexing goes on.
_RESERVE, _RESERVE_SHARE, _RESERVE_MOST = 1 << 30, 0.02, 5 << 30
_SMALL_DISK_SHARE = 0.1
_ROOM_AGAIN = 1.25
# From so many cores on, balanced speed leaves one of them alone.
_MANY_CORES = 4
# What the cores are divided by on battery and where others are busy.
_FEWER = {"gentle": 4, "balanced": 2, "full": 2}
# What extraction and the search index are given: behind everything that a person waits for.
NICENESS = 10


class Pace(NamedTuple):
    """How indexing works now.

    Attributes:
        threads: CPU threads of the encoder; 0 to leave them as they are.
        share: Part of the time, above 0 and up to 1, that the encoder may spend on passages nobody waits for.
        extractors: Most files that are read at once; 0 for as many as there are children.
        hold: Whether nothing new is begun.
        why: Why that is less than the settings say.
    """

    threads: int = 0
    share: float = 1.0
    extractors: int = 0
    hold: bool = False
    why: Reason = ""


class Facts(NamedTuple):
    """What is known of the machine.

    Attributes:
        at: When, on a clock that never goes back, in seconds.
        cores: That may be computed on; of one with two threads only one counts.
        charge: Of the battery, 0 to 1, while the machine lives on it; None with power from outside.
        asked_s: Seconds since a client last asked what a person waits for.
        others: Share of all cores that other programs computed on, of normal priority or above.
        free: Bytes free on the disk of the library; None when unknown.
        disk: Its size.
    """

    at: float = 0.0
    cores: int = 1
    charge: float | None = None
    asked_s: float = math.inf
    others: float = 0.0
    free: int | None = None
    disk: int = 0


class Mood(NamedTuple):
    """What is remembered from one decision to the next, so that they do not flap."""

    at: float = -math.inf
    load: float = 0.0
    crowded: bool = False
    crowded_until: float = -math.inf
    weak: bool = False
    full_disk: bool = False


def reserve(disk: int) -> int:
    """Bytes that are left free on a disk of `disk` bytes."""
    wanted = max(_RESERVE, min(int(disk * _RESERVE_SHARE), _RESERVE_MOST))
    return min(wanted, int(disk * _SMALL_DISK_SHARE))


def decide(settings: Settings, facts: Facts, before: Mood) -> tuple[Pace, Mood]:
    """How to work now; depends on nothing else.

    Args:
        settings: What the person chose; `speed` and `encoder_threads` count.
        facts: What is known now.
        before: The mood of the last decision; `Mood()` at first.
    """
    mood = _mood(facts, before)
    most = settings.encoder_threads or facts.cores
    easy = {
        "gentle": Pace(threads=max(1, facts.cores // 2), share=0.5, extractors=1),
        "balanced": Pace(threads=facts.cores - 1 if facts.cores >= _MANY_CORES else facts.cores),
        "full": Pace(threads=most),
    }
    pace = easy[settings.speed]
    why: Reason = ""
    if settings.speed == "full":
        on_battery, crowded, asked = mood.weak, False, False
    else:
        on_battery, crowded, asked = facts.charge is not None, mood.crowded, facts.asked_s < ASKED_S
    if on_battery or crowded or asked:
        why = "battery" if on_battery else "active"
        # Searches come and go. Changing the threads takes some engines a second, and a search itself is
        # over sooner with all of them, so for its sake there are only breaks.
        threads = max(1, facts.cores // _FEWER[settings.speed]) if on_battery or crowded else pace.threads
        pace = Pace(threads=threads, share=pace.share / 2, extractors=1)
    if mood.full_disk:
        why = "disk"
    return pace._replace(threads=min(pace.threads, most), hold=mood.full_disk, why=why), mood


def _mood(facts: Facts, before: Mood) -> Mood:
    newest = 1.0 if math.isinf(before.at) else 1.0 - math.exp(-max(0.0, facts.at - before.at) / _SMOOTH_S)
    if math.isinf(before.at):
        newest = 0.5  # one look says little
    load = before.load + newest * (facts.others - before.load)
    until = facts.at + _AT_LEAST_S if load >= OTHERS_BEGIN else before.crowded_until
    crowded = load >= OTHERS_BEGIN or (before.crowded and (load >= OTHERS_END or facts.at < until))
    weak = facts.charge is not None and facts.charge < (RECOVERED if before.weak else WEAK)
    full = False
    if facts.free is not None:
        full = facts.free < reserve(facts.disk) * (_ROOM_AGAIN if before.full_disk else 1.0)
    return Mood(facts.at, load, crowded, until, weak, full)


def cores() -> int:
    """Cores this process may compute on; of one with two threads only one counts."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def step_back(pid: int | None = None, niceness: int = NICENESS) -> None:
    """Give a process low priority for the processor and the disk, as far as the system knows such a thing.

    Not the idle class of the disk: on a busy one it gets nothing, and a file that is not read in time counts
    as one that cannot be.

    Args:
        pid: The process; None for this one.
        niceness: On POSIX, added to the priority number it has; 0 leaves its part of the processor alone.
    """
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        process = psutil.Process(pid)
        if sys.platform == "win32":
            if niceness:
                process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
            process.ionice(psutil.IOPRIO_LOW)
            return
        if niceness:
            process.nice(min(process.nice() + niceness, 19))
        if sys.platform == "linux":
            process.ionice(psutil.IOPRIO_CLASS_BE, 7)


class Courtesy:
    """Lets searches have Python to themselves: work that nobody waits for stops between two steps of it.

    Each of a search's many steps would otherwise have to win Python's lock from threads that compute, and
    wait up to 5 ms for it. May be used from any thread.
    """

    def __init__(self, most_s: float = 0.05) -> None:
        """Nobody waits yet.

        Args:
            most_s: Longest stop, so that work goes on beside searches that never end.
        """
        self._most_s = most_s
        self._lock = threading.Lock()
        self._waiting = 0
        self._calm = threading.Event()
        self._calm.set()

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """A person waits while this lasts."""
        with self._lock:
            self._waiting += 1
            self._calm.clear()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    self._calm.set()

    def give_way(self) -> None:
        """Wait while a person does, but not long; costs nothing otherwise."""
        if not self._calm.is_set():
            self._calm.wait(self._most_s)


COURTESY = Courtesy()
"""One for all threads, since they share one lock."""


def stepped_back(work: Callable[[], _Result]) -> _Result:
    """What `work` returns, done in a thread of low priority, from which those that it starts have theirs.

    On Linux, where threads have priorities of their own; elsewhere it is just done in another thread.
    """

    def lower() -> None:
        if sys.platform == "linux":
            here = threading.get_native_id()
            with contextlib.suppress(OSError):
                niceness = os.getpriority(os.PRIO_PROCESS, here) + NICENESS
                os.setpriority(os.PRIO_PROCESS, here, min(niceness, 19))

    with ThreadPoolExecutor(1, "stepped-back", lower) as pool:
        return pool.submit(work).result()


class _Others:
    """What other programs compute, from one look to the next.

    Those of low priority, threads and children of ours among them, are counted apart by the system where it
    knows of it, and are nobody to give way to.
    """

    def __init__(self) -> None:
        self._before: tuple[float, float, dict[int, float], dict[int, float]] | None = None

    def share(self, at: float, cores: int) -> float:
        """Share of all cores since the last look; 0 at the first."""
        everybody, own = psutil.cpu_times(), os.times()
        used = everybody.user + everybody.system - own.user - own.system
        children, low = _children_s(), _low_s()
        before, self._before = self._before, (at, used, children, low)
        if before is None or at <= before[0]:
            return 0.0
        ours = _since(before[2], children)
        # What is not among everybody's time of normal priority must not be taken from it.
        ours -= _since(before[3], low)
        return min(1.0, max(0.0, (used - before[1] - ours) / (at - before[0]) / cores))


def _since(before: dict[int, float], now: dict[int, float]) -> float:
    return sum(max(0.0, seconds - before.get(one, 0.0)) for one, seconds in now.items())


def _low_s() -> dict[int, float]:
    """Processor time of each thread here that has low priority, without what the system did for it."""
    found: dict[int, float] = {}
    if sys.platform != "linux":
        return found
    tick = os.sysconf("SC_CLK_TCK")
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208  numbers, every few seconds
        with contextlib.suppress(OSError, ValueError, IndexError):
            if os.getpriority(os.PRIO_PROCESS, int(task)) > 0:
                # See proc_pid_stat(5): the name, in parentheses, may hold anything.
                fields = Path(f"/proc/self/task/{task}/stat").read_text(errors="replace").rpartition(")")[2]
                found[int(task)] = int(fields.split()[11]) / tick
    return found


def _children_s() -> dict[int, float]:
    """Processor time of each child as far as it is counted among that of normal priority."""
    found: dict[int, float] = {}
    for pid in _children():
        with contextlib.suppress(psutil.Error, OSError):
            child = psutil.Process(pid)
            times = child.cpu_times()
            low = sys.platform != "win32" and child.nice() > 0
            found[pid] = times.system + (0.0 if low else times.user)
    return found


def _children() -> list[int]:
    try:
        # A tenth of what psutil needs, which reads of every process whose child it is.
        lists = [(task / "children").read_text() for task in Path("/proc/self/task").iterdir()]
    except OSError:
        return [child.pid for child in psutil.Process().children()]
    return [int(pid) for pids in lists for pid in pids.split()]


class Governor:
    """Looks at the machine and says how to work; all methods may be called from any thread.

    Args:
        settings: The settings that hold now.
        folder: On the disk whose room counts.
        changed: Called in the governor's thread with each new pace.
        look: Gathers the facts, given the seconds since somebody asked; None for the real ones.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        folder: Path,
        *,
        changed: Callable[[Pace], None] = lambda _: None,
        look: Callable[[float], Facts] | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._changed = changed
        self._look = look or self._gather
        self._every_s = every_s
        self._others = _Others()
        self._cores, self._logical = cores(), psutil.cpu_count() or 1
        self._asked_at = -math.inf
        self._wake = threading.Event()
        self._stopping = self._blind = False
        self._mood = Mood()
        self._pace = Pace()
        self._deciding = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="manners", daemon=True)

    def start(self) -> None:
        """Decide once, and begin to look; may be called again."""
        self._decide()
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End the thread; the pace stays as it is."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def pace(self) -> Pace:
        """How to work now."""
        return self._pace

    def asked(self) -> None:
        """Somebody asked what a person waits for."""
        away = time.monotonic() - self._asked_at > ASKED_S
        self._asked_at = time.monotonic()
        if away:
            self._wake.set()

    def look_again(self) -> None:
        """Decide at once, as settings changed; the new pace holds when this returns."""
        self._decide()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._every_s)
            self._wake.clear()
            if not self._stopping:
                self._decide()

    def _decide(self) -> None:
        with self._deciding:
            try:
                facts = self._look(time.monotonic() - self._asked_at)
            except Exception:
                # Not every system shows everything; indexing goes on as it did.
                if not self._blind:
                    log.exception("The machine cannot be looked at")
                self._blind = True
                return
            self._blind = False
            pace, self._mood = decide(self._settings(), facts, self._mood)
            if pace == self._pace:
                return
            if pace.why != self._pace.why:
                log.info("Indexing is slowed by: %s", pace.why or "nothing")
            self._pace = pace
            self._changed(pace)

    def _gather(self, asked_s: float) -> Facts:
        at = time.monotonic()
        free, disk = None, 0
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(self._folder)
            free, disk = usage.free, usage.total
        return Facts(
            at=at,
            cores=self._cores,
            charge=_charge(),
            asked_s=asked_s,
            others=self._others.share(at, self._logical),
            free=free,
            disk=disk,
        )


def _charge() -> float | None:
    """Charge of the battery while the machine lives on it, 0 to 1."""
    if not hasattr(psutil, "sensors_battery"):
        return None
    try:
        battery = psutil.sensors_battery()
    except (psutil.Error, OSError, ValueError, RuntimeError):  # what a driver says may make no sense
        return None
    if battery is None or battery.power_plugged is not False:
        return None
    return float(battery.percent) / 100
