"""The models of one library: which one serves, which one is built beside it, which ones are kept.

Vectors of several models may lie in the store at once; one model is active. Another is built from the
texts in the catalog, without reading any file again, while the active one goes on serving. When no text
lacks its vector, the switch is one transaction. What a model is chosen by and what it is for is in the
catalog, so that an interrupted build goes on at the next start.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from indexer import api
from indexer.embed import Encoder, EncoderInfo, ModelChoice, catalogue, devices
from indexer.embed.bundled import NAME as BUNDLED
from indexer.embed.load import bundled_info, info_of, load_encoder
from indexer.embed.space import LanguageSpace, install_profile, space_of
from indexer.embed.thread import EncoderThread, WaitingEncoder
from indexer.errors import FatalError, IndexerError, TextError
from indexer.manners import Pace
from indexer.search import Searcher
from indexer.settings import Settings
from indexer.store import ModelKey, PendingText, Role, Store, StoredModel, VectorIndex

if TYPE_CHECKING:
    from indexer.embed import Vectors

log = logging.getLogger(__name__)

# Nobody who ends the service waits longer for a model that would not be used any more.
_LOADING_S = 0.2

# Texts that are embedded and stored together: seconds of work on a slow machine, and a cheap transaction.
BATCH_TEXTS = 64
# How often a kept index looks for texts that it lacks.
KEEP_S = 2.0
# A kept model that nobody asks gives its memory back.
UNLOAD_S = 600.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_RATE_WINDOW_S = 30.0
# Searches under way when the model changes are finished with the old one.
_GRACE_S = 60.0
_SETTLE_S = 0.3
# What a search waits for a kept model that was unloaded: its index is opened in less, where nothing is amiss.
_OPEN_S = 8.0
# A server that was asked what choosing it would cost is not asked again when it is chosen right after.
_ASKED_S = 60.0
# What Chroma's copy of a vector takes, as a multiple of its float32, and a page of the catalog, which a
# vector of more than half of one has for itself. Measured; see docs/SCALING.md.
_CHROMA = 1.38
_PAGE = 4096
_SERVER = "server:"


@dataclass(frozen=True)
class Live:
    """A model that can be searched with."""

    choice: ModelChoice
    info: EncoderInfo
    encoder: EncoderThread
    index: VectorIndex
    searcher: Searcher


class Models:
    """Opens, builds, switches and drops the models of a library.

    All methods may be called from any thread. What `changed` and `open_searcher` are given stays usable for
    those who hold it, for a minute after the switch.

    Args:
        store: Open.
        settings: The settings that hold now.
        open_searcher: Makes a searcher of a model.
        changed: Called with the new active model after each switch, before the old one is let go.
        pace: How to work on what nobody waits for.
    """

    def __init__(
        self,
        store: Store,
        settings: Callable[[], Settings],
        *,
        open_searcher: Callable[[EncoderThread, VectorIndex], Searcher],
        changed: Callable[[Live], None],
        pace: Callable[[], Pace] = Pace,
    ) -> None:
        self.store = store
        self.open_searcher = open_searcher
        self._settings = settings
        self._changed = changed
        self._pace = pace
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._sides: dict[str, _Side] = {}
        self._leaving: list[tuple[str, threading.Thread]] = []
        self._choosing = threading.RLock()  # two people may choose at once; held while an engine is ended
        self._planned: tuple[float, object, EncoderInfo] | None = None
        self._closed = False

    # --- the active model --------------------------------------------------------------------

    @property
    def live(self) -> Live:
        """The active model.

        Raises:
            FatalError: There is none yet.
        """
        if self._live is None:
            raise FatalError("Still starting", "The model is being prepared. Try again shortly.")
        return self._live

    def open(self) -> Live:
        """Load the model that was active last, or the bundled one, and go on with what was being built.

        Raises:
            IndexerError: It cannot be loaded; `use` with another model helps.
        """
        stored = {model.role: model for model in self.store.models()}
        active = stored.get("active")
        choice = ModelChoice() if active is None else ModelChoice(active.reference, active.dimensions)
        try:
            info = self._info(choice, active)
        except IndexerError as error:
            if not choice.reference:
                raise
            raise FatalError(
                error.title,
                f"{error.message} Put it back and start again; or choose it where it is now, or another one: "
                f"dragoman models use {BUNDLED}",
            ) from error
        live = self._load(choice, info)
        with self._lock:
            self._live = live
        if live.index.ledger.counts()[1]:
            # The model is another than the one the texts were embedded with: an upgrade of the program.
            self._begin(_Side(self, choice, info, role="active"))
        for model in self.store.models():
            if model.role in {"building", "kept"}:
                self._resume(model)
            elif not model.role:
                self._forget_later(model.key)  # what an earlier process did not get to
        return live

    def _info(self, choice: ModelChoice, stored: StoredModel | None) -> EncoderInfo:
        if stored is None or not choice.reference.startswith(_SERVER):
            return info_of(self._settings(), choice)
        # Not asked again: a server may be away, and one with another model behind its address must not make
        # an index of its own take over. The encoder itself compares, and says so.
        return self._remembered(stored)

    @staticmethod
    def _remembered(stored: StoredModel) -> EncoderInfo:
        """A model as the catalog knows it, for one that cannot be looked at now."""
        cutter = bundled_info()
        return EncoderInfo(
            key=stored.key,
            name=stored.name,
            dim=stored.dim,
            max_tokens=cutter.max_tokens,
            tokenizer=cutter.tokenizer,
        )

    def _load(self, choice: ModelChoice, info: EncoderInfo) -> Live:
        encoder = self.encoder_of(choice, info)
        # Importing torch holds up everything else for seconds, so the index is opened first.
        known = space_of(info.key)
        if known is None:
            encoder.start()
        try:
            space = known or self.space_for(encoder, info)
            index = self.store.use_model(ModelKey(key=info.key, dim=info.dim), space)
            self._choose(choice, info, "active")
        except BaseException:
            encoder.stop()
            raise
        if known is not None:
            # What is given back when it is idle need not be taken before there is something to do.
            encoder.start(load=not self._idle_s())
        return Live(choice, info, encoder, index, self.open_searcher(encoder, index))

    def encoder_of(self, choice: ModelChoice, info: EncoderInfo | None = None) -> EncoderThread:
        """A thread for a model, not started.

        Args:
            choice: Which.
            info: What its index is for; another model under that name is then refused. None for any.
        """

        def load() -> Encoder:
            encoder = load_encoder(self._settings(), choice)
            if info is not None and encoder.info.key != info.key:
                raise _changed_since(encoder.info.name)
            return encoder

        return EncoderThread(load, info=info, pace=self._pace, idle_s=self._idle_s)

    def _idle_s(self) -> float:
        """Seconds without work after which a model is let go; 0 for never."""
        return max(0.0, 60.0 * self._settings().unload_minutes)

    @staticmethod
    def space_for(encoder: EncoderThread, info: EncoderInfo) -> LanguageSpace:
        """The space of a model; at its first time here it is computed, which takes up to minutes."""
        return space_of(info.key) or install_profile(WaitingEncoder(encoder, info))

    def _choose(self, choice: ModelChoice, info: EncoderInfo, role: Role, *, keep: bool = False) -> None:
        chosen = StoredModel(
            key=info.key,
            dim=info.dim,
            reference=choice.reference,
            dimensions=choice.dimensions,
            name=info.name,
            role=role,
            keep=keep,
        )
        self.store.choose_model(chosen)

    def follow(self, old: Settings) -> None:
        """Settings changed: what was loaded with others is loaded again, and everybody looks what to do.

        Args:
            old: What they were.
        """
        new = self._settings()
        with self._lock:
            live, sides = self._live, list(self._sides.values())
        if live is not None:
            if _loaded_with(old, live.choice) != _loaded_with(new, live.choice):
                self.reload()
            self.live.encoder.look_again()
        for side in sides:
            if _loaded_with(old, side.choice) != _loaded_with(new, side.choice):
                side.reload()
            side.wake()

    def reload(self) -> None:
        """Load the active model again, as settings of the encoder changed; searches go on meanwhile."""
        with self._lock:
            old = self._live
            if old is None or self._closed:
                return
            encoder = self.encoder_of(old.choice, old.info)
            encoder.start(load=old.encoder.status.state != "resting")
            searcher = self.open_searcher(encoder, old.index)
            self._live = replace(old, encoder=encoder, searcher=searcher)
            self._changed(self._live)
            self._let_go(old)

    # --- choosing ----------------------------------------------------------------------------

    def choice_of(self, reference: str, dimensions: int = 0) -> ModelChoice:
        """What a person named, in the form that the catalog keeps."""
        return catalogue.choice_of(reference, dimensions)

    def plan(
        self,
        reference: str,
        dimensions: int,
        seconds_a_token: float | None,
        *,
        settings: Settings | None = None,
    ) -> api.Plan:
        """What building the index of a model costs; the request's id is left 0. A server is asked now.

        Args:
            reference: The model, as a person names it.
            dimensions: Length of its vectors; 0 for the longest.
            seconds_a_token: Its speed, where it was measured.
            settings: Instead of those that hold, to try others.

        Raises:
            IndexerError: There is no such model here, or the server does not answer.
        """
        choice = self.choice_of(reference, dimensions)
        now = settings or self._settings()
        info = info_of(now, choice)
        if choice.reference.startswith(_SERVER):
            self._planned = (time.monotonic(), (choice, now.servers), info)
        had = {m.key for m in self.store.models() if m.role and m.reference == choice.reference}
        anew = bool(had) and info.key not in had
        return msgspec.structs.replace(self._cost(info, seconds_a_token), anew=anew)

    def _cost(self, info: EncoderInfo, seconds_a_token: float | None) -> api.Plan:
        _, texts, _ = self.store.model_counts(info.key)
        half = 2 * info.dim
        catalog = half + 60 if half < _PAGE // 2 else -(-half // _PAGE) * _PAGE
        row = catalog + int(4 * info.dim * (1 + _CHROMA))
        seconds = None if seconds_a_token is None else texts * self.store.mean_tokens() * seconds_a_token
        free = shutil.disk_usage(self.store.folder).free
        return api.Plan(id=0, texts=texts, disk_bytes=texts * row, free_bytes=free, seconds=seconds)

    def _looked_at(self, choice: ModelChoice) -> EncoderInfo:
        """A model that is chosen; a server that a plan was made for a moment ago is not asked twice."""
        planned, self._planned = self._planned, None
        if planned is not None:
            at, what, info = planned
            if what == (choice, self._settings().servers) and time.monotonic() - at < _ASKED_S:
                return info
        return info_of(self._settings(), choice)

    def use(self, reference: str, dimensions: int = 0, *, keep: bool = False) -> None:
        """Begin to build the index of a model, and switch to it when it is complete.

        Raises:
            IndexerError: There is no such model here, the server does not answer, or there is not enough room
                for the vectors.
        """
        choice = self.choice_of(reference, dimensions)
        info = self._looked_at(choice)
        plan = self._cost(info, None)
        if plan.disk_bytes > plan.free_bytes:
            raise IndexerError(
                "Not enough room on the disk",
                f"The vectors of {info.name} need about {plan.disk_bytes >> 20} MiB, "
                f"and {plan.free_bytes >> 20} MiB are free.",
            )
        with self._choosing:
            self._use(choice, info, keep=keep)

    def _use(self, choice: ModelChoice, info: EncoderInfo, *, keep: bool) -> None:
        with self._lock:
            live = self._live
            same = live is not None and info.key == live.info.key
            dropped = [side for side in self._sides.values() if side.role == "building"]
            for side in dropped:
                del self._sides[side.info.key]
            again = None if same else self._sides.pop(info.key, None)
        for side in dropped:
            if side.info.key == info.key:
                again = side
            else:
                self._drop(side)
        if again is not None:
            again.stop()
        for model in self.store.models():  # what was never resumed, because the start failed
            if model.role == "building" and model.key != info.key:
                self.store.set_role(model.key, "")
                self._forget_later(model.key)
        if live is None:
            # Nothing serves that could serve on: the model takes over at once and is filled afterwards.
            self._choose(choice, info, "active")
        elif not same:
            self._choose(choice, info, "building", keep=keep)
            self._begin(_Side(self, choice, info, role="building"))
        elif choice != live.choice:
            # The same model at another place: that is where it is loaded from now on.
            self._choose(choice, info, "active")
            with self._lock:
                self._live = replace(self.live, choice=choice)
            self.reload()

    def cancel(self, reference: str = "") -> None:
        """Stop building, or drop a kept index; what was embedded for it is removed.

        Raises:
            IndexerError: No such index is built or kept.
        """
        with self._choosing:
            self._cancel(reference)

    def _cancel(self, reference: str) -> None:
        with self._lock:
            found = [side for side in self._sides.values() if side.role != "active"]
            side = next(
                (s for s in found if (s.is_called(reference) if reference else s.role == "building")), None
            )
            if side is not None:
                del self._sides[side.info.key]
        if side is not None:
            self._drop(side)
            return
        # One that is just being put aside, or that was never resumed, because the start failed.
        for model in self.store.models():
            called = _names(model.reference, model.name, model.key, reference)
            if model.role == "kept" and not called:
                continue
            if model.role in {"building", "kept"} and (called or not reference):
                self.store.set_role(model.key, "")
                self._forget_later(model.key)
                return
        raise IndexerError("Nothing to cancel", "No index of that model is being built or kept.")

    def _drop(self, side: _Side) -> None:
        """End a side that nobody holds any more. Not under the lock, which its thread may be waiting for."""
        side.stop()
        self.store.set_role(side.info.key, "")
        self._forget_later(side.info.key)

    def _forget_later(self, key: str) -> None:
        with self._lock:
            before = [thread for left, thread in self._leaving if left == key]

        def forget() -> None:
            for thread in before:
                thread.join()
            self.store.forget_model(key)

        self._later(key, forget)

    # --- building ----------------------------------------------------------------------------

    def _begin(self, side: _Side) -> None:
        with self._lock:
            if not self._closed:
                self._sides[side.info.key] = side
                side.start()

    def _resume(self, model: StoredModel) -> None:
        choice = ModelChoice(model.reference, model.dimensions)
        try:
            info = self._info(choice, model)
        except IndexerError as error:
            log.warning("%s: %s", model.name, error.title)
            info = None
        # One that is gone or has changed is shown as waiting, so that a person can do something about it, and
        # goes on when it is back.
        doubtful = info is None or info.key != model.key
        if info is None or doubtful:
            info = self._remembered(model)
        role: Literal["building", "kept"] = "building" if model.role == "building" else "kept"
        self._begin(_Side(self, choice, info, role=role, doubtful=doubtful))

    def look_again(self, choice: ModelChoice, key: str) -> EncoderInfo:
        """A model that could not be looked at before.

        Raises:
            IndexerError: It still cannot, or it is another one than `key`.
        """
        info = info_of(self._settings(), choice)
        if info.key != key:
            raise _changed_since(info.name)
        return info

    def completed(self, side: _Side, live: Live) -> bool:
        """Switch to a model whose index has everything; False when a text came in between."""
        with self._lock:
            if self._closed or self._sides.get(side.info.key) is not side:
                return True
            if side.role == "active":
                del self._sides[side.info.key]
                return True
            old = self.live
            keep = any(m.key == side.info.key and m.keep for m in self.store.models())
            try:
                self.store.activate(live.index)
            except FatalError:
                raise
            except IndexerError as error:
                log.info("%s", error.title)
                return False
            # In this order: who sees that nothing is built any more finds the new model in use.
            self._live = live
            del self._sides[side.info.key]
            filling = self._sides.pop(old.info.key, None)
            self._changed(live)
            log.info("The model is now %s", live.info.name)
            self._let_go(old, "kept" if keep else "forgotten", filling)
        return True

    def _let_go(self, old: Live, how: str | None = None, filling: _Side | None = None) -> None:
        """Let searches under way finish, then close what they used.

        Args:
            old: What was active.
            how: "kept" or "forgotten"; None when only the encoder goes.
            filling: What was adding to the old index, if anything.
        """

        def finish() -> None:
            # Whoever was given the searcher a moment ago has not begun yet.
            threading.Event().wait(_SETTLE_S)
            old.searcher.wait_idle(_GRACE_S)
            if filling is not None:
                filling.stop()
            old.encoder.finish()
            if how is None:
                return
            self.store.close_index(old.index)
            with self._lock:
                if self._closed:
                    return
                role = next((m.role for m in self.store.models() if m.key == old.info.key), "")
                if how == "kept" and role == "kept":
                    self._begin(_Side(self, old.choice, old.info, role="kept"))
            self.store.forget_model(old.info.key)

        self._later(old.info.key, finish)

    def retire(self, live: Live) -> None:
        """Stop an engine as soon as the searches that use it are finished; its index stays open."""

        def finish() -> None:
            threading.Event().wait(_SETTLE_S)
            live.searcher.wait_idle(_GRACE_S)
            live.encoder.stop()

        self._later(live.info.key, finish)

    def abandon(self, key: str, encoder: EncoderThread) -> None:
        """Stop an engine that nobody searches with yet, without waiting for it."""
        self._later(key, encoder.stop)

    def await_left(self, key: str) -> None:
        """Wait until nobody holds an earlier index of this model; two of one file would not agree."""
        with self._lock:
            leaving = [thread for left, thread in self._leaving if left == key]
        for thread in leaving:
            thread.join()

    def _later(self, key: str, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except IndexerError as error:
                log.warning("%s", error.title)

        thread = threading.Thread(target=run, name="model-change", daemon=True)
        with self._lock:
            self._leaving = [one for one in self._leaving if one[1].is_alive()]
            self._leaving.append((key, thread))
            thread.start()

    def paused(self) -> bool:
        """Whether building has to wait because a person said so."""
        return self._settings().paused

    def held(self) -> bool:
        """Whether building has to wait because there is too little room on the disk."""
        return self._pace().hold

    # --- asking ------------------------------------------------------------------------------

    def searcher(self, reference: str = "") -> Searcher:
        """The searcher of the active model, or of one that is kept or built.

        For the active one it is known at once; for another, up to `_OPEN_S` may pass.

        Raises:
            IndexerError: There is no index of that model, it is still being prepared, or its model cannot be
                loaded.
            FatalError: There is no active model yet.
        """
        live = self.live
        if not reference or _called(live.choice, live.info, reference):
            return live.searcher
        side = self._side_called(reference)
        if side is None:
            # One that was active a moment ago is just being put aside.
            self._await_leaving(reference)
            side = self._side_called(reference)
        if side is not None:
            return side.searcher()
        for model in self.store.models():
            if model.role and _names(model.reference, model.name, model.key, reference):
                raise IndexerError(f"{model.name} is still being prepared", "Search again shortly.")
        raise IndexerError(
            "No index of that model",
            f"{reference} is neither used nor kept. Build it with `dragoman models use --keep`.",
        )

    def _side_called(self, reference: str) -> _Side | None:
        with self._lock:
            return next((side for side in self._sides.values() if side.is_called(reference)), None)

    def _await_leaving(self, reference: str) -> None:
        """Wait, for `_OPEN_S` at most, until a model of that name has been put aside or forgotten."""
        keys = {m.key for m in self.store.models() if _names(m.reference, m.name, m.key, reference)}
        with self._lock:
            leaving = [thread for key, thread in self._leaving if key in keys]
        until = time.monotonic() + _OPEN_S
        for thread in leaving:
            thread.join(max(0.0, until - time.monotonic()))

    @property
    def switch(self) -> api.SwitchStatus | None:
        """What is being built, if anything."""
        with self._lock:
            sides = [side for side in self._sides.values() if side.role in {"building", "active"}]
        # What a person chose before what an upgrade left to do.
        return min(sides, key=lambda side: side.role == "active").status() if sides else None

    def states(self) -> dict[str, tuple[str, int, int, int]]:
        """Of models with an index, by reference: role, texts with a vector, bytes of these, dimensions."""
        found: dict[str, tuple[str, int, int, int]] = {}
        for model in self.store.models():
            if model.role:
                vectors, _, size = self.store.model_counts(model.key)
                found[model.reference or BUNDLED] = (model.role, vectors, size, model.dim)
        return found

    def role_of(self, reference: str) -> Role:
        """Whether a model is active, built or kept; empty when it is none of these."""
        choice = self.choice_of(reference)
        return next((m.role for m in self.store.models() if m.role and m.reference == choice.reference), "")

    def notices(self) -> list[api.Notice]:
        """What a person should know of the device or server that is used, and of indexes that are kept.

        `switch` tells of the one that is built.
        """
        with self._lock:
            live = self._live
            kept = [side for side in self._sides.values() if side.role == "kept"]
        statuses = [(side.info.name, side.status()) for side in kept]
        found = devices.notices()
        if live is not None and live.choice.reference.startswith(_SERVER):
            from indexer.embed.server import trouble_of

            trouble = trouble_of(live.choice.reference.removeprefix(_SERVER))
            if trouble is not None:
                found.append(api.Notice(title=trouble.title, message=trouble.message))
        return found + [
            api.Notice(title=f"The index of {name}, which is kept, is not up to date", message=status.message)
            for name, status in statuses
            if status.state == "waiting"
        ]

    def close(self) -> None:
        """End in good order; what was being built goes on at the next start."""
        with self._lock:
            self._closed = True
            sides, self._sides = list(self._sides.values()), {}
            leaving = list(self._leaving)
        for side in sides:
            side.stop()
        if self._live is not None:
            self._live.encoder.stop(loading_s=_LOADING_S)
        for _, thread in leaving:
            thread.join(timeout=5)


class _ReloadError(Exception):
    """The settings that an engine was loaded with have changed."""


class _Side:
    """A model beside the active one: its encoder, its index, and the thread that embeds what it lacks.

    Only that thread opens, loads and closes, however long it takes; others read what it has ready.
    """

    def __init__(
        self,
        models: Models,
        choice: ModelChoice,
        info: EncoderInfo,
        *,
        role: Literal["active", "building", "kept"],
        doubtful: bool = False,
    ) -> None:
        """Prepare; `doubtful` when the model could not be looked at and `info` is from the catalog."""
        self._models = models
        self.choice, self.info, self.role = choice, info, role
        self._doubtful = doubtful
        # The next four are set under `_wake`. The active model's are not this side's: a reload changes them.
        self._encoder: EncoderThread | None = None
        self._ready: Live | None = None
        self._wanted = False  # a search waits for `_ready`
        self._reloading = False
        self._index: VectorIndex | None = None
        self._used_at = time.monotonic()
        self._wake = threading.Condition()
        self._stopping = self._woken = False
        self._handed_over = False
        self._state: Any = "loading"
        self._message = ""
        self._complete_at = -1
        self._done = 0
        self._total = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._thread = threading.Thread(target=self._run, name=f"build-{info.key}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        with self._wake:
            self._woken = True
            self._wake.notify_all()

    def reload(self) -> None:
        """Load the model again with the settings of now; what is under way is broken off."""
        with self._wake:
            self._reloading = self._woken = True
            self._wake.notify_all()
            encoder = self._encoder if self._ready is None else None
        if encoder is not None:
            # The thread may be waiting for it, which may be a server that never answers.
            self._models.abandon(self.info.key, encoder)

    def is_called(self, reference: str) -> bool:
        """Whether a person's name for a model means this one."""
        return _called(self.choice, self.info, reference)

    def status(self) -> api.SwitchStatus:
        """How far it is."""
        remaining = None
        samples = list(self._samples)
        if len(samples) > 1 and samples[-1][1] > samples[0][1]:
            rate = (samples[-1][1] - samples[0][1]) / max(1e-6, samples[-1][0] - samples[0][0])
            remaining = max(0.0, (self._total - self._done) / rate)
        return api.SwitchStatus(
            reference=self.choice.reference or BUNDLED,
            dimensions=self.info.dim,
            done=self._done,
            total=max(self._total, self._done),
            remaining_s=remaining,
            state="paused" if self._state == "building" and self._models.paused() else self._state,
            message=self._message,
        )

    def stop(self) -> None:
        """End after the batch in hand, and close what belongs to this."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
            encoder = self._encoder
        if encoder is not None:
            encoder.stop()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def searcher(self) -> Searcher:
        """What searches the index; a kept model that was unloaded is loaded for it.

        Raises:
            IndexerError: It is still being prepared, or cannot be loaded.
        """
        if self.role == "active":
            return self._models.live.searcher
        with self._wake:
            self._used_at = time.monotonic()
            if self.role == "kept" and self._usable() is None:
                self._wanted = self._woken = True
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._stopping or not self._wanted, _OPEN_S)
            ready, state, message = self._usable(), self._state, self._message
            if self._stopping:
                raise FatalError("The model was stopped", "It is no longer used.")
        if ready is not None:
            return ready.searcher
        if state == "waiting":
            raise IndexerError(f"{self.info.name} cannot be used now", message)
        have, lack, _ = self._models.store.model_counts(self.info.key)
        raise IndexerError(
            f"{self.info.name} is still being prepared",
            f"{have:,} of {have + lack:,} texts have their vector. Search again shortly; "
            "`dragoman status` shows how far it is.",
        )

    def _usable(self) -> Live | None:
        ready = self._ready
        return None if ready is None or ready.encoder.status.state == "failed" else ready

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        try:
            while not self._stopping:
                try:
                    if self._round():
                        return
                    pause = _FIRST_PAUSE_S
                except _ReloadError:
                    continue
                except Exception as error:  # noqa: BLE001  told and tried again, whatever it was
                    if self._stopping:
                        return
                    if self._reloading:
                        continue
                    self._trouble(error)
                    self._rest(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
        finally:
            self._close()

    def _trouble(self, error: Exception) -> None:
        if isinstance(error, IndexerError):
            log.warning("%s: %s", self.info.name, error.title)
            self._message = str(error)
        else:
            log.exception("Building the index of %s failed", self.info.name)
            self._message = f"{type(error).__name__}. This is a fault in Dragoman; its log says more."
        self._samples.clear()
        if not self._total:
            have, lack, _ = self._models.store.model_counts(self.info.key)
            self._done, self._total = have, have + lack
        if self._usable() is None:
            self._unload()  # loaded anew at the next try
        with self._wake:
            self._state = "waiting"
            self._wanted = False
            self._wake.notify_all()

    def _opened(self) -> Live:
        """The model being loaded, its index open; takes minutes where its space has to be computed.

        Raises:
            IndexerError: It cannot be loaded.
        """
        if self.role == "active":
            return self._models.live
        ready = self._usable()
        if ready is None:
            ready = self._open()
        with self._wake:
            self._ready = ready
            self._wanted = False
            self._wake.notify_all()
        return ready

    def _open(self) -> Live:
        self._unload()
        if self._doubtful:
            self.info = self._models.look_again(self.choice, self.info.key)
            self._doubtful = False
        encoder = self._models.encoder_of(self.choice, self.info)
        with self._wake:
            if self._stopping:
                raise FatalError("The model was stopped", "It is no longer used.")
            if self._reloading:
                raise _ReloadError
            self._encoder = encoder
        begun = False
        if self._index is None:
            self._models.await_left(self.info.key)
            space = space_of(self.info.key)
            if begun := space is None:
                encoder.start()
                space = self._models.space_for(encoder, self.info)
            model = ModelKey(key=self.info.key, dim=self.info.dim)
            self._index = self._models.store.open_index(model, space)
        searcher = self._models.open_searcher(encoder, self._index)
        if not begun:
            encoder.start()  # last, as in `Models._load`
        return Live(self.choice, self.info, encoder, self._index, searcher)

    def _round(self) -> bool:
        """Embed everything that is lacking; True when there is nothing left to do for good."""
        if self._reloading:
            self._reloading = False  # before, so that what changes meanwhile is not missed
            self._unload()
        if self.role == "kept" and not self._lacks():
            self._message = ""
            if self._wanted:
                self._opened()
            elif time.monotonic() - self._used_at > UNLOAD_S:
                self._unload()
            self._state = "building"
            self._rest(KEEP_S)
            return False
        live = self._opened()
        if live.info.key != self.info.key:
            return True  # another model took over from the active one
        self._count(live)
        # Loaded before it takes over, also when there is nothing to embed.
        if self._await(live.encoder.run(lambda _: np.zeros((0, live.info.dim), np.float32))) is None:
            return True
        after = 0
        while not self._stopping:
            self._state, self._message = "building", ""
            if self._reloading:
                return False
            if held := self._models.held():
                self._state, self._message = "waiting", "There is too little room on the disk."
            if held or self._models.paused():
                self._samples.clear()
                self._rest(KEEP_S)
                continue
            texts = live.index.ledger.pending(after, BATCH_TEXTS)
            if texts:
                after = texts[-1].id
                self._embed(live, texts)
            elif after:
                after = 0  # texts may have come under the ids of others that went
            elif self.role == "kept":
                return False
            elif self._models.completed(self, live):
                self._handed_over = True
                return True
        return True

    def _lacks(self) -> bool:
        store = self._models.store
        version = store.version
        if version == self._complete_at:
            return False
        lacks = bool(store.model_counts(self.info.key)[1])
        if not lacks:
            self._complete_at = version
        return lacks

    def _count(self, live: Live) -> None:
        have, lack, _ = live.index.ledger.counts()
        self._done, self._total = have, have + lack
        self._samples.clear()
        self._samples.append((time.monotonic(), self._done))

    def _embed(self, live: Live, texts: list[PendingText]) -> None:
        future = live.encoder.passages([text.text for text in texts])
        try:
            vectors = self._await(future)
        except TextError:
            if len(texts) == 1:
                raise
            # The others first: what one text stops should be as little as can be.
            half = len(texts) // 2
            troubles = []
            for part in (texts[:half], texts[half:]):
                try:
                    self._embed(live, part)
                except IndexerError as error:
                    troubles.append(error)
            if troubles:
                raise troubles[0] from None
            return
        if vectors is None:
            return
        usable = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
        good = [texts[at] for at in np.flatnonzero(usable)]
        self._done += live.index.ledger.fill(good, vectors[usable])
        self._total = max(self._total, self._done)
        now = time.monotonic()
        self._samples.append((now, self._done))
        while self._samples[0][0] < now - _RATE_WINDOW_S:
            self._samples.popleft()
        if len(good) < len(texts):
            raise IndexerError(
                "The model gives no usable vector",
                f"{len(texts) - len(good)} texts got none. Another precision in the settings may help.",
            )

    def _await(self, future: Future[Vectors]) -> Vectors | None:
        """What an engine gives; None when this is to end.

        Raises:
            _ReloadError: The engine has to be loaded anew.
        """
        while not self._stopping:
            if self._reloading:
                future.cancel()
                raise _ReloadError
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if future.done():
                    raise
        future.cancel()
        return None

    def _rest(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._woken, seconds)
            self._woken = False

    def _unload(self) -> None:
        """Give the engine's memory back, as soon as the searches under way are finished."""
        with self._wake:
            ready, self._ready = self._ready, None
            encoder, self._encoder = self._encoder, None
        if ready is not None:
            self._models.retire(ready)
        elif encoder is not None:
            encoder.stop()

    def _close(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
            ready, encoder = self._ready, self._encoder
        if self._handed_over:
            return
        if encoder is not None:
            encoder.stop()
        if self._index is not None:
            if ready is not None:
                ready.searcher.wait_idle(_GRACE_S)
            self._models.store.close_index(self._index)


def _loaded_with(settings: Settings, choice: ModelChoice) -> tuple[object, ...]:
    """What of the settings a model's encoder is loaded with."""
    if choice.reference.startswith(_SERVER):
        server = next((s for s in settings.servers if f"{_SERVER}{s.name}" == choice.reference), None)
        return server, settings.instructions, settings.context_tokens
    return (
        settings.device,
        settings.engine,
        settings.encoder_threads,
        settings.precision,
        settings.context_tokens,
        settings.gguf_engine,
        settings.instructions,
    )


def _changed_since(name: str) -> FatalError:
    return FatalError(
        "The model is not the one that the index was made with",
        f"{name} has changed since. Choose it again, which builds a new index, or choose another model.",
    )


def _called(choice: ModelChoice, info: EncoderInfo, reference: str) -> bool:
    return _names(choice.reference, info.name, info.key, reference)


def _names(known: str, name: str, key: str, reference: str) -> bool:
    """Whether a person's word for a model means the one that is known by these."""
    return bool(reference) and (reference in {name, key} or catalogue.choice_of(reference).reference == known)
