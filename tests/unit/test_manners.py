"""What is decided from what is known of the machine, and when it is looked at again."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import manners
from indexer.manners import Facts, Governor, Mood, Pace, Reason, decide, reserve, step_back
from indexer.settings import Settings

LIMIT = 30.0
GIB = 1 << 30
FULL, BALANCED, GENTLE = (Settings(speed=speed) for speed in ("full", "balanced", "gentle"))
QUIET = Facts(cores=8, free=100 * GIB, disk=500 * GIB)


def paces(settings: Settings, *facts: Facts) -> list[Pace]:
    """One decision after the other, three seconds apart."""
    mood, found = Mood(), []
    for n, fact in enumerate(facts):
        pace, mood = decide(settings, fact._replace(at=3.0 * n), mood)
        found.append(pace)
    return found


def pace(settings: Settings, facts: Facts = QUIET) -> Pace:
    return paces(settings, facts)[0]


def test_each_speed_takes_its_part_of_a_quiet_machine() -> None:
    assert pace(FULL) == Pace(threads=8)
    assert pace(BALANCED) == Pace(threads=7)
    assert pace(GENTLE) == Pace(threads=4, share=0.5, extractors=1)
    assert pace(BALANCED, QUIET._replace(cores=2)) == Pace(threads=2)
    assert pace(GENTLE, QUIET._replace(cores=1)).threads == 1


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ([QUIET._replace(charge=0.9)], "battery"),
        ([QUIET._replace(others=0.7)] * 5, "active"),
        ([QUIET._replace(charge=0.9, asked_s=2.0)], "battery"),
    ],
)
def test_others_and_the_battery_come_first(facts: list[Facts], why: Reason) -> None:
    assert paces(BALANCED, *facts)[-1] == Pace(threads=4, share=0.5, extractors=1, why=why)
    assert paces(GENTLE, *facts)[-1] == Pace(threads=2, share=0.25, extractors=1, why=why)
    assert paces(FULL, *facts)[-1] == Pace(threads=8)


def test_for_a_search_there_are_breaks_and_no_other_threads() -> None:
    asked = QUIET._replace(asked_s=2.0)
    assert pace(BALANCED, asked) == Pace(threads=7, share=0.5, extractors=1, why="active")
    assert pace(GENTLE, asked) == Pace(threads=4, share=0.25, extractors=1, why="active")
    assert pace(FULL, asked) == Pace(threads=8)


def test_full_speed_does_not_empty_the_battery() -> None:
    low = QUIET._replace(charge=0.19)
    assert pace(FULL, low) == Pace(threads=4, share=0.5, extractors=1, why="battery")
    found = paces(FULL, low, low._replace(charge=0.22), low._replace(charge=0.26), QUIET)
    assert [p.why for p in found] == ["battery", "battery", "", ""]


def test_threads_a_person_set_are_never_exceeded() -> None:
    assert pace(msgspec.structs.replace(FULL, encoder_threads=3)).threads == 3
    assert pace(msgspec.structs.replace(BALANCED, encoder_threads=3)).threads == 3
    assert pace(msgspec.structs.replace(FULL, encoder_threads=16)).threads == 16
    assert pace(msgspec.structs.replace(GENTLE, encoder_threads=3)).threads == 3


def test_a_moment_of_load_slows_nothing_and_a_lasting_one_does_without_flapping() -> None:
    def whys(*loads: float) -> str:
        found = paces(BALANCED, *(QUIET._replace(others=load) for load in loads))
        return "".join("a" if p.why else "-" for p in found)

    assert whys(0.5, 0, 0, 0) == "----"
    lasting = whys(*[0.0] * 3, *[0.6] * 5, *[0.2] * 10, *[0.0] * 8)
    assert lasting.lstrip("-").startswith("aaaa")
    # What is between the two thresholds changes nothing, and it changes once each way.
    assert lasting[8:18] == "a" * 10
    assert lasting.endswith("-")
    assert lasting.rstrip("-").lstrip("-") == "a" * lasting.count("a")
    # Loads to and fro across a threshold: given way to for a while at least.
    swings = whys(*[0.0, 0.6] * 20)
    assert swings.count("-a") + swings.count("a-") <= 4


def test_too_little_room_holds_until_there_is_clearly_enough() -> None:
    left = reserve(QUIET.disk)
    rooms = (left + 1, left - 1, left + 1, int(left * 1.2), int(left * 1.3), left + 1)
    found = paces(BALANCED, *(QUIET._replace(free=room) for room in rooms))
    assert [p.hold for p in found] == [False, True, True, True, False, False]
    assert [p.why for p in found] == ["", "disk", "disk", "disk", "", ""]
    assert pace(FULL, QUIET._replace(free=0)).hold
    assert not pace(FULL, QUIET._replace(free=None)).hold


def test_the_reserve_fits_the_disk() -> None:
    assert reserve(20 * GIB) == GIB
    assert reserve(100 * GIB) == 2 * GIB
    assert reserve(4000 * GIB) == 5 * GIB
    assert reserve(GIB) == GIB // 10


def some_facts() -> st.SearchStrategy[Facts]:
    return st.builds(
        Facts,
        cores=st.integers(1, 64),
        charge=st.none() | st.floats(0, 1),
        asked_s=st.floats(0, 1000) | st.just(math.inf),
        others=st.floats(0, 1),
        free=st.none() | st.integers(0, 1000 * GIB),
        disk=st.integers(0, 1000 * GIB),
    )


@given(
    st.lists(some_facts(), min_size=1, max_size=20),
    st.sampled_from(["gentle", "balanced", "full"]),
    st.integers(0, 64),
)
def test_every_decision_can_be_kept(
    facts: list[Facts], speed: Literal["gentle", "balanced", "full"], threads: int
) -> None:
    for one in paces(Settings(speed=speed, encoder_threads=threads), *facts):
        assert one.threads >= 1
        assert not threads or one.threads <= threads
        assert 0 < one.share <= 1
        assert one.hold == (one.why == "disk")


class Machine:
    """Facts as the test wants them, and what the governor made of them."""

    def __init__(self) -> None:
        self.facts = QUIET
        self.settings = BALANCED
        self.paces: list[Pace] = []
        self.told = threading.Condition()

    def look(self, asked_s: float) -> Facts:
        return self.facts._replace(asked_s=asked_s)

    def changed(self, pace: Pace) -> None:
        with self.told:
            self.paces.append(pace)
            self.told.notify_all()

    def until(self, why: str) -> None:
        with self.told:
            assert self.told.wait_for(lambda: bool(self.paces) and self.paces[-1].why == why, LIMIT)


def test_the_governor_looks_again_and_tells(tmp_path: Path) -> None:
    machine = Machine()
    governor = Governor(
        lambda: machine.settings, tmp_path, changed=machine.changed, look=machine.look, every_s=0.01
    )
    governor.start()
    assert governor.pace == Pace(threads=7)
    machine.facts = QUIET._replace(free=0)
    machine.until("disk")
    machine.facts = QUIET
    machine.until("")
    governor.stop()
    # Nothing is told where nothing changed.
    assert [p.why for p in machine.paces] == ["", "disk", ""]


def test_a_question_is_noticed_at_once_and_so_are_settings(tmp_path: Path) -> None:
    machine = Machine()
    governor = Governor(
        lambda: machine.settings, tmp_path, changed=machine.changed, look=machine.look, every_s=3600
    )
    governor.start()
    governor.asked()
    machine.until("active")
    machine.settings = FULL
    governor.look_again()
    assert governor.pace == Pace(threads=8)
    governor.stop()


def test_what_our_own_children_compute_is_nobody_elses() -> None:
    burn = "import os\nwhile sum(os.times()[:2]) < 0.3: pass\nprint(flush=True); input()"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", f"import os; os.nice({nice})\n{burn}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for nice in (0, 5)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        counted = manners._children_s()
        busy, low = (psutil.Process(child.pid).cpu_times() for child in children)
        if psutil.Process().nice() <= 0:  # else these tests themselves have low priority, and so have both
            assert counted[children[0].pid] == pytest.approx(busy.user + busy.system)
        assert counted[children[1].pid] == pytest.approx(low.system)
        assert low.user > 0
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_a_machine_that_shows_nothing_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def look(asked_s: float) -> Facts:
        raise OSError("no /proc here")

    blind = Governor(Settings, tmp_path, look=look)
    for _ in range(3):
        blind.look_again()
    assert blind.pace == Pace()
    assert len([r for r in caplog.records if "cannot be looked at" in r.message]) == 1


def test_the_real_machine_can_be_looked_at(tmp_path: Path) -> None:
    governor = Governor(Settings, tmp_path)
    governor.look_again()
    governor.look_again()
    facts = governor._look(math.inf)
    assert 1 <= facts.cores <= (os.cpu_count() or 1)
    assert 0 <= facts.others <= 1
    assert facts.free is not None
    assert facts.free <= facts.disk
    assert facts.charge is None or 0 <= facts.charge <= 1


@pytest.mark.parametrize("plugged", [True, None])
def test_without_a_battery_in_use_there_is_no_charge(
    plugged: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Battery:
        percent, power_plugged = 40.0, plugged

    monkeypatch.setattr(psutil, "sensors_battery", lambda: Battery, raising=False)
    assert manners._charge() is None
    Battery.power_plugged = False
    assert manners._charge() == 0.4
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert manners._charge() is None


def test_a_process_that_steps_back_has_low_priority_for_processor_and_disk() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        process = psutil.Process(child.pid)
        before = process.nice()
        step_back(child.pid)
        if sys.platform != "win32":
            assert process.nice() == min(before + manners.NICENESS, 19)
        if sys.platform == "linux":
            assert process.ionice() == (psutil.IOPRIO_CLASS_BE, 7)
    finally:
        child.kill()
        child.communicate()
    step_back(child.pid)  # one that has ended is no error


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_of_low_priority_are_ours_and_nobody_to_give_way_to() -> None:
    here = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, here)
    ended = threading.Event()
    started = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            sum(range(1000))
            started.set()

    def start() -> threading.Thread:
        thread = threading.Thread(target=spin)
        thread.start()
        return thread

    thread = manners.stepped_back(start)
    try:
        assert thread.native_id is not None
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(before + manners.NICENESS, 19)
        assert os.getpriority(os.PRIO_PROCESS, here) == before
        assert started.wait(LIMIT)
        assert thread.native_id in manners._low_s()
    finally:
        ended.set()
        thread.join()
    with pytest.raises(ZeroDivisionError):
        manners.stepped_back(lambda: 1 / 0)


def test_what_threads_of_low_priority_compute_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Times:
        def __init__(self, user: float) -> None:
            self.user, self.system = user, 0.0

    state = {"everybody": 0.0, "own": 0.0, "low": 0.0, "child": 0.0}
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(state["everybody"]))
    monkeypatch.setattr(os, "times", lambda: Times(state["own"]))
    monkeypatch.setattr(manners, "_low_s", lambda: {7: state["low"]})
    monkeypatch.setattr(manners, "_children_s", lambda: {9: state["child"]})
    others = manners._Others()
    assert others.share(0.0, 2) == 0.0
    # Of two cores we have 1.4 s at low priority, which is not among everybody's, and 0.1 s else; a child has
    # 0.2 s; others have 0.5 s.
    state |= {"everybody": 0.8, "own": 1.5, "low": 1.4, "child": 0.2}
    assert others.share(1.0, 2) == pytest.approx(0.25)


def test_work_stops_while_somebody_asks_but_not_for_ever() -> None:
    courtesy = manners.Courtesy(most_s=LIMIT)
    courtesy.give_way()
    passed: list[str] = []

    def work() -> None:
        courtesy.give_way()
        passed.append("worker")

    worker = threading.Thread(target=work)
    with courtesy.asked():
        with courtesy.asked():
            worker.start()
        assert not passed
        assert worker.is_alive()
        passed.append("asked")
    worker.join(LIMIT)
    assert passed == ["asked", "worker"]
    hasty = manners.Courtesy(most_s=0.001)
    with hasty.asked():
        hasty.give_way()
    with pytest.raises(ZeroDivisionError), hasty.asked():
        raise ZeroDivisionError
    hasty.give_way()
    assert not hasty._waiting
