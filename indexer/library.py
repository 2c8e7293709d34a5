"""One library: store, encoder, children, pipeline and watcher wired together, and what may be asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from indexer import api
from indexer import settings as settings_module
from indexer.embed import Encoder, ModelChoice, catalogue, hub
from indexer.embed.bundled import NAME as BUNDLED
from indexer.embed.load import bundled_info, info_of
from indexer.embed.measure import last_measured
from indexer.embed.thread import EncoderThread
from indexer.embed.tokens import TokenCounter
from indexer.embed.verify import verified
from indexer.errors import FatalError, IndexerError
from indexer.examine import examine
from indexer.manners import Governor, reserve
from indexer.models import Live, Models
from indexer.pipeline import Pipeline
from indexer.search import Searcher, WordSearcher
from indexer.settings import Settings
from indexer.store import Key, Store, VectorIndex, check_chroma_server
from indexer.watch import FileChange, Rules, Watcher, network_kind
from indexer.workers import WorkerPool

if TYPE_CHECKING:
    from indexer.embed.rerank import RerankThread

log = logging.getLogger(__name__)

_TOLD_S = 0.25
_FEW = 2000


class Library:
    """Everything behind the socket, wired together: store, encoder, children, pipeline, watcher."""

    def __init__(
        self, data_dir: Path, key: Key | None = None, *, place: tuple[int, int] | None = None
    ) -> None:
        """Open the library's catalog; `start` does the rest.

        Args:
            data_dir: The library's data folder.
            key: Of a locked library.
            place: Which folder it is to be (`settings.identity`); None for whatever is there. Where it was
                put elsewhere, or its disk pulled out, an empty library would else be begun in its stead.

        Raises:
            FatalError: That folder is not there any more, or the library cannot be opened.
        """
        self.data_dir = data_dir
        self._place = place
        if place is not None:
            settings_module.make_sure_of(data_dir, place)
        self._secret = key is not None
        self._stamp = settings_module.stamp(data_dir)
        self.settings = settings_module.load(data_dir)
        self.store = Store(data_dir, self.settings.chroma, key)
        self.by_words = WordSearcher(self.store)
        self.models = Models(
            self.store,
            lambda: self.settings,
            open_searcher=self._open_searcher,
            changed=self._model_changed,
            pace=lambda: self.manners.pace,
        )
        self.manners = Governor(lambda: self.settings, data_dir, changed=lambda _: self._keep_pace())
        self._expected = False
        self._watches: dict[str, str] = {}
        self._rules: dict[str, Rules] = {}
        self._notices: dict[str, api.Notice] = {}
        self._pool: WorkerPool | None = None
        self._pipeline: Pipeline | None = None
        self._watcher: Watcher | None = None
        self._reranker: tuple[tuple[str, str, int], RerankThread] | None = None
        self._failure: FatalError | None = None
        self._no_model = False  # whether it was the model that the start failed on
        self._counter: tuple[Path, TokenCounter] | None = None
        self._counting = threading.Lock()
        # Two clients may add, remove or set at once; what is asked second sees what the first did.
        self._changing = threading.RLock()
        self._restarting = threading.Lock()
        self._checking = threading.Lock()
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="check")
        self.stopping = False

    # --- beginning and end --------------------------------------------------------------------

    def start(self) -> None:
        """Load what is needed to index and search; takes seconds the first time (model conversion)."""
        try:
            self._start()
        except Exception as error:
            log.exception("The library could not be started")
            if isinstance(error, IndexerError):
                self._failure = FatalError(error.title, error.message)
            else:
                self._failure = FatalError(
                    "The library cannot be opened", f"{type(error).__name__}: {error}. The log says more."
                )
            self._notices["start"] = api.Notice(title=self._failure.title, message=self._failure.message)

    def _start(self) -> None:
        self.manners.start()
        self._no_model = True
        live = self.models.open()
        self._no_model = False
        if self._expected:
            live.encoder.expect()
        workers = self.settings.extraction_workers or max(1, min(4, (os.cpu_count() or 2) // 2 + 1))
        cutter = bundled_info()  # see `EncoderInfo.tokenizer`
        self._pool = WorkerPool(
            workers,
            tokenizer=cutter.tokenizer,
            max_tokens=cutter.max_tokens,
            settings=self.settings,
            scratch=self.data_dir,
            secret=self._secret,
            roots=lambda: self.store.root_paths(),
        )
        self._pipeline = Pipeline(
            self.store,
            live.encoder,
            self._pool,
            model=live.info.key,
            rules=self.rules_of,
            extractors=workers,
            entering=self._entering,
        )
        self._keep_pace()
        if kind := network_kind(self.data_dir):
            self.tell(
                "network",
                "The library lies on a network drive",
                f"{self.data_dir} is on {kind}, where a lost connection or a second computer can damage the "
                "catalog. Use the library from one computer only; better, keep it on a disk of its own "
                "(--data-dir). The folders that are indexed may well be on the network.",
            )
        self._watcher = Watcher(self._changed, self._watch_state)
        self._pipeline.start()
        for root in self.store.roots():
            self._open_root(root.path)

    def _open_searcher(self, encoder: EncoderThread, index: VectorIndex) -> Searcher:
        return Searcher(self.store, encoder, space=index.space, index=index, reranker=self._reranker_for)

    def _keep_pace(self) -> None:
        """Have children and pipeline follow the pace and the settings."""
        pace = self.manners.pace
        if self._pool is not None:
            self._pool.limit(pace.extractors)
        if self._pipeline is not None:
            self._pipeline.paused = self.settings.paused or pace.hold

    def attend(self, request: api.Request) -> None:
        """Take note of a request: a person is there, and may be about to search."""
        if isinstance(request, api.Search | api.Complete | api.GetPreview):
            self.manners.asked()
        # A search says itself whether it needs the model: filters and names do not.
        if isinstance(request, api.Complete | api.Subscribe):
            self._expected = True
            with contextlib.suppress(FatalError):
                self._live.encoder.expect()

    def _model_changed(self, live: Live) -> None:
        if self._pipeline is not None:
            self._pipeline.use(live.encoder, live.info.key)

    def _reranker_for(self, wanted: bool | None) -> RerankThread | None:
        """The reranker for a search that wants it, does not, or leaves it to the settings (None)."""
        from indexer.embed.rerank import available, reranker_thread

        if not (self.settings.rerank if wanted is None else wanted) or not available(self.settings):
            return None
        chosen = (self.settings.reranker, self.settings.device, self.settings.encoder_threads)
        with self._changing:
            if self._reranker is None or self._reranker[0] != chosen:
                self._stop_reranker()
                self._reranker = (chosen, reranker_thread(self.settings))
            return self._reranker[1]

    def _stop_reranker(self) -> None:
        if self._reranker is not None:
            self._reranker[1].stop()
            self._reranker = None

    def close(self) -> None:
        """End in good order; every acknowledged change is already on disk."""
        self._stop_reranker()
        self.stopping = True
        self.manners.stop()
        if self._watcher is not None:
            self._watcher.close()
        self._checks.shutdown()  # one that runs stops, now that we do
        self.models.close()
        if self._pipeline is not None:
            self._pipeline.stop()
        self.store.close()

    # --- models -----------------------------------------------------------------------------------

    @property
    def encoder(self) -> EncoderThread:
        """The active model's thread; raises like `pipeline`."""
        return self._live.encoder

    @property
    def _live(self) -> Live:
        if self._failure is not None:
            raise self._failure
        return self.models.live

    def plan_model(self, request: api.PlanModel) -> api.Plan:
        """What building the index of a model costs.

        Raises:
            IndexerError: There is no such model here, or the server does not answer.
        """
        measured = last_measured(request.reference)
        settings, tried = self.settings, request.server
        if tried is not None:
            others = (server for server in settings.servers if server.name != tried.name)
            settings = msgspec.structs.replace(settings, servers=(*others, tried))
        plan = self.models.plan(
            request.reference,
            request.dimensions,
            None if measured is None else 1 / measured.tokens_per_s,
            settings=settings,
        )
        return msgspec.structs.replace(plan, id=request.id)

    def list_models(self) -> tuple[api.Model, ...]:
        """Every model that can be chosen or downloaded."""
        mine = {
            reference: msgspec.convert(
                {"state": role, "vectors": vectors, "vector_bytes": size, "dimensions": dimensions},
                catalogue.InLibrary,
            )
            for reference, (role, vectors, size, dimensions) in self.models.states().items()
        }
        return catalogue.models(self.settings, mine)

    async def install_model(self, request: api.InstallModel) -> AsyncGenerator[api.Progress, None]:
        """Download a model, or take a folder or file among those that can be chosen; see `hub.installing`.

        Closing the generator ends the download.
        """
        async with contextlib.aclosing(
            hub.installing(request.id, request.reference, self.settings)
        ) as installing:
            async for progress in installing:
                yield progress
        if Path(request.reference).is_absolute():
            await asyncio.to_thread(self._add_own, self.models.choice_of(request.reference).reference)

    def _add_own(self, path: str) -> None:
        info_of(self.settings, ModelChoice(path))  # says what is wrong with it now, not when it is used
        with self._changing:
            if path not in self.settings.own_models:
                own = (*self.settings.own_models, path)
                self.put_settings(msgspec.structs.replace(self.settings, own_models=own))

    def remove_model(self, reference: str) -> None:
        """Remove a downloaded model's files; the person's own folder, file or server is only left out.

        Raises:
            IndexerError: It is in use, or cannot be removed.
        """
        with self._changing:
            if role := self.models.role_of(reference):
                what = (
                    "It is what is searched with. Choose another first."
                    if role == "active"
                    else f"Its index is {'being built' if role == 'building' else 'kept'}. Drop that first: "
                    f"dragoman models cancel {reference}"
                )
                raise IndexerError("The model is in use", what)
            servers = tuple(s for s in self.settings.servers if f"server:{s.name}" != reference)
            names = {reference, self.models.choice_of(reference).reference}
            own = tuple(path for path in self.settings.own_models if path not in names)
            if (servers, own) != (self.settings.servers, self.settings.own_models):
                self.put_settings(msgspec.structs.replace(self.settings, servers=servers, own_models=own))
            else:
                hub.remove(reference)

    def verify_model(self, request: api.VerifyModel) -> api.Verified:
        """Embed the published pairs with a model, the active one's thread lending it where it is that one.

        Raises:
            IndexerError: There is no such model here, or it cannot be loaded.
        """
        choice = self.models.choice_of(request.reference, request.dimensions)
        name = request.reference or BUNDLED

        def work(encoder: Encoder) -> api.Verified:
            return verified(request.id, encoder, name)

        live = self._live
        if choice == live.choice:
            return live.encoder.run(work).result()
        encoder = self.models.encoder_of(choice)
        encoder.start()
        try:
            return encoder.run(work).result()
        finally:
            encoder.stop()

    def use_model(self, reference: str, dimensions: int, *, keep: bool) -> None:
        """Begin to switch to a model; see `Models.use`.

        Raises:
            IndexerError: There is no such model here, or not enough room for its vectors.
        """
        # Not under the lock: a server may take half a minute to answer.
        self.models.use(reference, dimensions, keep=keep)
        # Nor is the start, which may take minutes.
        with self._restarting:
            if self._failure is not None and self._pipeline is None:
                self._failure = None
                self._notices.pop("start", None)
                self.start()
                if self._failure is not None:
                    raise IndexerError(self._failure.title, self._failure.message)
                with self._changing:  # settings that came meanwhile
                    self._follow(self.settings)

    async def embed(self, request: api.Embed) -> api.Embedded:
        """Embed texts with the active model, ahead of what is indexed.

        Raises:
            IndexerError: It cannot be done, or not now.
        """
        live = self._live
        wanted = request.dimensions or live.info.dim
        if wanted != live.info.dim:
            await asyncio.to_thread(self._check_length, live, wanted)
        if request.kind == "query":
            future = live.encoder.query(request.texts, request.task)
        else:
            future = live.encoder.passages(request.texts, urgent=True)
        vectors = (await asyncio.wrap_future(future))[:, :wanted]
        if wanted != live.info.dim:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return api.Embedded(
            id=request.id,
            model=live.info.name,
            dimensions=wanted,
            vectors=np.ascontiguousarray(vectors, "<f4").tobytes(),
            tokens=await asyncio.to_thread(self._count, live.info.tokenizer, request.texts),
        )

    def _check_length(self, live: Live, wanted: int) -> None:
        choices = next((m.choices for m in self.list_models() if m.reference == live.choice.reference), ())
        if not choices or not min(choices) <= wanted <= live.info.dim:
            raise IndexerError(
                api.WRONG_LENGTH,
                f"{live.info.name} gives vectors of {live.info.dim} numbers, "
                + (f"or of {min(choices)} and more." if choices else "which cannot be shortened."),
            )

    def _count(self, tokenizer: Path, texts: Sequence[str]) -> tuple[int, ...]:
        with self._counting:
            if self._counter is None or self._counter[0] != tokenizer:
                self._counter = (tokenizer, TokenCounter(tokenizer))
            return tuple(self._counter[1].counts(texts))

    # --- check ----------------------------------------------------------------------------------

    async def check(self, request: api.Check) -> AsyncGenerator[api.Progress | api.Checked, None]:
        """Compare all parts of the library and mend them; progress, and at last what was found.

        Closing the generator stops it.

        Raises:
            IndexerError: Another check runs, or the disk is full or failing.
        """
        pipeline = self.pipeline  # says so where there is none
        if not self._checking.acquire(blocking=False):
            raise IndexerError("A check is running already", "Wait for its end, or stop it.")
        loop, stopped = asyncio.get_running_loop(), threading.Event()
        told: asyncio.Queue[api.Progress] = asyncio.Queue()
        last = [-math.inf]

        def tell(what: str, done: int, total: int) -> None:
            if time.monotonic() - last[0] >= _TOLD_S:
                last[0] = time.monotonic()
                progress = api.Progress(id=request.id, done=done, total=total, current=what)
                loop.call_soon_threadsafe(told.put_nowait, progress)

        def work() -> api.Checked:
            try:
                live = self._live
                # An upgrade of the model, which takes hours, is not done a second time here.
                lacking = live.index.ledger.counts()[1]
                upgrading = self.models.switch is not None and lacking > _FEW
                refill = None if upgrading else (live.encoder, live.index)
                return examine(
                    self.store,
                    pipeline,
                    self._new_rules,
                    repair=request.repair,
                    refill=refill,
                    tell=tell,
                    stop=lambda: stopped.is_set() or self.stopping,
                )
            finally:
                self._checking.release()

        # Apart from the threads that answer everything else, as it may take minutes.
        running = loop.run_in_executor(self._checks, work)
        try:
            while not running.done():
                progress = None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TOLD_S):
                        progress = await told.get()
                if progress is not None:
                    yield progress
            yield msgspec.structs.replace(await running, id=request.id)
        finally:
            stopped.set()

    # --- folders --------------------------------------------------------------------------------

    def rules_of(self, root: str) -> Rules:
        """The ignore rules of a folder of the library."""
        rules = self._rules.get(root)
        if rules is None:
            rules = self._rules[root] = self._new_rules(root)
        return rules

    def _new_rules(self, root: str) -> Rules:
        own = (self.data_dir, settings_module.cache_dir())
        return Rules(root, self.settings, excluded=own)

    def add_folder(self, path: str) -> None:
        """Add a folder and begin to index it.

        Raises:
            IndexerError: There is no such folder, or the library covers it already.
        """
        folder = Path(path)
        if not folder.is_absolute():
            raise IndexerError(
                "Not a full path", f"{path}: name the folder from the root of the file system."
            )
        if not folder.is_dir():
            raise IndexerError("No such folder", f"{path} is not a folder that can be read.")
        with self._changing:
            self._add_folder(folder.resolve())

    def _add_folder(self, folder: Path) -> None:
        for root in self.store.roots():
            other = Path(root.path)
            if folder == other:
                self.pipeline.rescan(root.path)
                return
            if folder.is_relative_to(other):
                raise IndexerError("Already in the library", f"{folder} is inside {other}.")
            if other.is_relative_to(folder):
                raise IndexerError(
                    "Overlaps a folder of the library",
                    f"{other} is inside {folder}. Remove {other} first; nothing is embedded twice.",
                )
        self.store.add_root(str(folder))
        self._open_root(str(folder))

    def remove_folder(self, path: str) -> None:
        """Forget a folder.

        Raises:
            IndexerError: It is not a folder of the library.
        """
        wanted = {path.rstrip("/") or "/", str(Path(path).resolve())}
        root = next((r.path for r in self.store.roots() if r.path in wanted), None)
        if root is None:
            raise IndexerError("Not in the library", f"{path} is not one of the library's folders.")
        with self._changing:
            if self._watcher is not None:
                self._watcher.remove(root)
            self.pipeline.forget(root)
            try:
                self.store.remove_root(root)
            except IndexerError:
                self._open_root(root)  # it is in the library still, and is to be followed
                raise
            self._watches.pop(root, None)
            self._rules.pop(root, None)
            self._notices.pop(root, None)

    def _open_root(self, root: str) -> None:
        self._watches[root] = "starting"
        if self._watcher is not None:
            state = next((r for r in self.store.roots() if r.path == root), None)
            self._watcher.add(
                root,
                self.rules_of(root),
                had_files=state is not None and state.files > 0,
                device=state.device if state is not None else None,
                followed=True,
            )
        self.pipeline.rescan(root, when_watched=True)

    def _changed(self, changes: list[FileChange]) -> None:
        try:
            self.pipeline.submit(changes)
        except IndexerError:
            # The change is not lost: the next sweep of the folder sees the same difference.
            log.exception("Changes could not be taken over")
            for root in {change.root for change in changes}:
                self.pipeline.rescan(root)

    def _entering(self, folder: str, wanted: bool) -> None:
        if self._watcher is not None:
            self._watcher.follow(folder, wanted)

    def _watch_state(self, root: str, state: str, reason: str) -> None:
        self._watches[root] = state
        if state == "live" or not reason:
            self._notices.pop(root, None)
        else:
            self._notices[root] = api.Notice(title=Path(root).name or root, message=reason)
        if state == "offline":
            self.pipeline.forget(root)
            self.store.set_online(root, False)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline.

        Raises:
            FatalError: The service has not got that far yet, or never will.
        """
        if self._pipeline is None:
            raise self._failure or FatalError(
                "Still starting", "The model is being prepared. Try again shortly."
            )
        return self._pipeline

    def searcher(self, model: str = "") -> Searcher:
        """The searcher of the active model, or of another that has an index here; raises like `pipeline`.

        Raises:
            IndexerError: There is no index of that model.
        """
        if self._failure is not None:
            raise self._failure
        return self.models.searcher(model)

    @property
    def pool(self) -> WorkerPool:
        """The extraction children; raises like `pipeline`."""
        if self._pool is None:
            raise self._failure or FatalError(
                "Still starting", "The model is being prepared. Try again shortly."
            )
        return self._pool

    @property
    def busy(self) -> bool:
        """Whether ending now would leave known work undone."""
        if self._pipeline is None:
            return self._failure is None
        if self.store.forgetting:
            return True
        if self.settings.paused:
            return False
        switch = self.models.switch
        building = switch is not None and switch.state in {"loading", "building"}
        return building or not self._pipeline.idle

    # --- what is shown ----------------------------------------------------------------------------

    def status(self, request_id: int) -> api.Status:
        """The status message."""
        counts = self.store.counts()
        notices = [*self._notices.values(), *self.models.notices(), *self.store.notices()]
        if self._reranker is not None and self._reranker[1].status.state == "failed":
            message = self._reranker[1].status.message
            notices.append(api.Notice(title="The reranker does not work", message=message))
        switch = self.models.switch
        encoder = self._encoder_status()
        pace = self.manners.pace
        if self._pipeline is None:
            return api.Status(
                id=request_id,
                state="starting" if self._failure is None else "failed",
                files=counts.files,
                chunks=counts.chunks,
                waiting=0,
                done=0,
                failed=counts.failed,
                skipped=counts.skipped,
                files_per_s=0.0,
                tokens_per_s=0.0,
                remaining_s=None,
                current="",
                encoder=encoder,
                index=self.store.accelerator,
                lock="open" if self._secret else "off",
                switch=switch,
                notices=tuple(notices),
            )
        progress = self._pipeline.progress()
        encoder = msgspec.structs.replace(encoder, busy=round(progress.encoder_busy, 2))
        if progress.trouble is not None and progress.trouble not in notices:
            notices.append(progress.trouble)
        notices += [_not_mounted(place) for place in self._pipeline.lost_volumes]
        working = bool(progress.waiting) or switch is not None
        if pace.hold and working:
            notices.append(self._no_room())
        state: Any = "watching"
        if self.stopping:
            state = "stopping"
        elif self.settings.paused:
            state = "paused"
        elif progress.waiting:
            state = "indexing"
        elif progress.scanning:
            state = "scanning"
        return api.Status(
            id=request_id,
            state=state,
            files=counts.files,
            chunks=counts.chunks,
            waiting=progress.waiting,
            done=progress.done,
            failed=counts.failed,
            skipped=counts.skipped,
            files_per_s=round(progress.files_per_s, 2),
            tokens_per_s=round(progress.tokens_per_s, 1),
            remaining_s=None if progress.remaining_s is None else round(progress.remaining_s, 1),
            current=progress.current,
            encoder=encoder,
            index=self.store.accelerator,
            lock="open" if self._secret else "off",
            switch=switch,
            reading=self._pool.sandbox if self._pool is not None else "",
            speed=self.settings.speed,
            slowed=pace.why if working and not self.settings.paused else "",
            notices=tuple(notices),
        )

    def _no_room(self) -> api.Notice:
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self.data_dir)
            return api.Notice(
                title="There is too little room on the disk",
                message=f"Indexing waits until there is more: {disk.free >> 20:,} MiB are free, and "
                f"{reserve(disk.total) >> 20:,} MiB are left to other programs.",
            )
        return api.Notice(title="There is too little room on the disk", message="Indexing waits.")

    def _encoder_status(self) -> api.EncoderStatus:
        if self._failure is not None and self._no_model:
            return api.EncoderStatus(model="", state="failed", message=str(self._failure))
        try:
            return self.models.live.encoder.status
        except FatalError:
            return api.EncoderStatus(model="", state="resting" if self._failure else "loading")

    def folders(self) -> tuple[api.Folder, ...]:
        """The folders of the library with their counts."""
        waiting = self._pipeline.progress().waiting_by_root if self._pipeline is not None else {}
        return tuple(
            msgspec.convert(
                {
                    "path": root.path,
                    "online": root.online,
                    "files": root.files,
                    "chunks": root.chunks,
                    "bytes": root.bytes,
                    "waiting": waiting.get(root.path, 0),
                    "problems": root.problems,
                    "watch": self._watches.get(root.path, "starting") if root.online else "offline",
                },
                api.Folder,
            )
            for root in self.store.roots()
        )

    def set_paused(self, paused: bool) -> None:
        """Pause or resume indexing, and remember it."""
        with self._changing:
            self.put_settings(msgspec.structs.replace(self.settings, paused=paused))

    def put_settings(self, new: Settings, base: Settings | None = None) -> None:
        """Store settings and follow them; changed ignore rules cause a sweep of every folder.

        What a person wrote into the file meanwhile, or another client set, stays where `new` changes nothing.

        Args:
            new: What is wanted.
            base: What they were when the change was begun; None for what holds now.

        Raises:
            IndexerError: They cannot be stored, or the file cannot be read any more; they are not followed.
        """
        with self._changing:
            base = base or self.settings
            names = [name for name in new.__struct_fields__ if getattr(new, name) != getattr(base, name)]
            present = self._edited()[0] or self.settings
            new = msgspec.structs.replace(present, **{name: getattr(new, name) for name in names})
            if new.chroma.url:
                self._check_chroma(new)
            if self._place is not None:
                settings_module.make_sure_of(self.data_dir, self._place)
            try:
                settings_module.save(self.data_dir, new)
            except OSError as error:
                raise IndexerError(
                    "The settings cannot be stored", f"{self.data_dir}: {error.strerror}."
                ) from error
            self._stamp = settings_module.stamp(self.data_dir)
            self._notices.pop("settings", None)
            self._follow(new)

    def follow_file(self) -> None:
        """Follow what a person wrote into the settings' file, if anything; cheap where nothing was."""
        if not self._changing.acquire(blocking=False):
            return  # they are just being changed
        try:
            self._follow_file()
        finally:
            self._changing.release()

    def _follow_file(self) -> None:
        try:
            edited, stamp = self._edited()
            if edited is not None:
                if edited.chroma.url:
                    self._check_chroma(edited)
                self._follow(edited)
        except IndexerError as error:
            if "settings" not in self._notices:
                log.warning("%s", error.title)
            message = f"{error.message} The settings of before hold until then."
            self._notices["settings"] = api.Notice(title=error.title, message=message)
            return
        self._stamp = stamp
        self._notices.pop("settings", None)

    def _edited(self) -> tuple[Settings | None, Any]:
        """What a person wrote into the file since it was read or written here, and the file's stamp.

        Raises:
            FatalError: It cannot be read.
        """
        stamp = settings_module.stamp(self.data_dir)
        if stamp is None or stamp == self._stamp:
            return None, self._stamp
        return settings_module.load(self.data_dir), stamp

    def _follow(self, new: Settings) -> None:
        old, self.settings = self.settings, new
        self.manners.look_again()
        self.models.follow(old)
        if self._pipeline is None or self._pool is None:
            return  # whatever they say is read at the start
        self._pool.update(new)
        self._keep_pace()
        if old.chroma != new.chroma:
            self.store.use_chroma(new.chroma)
        if (old.ignore, old.index_hidden) != (new.ignore, new.index_hidden):
            self.store.forget_soon()
            for root in self.store.roots():
                self._rules.pop(root.path, None)
                self._open_root(root.path)
        if new.max_file_mb > old.max_file_mb:
            self._retry_larger_than(old.max_file_mb << 20)

    def _check_chroma(self, new: Settings) -> None:
        check_chroma_server(new.chroma)
        if self._secret:
            raise IndexerError(
                "The library is encrypted",
                "A Chroma server would keep its vectors as they are, so it is not used. Encryption can be "
                "turned off: dragoman lock off",
            )

    def tell(self, name: str, title: str, message: str) -> None:
        """Show a notice to the person; a later one of the same name takes its place."""
        self._notices[name] = api.Notice(title=title, message=message)

    def _retry_larger_than(self, size: int) -> None:
        """Files that were skipped for their size; no sweep sees them, as they are unchanged."""
        for root in self.store.roots():
            skipped = (file for file in self.store.files(root.path) if file.status == "skipped")
            self.pipeline.retry_all([file.path for file in skipped if file.size > size])

    def preview(self, request: api.GetPreview) -> api.Preview:
        """A page or the text around a passage, of a file that is in the library.

        Raises:
            IndexerError: The file is not in the library, or cannot be read now.
        """
        path = api.local_path(request.path)
        if self.store.file(path) is None:
            raise IndexerError("Not in the library", f"{path} is not an indexed file.")
        return self.pool.preview(msgspec.structs.replace(request, path=path))


def _not_mounted(place: str) -> api.Notice:
    return api.Notice(
        title=f"A disk is not there: {Path(place).name}",
        message=f"Nothing is mounted at {place} now. What was indexed there is still found, and is compared "
        "with the disk when it is back. If it will not come back, leave its folder out in the settings.",
    )
