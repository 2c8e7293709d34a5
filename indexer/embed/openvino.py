"""An encoder on the CPU through OpenVINO, which runs the same model two to five times faster than torch.

The model is translated once (`openvino_child`, in a process of its own), in every precision that the
processor has; what is fastest among those whose vectors are those of torch is kept in the cache, with what
was measured. Where nothing is faster, or the model cannot be translated, that is remembered and torch runs
it.
Once translated a model needs neither torch nor transformers, which take seconds and 300 MB to import.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import fcntl
import hashlib
import importlib
import importlib.util
import logging
import os
import platform
import secrets
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import psutil

from indexer.api import Task
from indexer.embed import Vectors
from indexer.embed.folder import Model, ModelFolder
from indexer.embed.tokenized import Input, TokenEncoder, batches
from indexer.errors import FatalError, IndexerError
from indexer.manners import stepped_back
from indexer.settings import Instructions, Settings, cache_dir, private_folder

_log = logging.getLogger(__name__)

NAME = "openvino"
FINDINGS = "findings.json"
GRAPH = "model.xml"
TABLE = "table.npy"

# Raise this whenever a translation or a choice would come out otherwise.
_FORMAT = 3
# Padded tokens a batch: its activations stay in the second-level cache.
_BUDGET = 1_024
# Up to this width of its layers one thread answers a query as soon as several would, which wait for one
# another at every layer. So each thread has a stream, that is a batch, of its own, up to so many.
_WIDEST_STREAMED = 768
_MOST_STREAMS = 4
# What is kept for shapes that were seen, of all layers together; by itself OpenVINO keeps 5,000 a stream,
# which is 200 MB more after some hundred batches.
_CACHED = 400
# Fewer tokens are not worth being divided.
_LEAST_DIVIDED = 24
# Numbers of a token's activations that share a scale when they are rounded to 8 bits.
_INT8_GROUP = 128
# Small models are quick anyway. Of large ones two copies must fit into memory while they are translated.
_SMALLEST_BYTES = 16 << 20
_COPIES = 3
_PREPARE_S = 1800.0
_PREPARING = threading.Lock()


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What came of translating a model.

    Attributes:
        engine: ``openvino`` or, where that cannot run it or is no faster, ``torch``.
        precision: The one that was chosen.
        tokens_per_s: Measured when it was chosen, by engine and precision.
        cosines: Least cosine to the vectors of torch in float32, by precision.
        reason: Why it is torch.
        table: File of the vectors of the vocabulary; relative to the model's folder, or `TABLE` in this one.
        offset: Byte in that file where they begin.
        shape: Tokens, numbers a token.
        dtype: In safetensors' words: ``F32``, ``F16`` or ``BF16``.
        pad: The token that stands where there is none.
    """

    engine: str
    precision: str = ""
    tokens_per_s: dict[str, float] = {}
    cosines: dict[str, float] = {}
    reason: str = ""
    table: str = ""
    offset: int = 0
    shape: tuple[int, int] = (0, 0)
    dtype: str = "F32"
    pad: int = 0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is asked to translate, and where to write it."""

    path: str
    model: Model
    target: str
    precision: str
    threads: int
    forced: bool


def prepared(folder: ModelFolder, settings: Settings) -> Path | None:
    """The model translated for OpenVINO, or None where torch is to run it.

    The first time a model is translated and measured, which takes from ten seconds to minutes.

    Raises:
        FatalError: The engine that the settings name is not known or not installed, or cannot run the model.
    """
    forced = settings.engine == NAME
    if not _wanted(folder, settings):
        return None
    place = cache_dir() / "engines" / f"{folder.model.key}-{_digest(folder, settings)}"
    with _PREPARING:
        findings = _read(place) or _translate(folder, settings, place)
    if findings.engine == NAME:
        return place
    if forced:
        raise FatalError(
            "OpenVINO cannot run this model",
            f"{folder.model.name}: {findings.reason} Set the engine to auto or torch in the settings.",
        )
    return None


def _wanted(folder: ModelFolder, settings: Settings) -> bool:
    """Whether OpenVINO comes into question, as far as that can be said without looking at the model."""
    if settings.engine not in {"auto", "torch", NAME}:
        raise FatalError(
            "The engine is not known", f"{settings.engine!r} is none. Choose auto, torch or openvino."
        )
    if settings.engine == "torch" or settings.precision not in {"auto", "float32", "bfloat16", "int8"}:
        return False
    if settings.device not in {"auto", "cpu"}:
        return False
    if importlib.util.find_spec(NAME) is None:
        if settings.engine == NAME:
            raise FatalError(
                "OpenVINO is not installed", "Install it (pip install openvino), or set the engine to auto."
            )
        return False
    if settings.engine == NAME:
        return True
    if settings.device == "auto" and _may_have_gpu():
        return False  # torch knows
    size = sum(file.stat().st_size for file in folder.transformer.glob("*.safetensors"))
    return _SMALLEST_BYTES <= size <= psutil.virtual_memory().total // _COPIES


def _may_have_gpu() -> bool:
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    devices = (Path("/dev/nvidia0"), Path("/dev/kfd"), Path("/dev/dxg"))
    return any(device.exists() for device in devices) or bool(
        sys.platform == "win32" and ctypes.util.find_library("nvcuda")
    )


def _digest(folder: ModelFolder, settings: Settings) -> str:
    """Names everything that a translation depends on beside the weights."""
    made_of = (
        _FORMAT,
        version(NAME),
        version("torch"),
        version("transformers"),
        msgspec.json.encode(folder.model).decode(),
        str(folder.path),
        settings.precision,
        settings.engine,
        _processor(),
    )
    return hashlib.blake2b(repr(made_of).encode(), digest_size=6).hexdigest()


def _processor() -> str:
    """The processor's name: what is fastest is another thing on another one."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(place: Path) -> Findings | None:
    try:
        findings = msgspec.json.decode((place / FINDINGS).read_bytes(), type=Findings)
    except (OSError, msgspec.DecodeError):
        return None
    whole = findings.engine != NAME or all(
        (place / name).is_file() for name in (GRAPH, Path(GRAPH).with_suffix(".bin"))
    )
    return findings if whole else None


def _translate(folder: ModelFolder, settings: Settings, place: Path) -> Findings:
    """Have a child translate a model, and put what comes of it in place in one step."""
    new = place.parent / f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}.new"
    try:
        private_folder(place.parent)
        with _alone(place), contextlib.ExitStack() as afterwards:
            if (findings := _read(place)) is not None:
                return findings  # another process was first
            for abandoned in place.parent.glob(f".{place.name}.*.new"):
                shutil.rmtree(abandoned, ignore_errors=True)
            new.mkdir(mode=0o700)
            afterwards.callback(shutil.rmtree, new, ignore_errors=True)
            order = Order(
                path=str(folder.path),
                model=folder.model,
                target=str(new),
                precision=settings.precision,
                threads=threads_of(settings.encoder_threads),
                forced=settings.engine == NAME,
            )
            _run_child(order)
            if _read(new) is None:
                return Findings(engine="torch", reason="The translation ended without a result.")
            discard(place)
            new.rename(place)
    except OSError as error:
        _log.warning("%s cannot be translated: %s", folder.model.name, error.strerror)
        return Findings(engine="torch", reason=f"{place.parent} cannot be written: {error.strerror}.")
    findings = _read(place) or Findings(engine="torch", reason="The translation is damaged.")
    _log.info("%s runs in %s %s: %s", folder.model.name, findings.engine, findings.precision, findings.reason)
    return findings


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Let one process at a time translate a model; the others wait and take what it made."""
    with (place.parent / f".{place.name}.lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def discard(place: Path) -> None:
    """Remove a translation, so that it is made anew."""
    shutil.rmtree(place, ignore_errors=True)


def _run_child(order: Order) -> None:
    command = [sys.executable, "-m", "indexer.embed.openvino_child"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(order), capture_output=True, timeout=_PREPARE_S, check=False
        )
    except subprocess.TimeoutExpired:
        _log.warning("A model could not be translated in time")
        return
    if done.returncode:
        _log.warning("A model could not be translated: %s", done.stderr[-2000:].decode("utf-8", "replace"))


def threads_of(wanted: int) -> int:
    """Threads of an encoder on the CPU: what was set, or one for each real core."""
    return wanted or psutil.cpu_count(logical=False) or os.cpu_count() or 1


def core() -> Any:
    """OpenVINO, with its telemetry out of reach."""
    # A dependency that reports to Google; without it OpenVINO uses a stub of its own (telemetry_utils.py).
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    openvino: Any = importlib.import_module(NAME)
    return openvino.Core()


def compiled(core: Any, graph: Any, precision: str, threads: int, streams: int = 1) -> Any:
    """A graph made ready for this processor.

    Args:
        core: As `core` gives it.
        graph: A model or the path of one.
        precision: ``float32``, ``bfloat16`` or ``int8``.
        threads: CPU threads.
        streams: How many batches are computed at once; the threads are divided among them.
    """
    bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint = "bf16" if precision != "float32" and bfloat16 else "f32"
    return core.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "CPU_RUNTIME_CACHE_CAPACITY": _CACHED,
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INT8_GROUP if precision == "int8" else 0,
        },
    )


class Table:
    """The vectors of the vocabulary, where they lie on the disk; only those in use come into memory."""

    def __init__(self, file: Path, findings: Findings) -> None:
        kind: Any = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[findings.dtype]
        self._halved = findings.dtype == "BF16"
        self._rows = np.memmap(file, kind, "r", findings.offset, findings.shape)

    def __getitem__(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Float32 (*ids.shape, numbers a token)."""
        rows = self._rows[ids]
        if self._halved:
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(rows, np.float32)


class OpenVinoEncoder(TokenEncoder):
    """A translated model. One thread owns it."""

    engine = NAME
    device = "cpu"

    def __init__(
        self,
        folder: ModelFolder,
        place: Path,
        threads: int = 0,
        *,
        instructions: Instructions = Instructions(),  # noqa: B008  frozen
        graph: Any = None,
        findings: Findings | None = None,
        behind: bool = True,
    ) -> None:
        """Load a translated model; takes about half a second.

        Args:
            folder: The model, checked.
            place: Where its translation is; see `prepared`.
            threads: CPU threads, 0 for one each real core.
            instructions: What the person wants an instruction-aware model to be told.
            graph: The translation, where it is not in `place` yet.
            findings: The same for what was found.
            behind: Whether passages give way to other work where queries have a thread of their own.

        Raises:
            FatalError: It cannot be loaded.
        """
        findings = findings or _read(place)
        if findings is None:
            raise _damaged(place)
        super().__init__(folder, instructions, pad=findings.pad, budget=_BUDGET)
        self._precision = findings.precision
        self._threads = self._first_threads = threads_of(threads)
        self._graph = place / GRAPH if graph is None else graph
        self._behind = behind
        try:
            file = place / TABLE if findings.table == TABLE else folder.path / findings.table
            self._table = Table(file, findings)
            self._width = findings.shape[1]
            self._core = core()
            self._compile()
            self._embed(self._queries("", ["."]))
        except IndexerError as error:
            raise FatalError(error.title, error.message) from error
        except Exception as error:  # OpenVINO raises RuntimeError for all it finds wrong
            _log.warning("The translated model cannot be loaded", exc_info=error)
            raise _damaged(place) from error

    def _compile(self) -> None:
        streams = min(self._threads, _MOST_STREAMS) if self._streamed else 1
        make = partial(compiled, self._core, self._graph, self._precision, self._threads, streams)
        # Where queries have a thread of their own, those that work on passages need not keep up with it.
        model = stepped_back(make) if self._streamed and self._behind else make()
        self._requests = [model.create_infer_request() for _ in range(streams)]
        self._at_once = streams

    @property
    def _streamed(self) -> bool:
        return self._width <= _WIDEST_STREAMED

    def beside(self) -> QueriesBeside | None:
        """For a second thread, which may embed queries with it while the first embeds passages.

        None of a large model, which would need its memory twice.
        """
        return QueriesBeside(self) if self._streamed else None

    def one_thread(self) -> Any:
        """The model once more, for one thread of the processor; it shares nothing but what is only read."""
        return compiled(self._core, self._graph, self._precision, 1).create_infer_request()

    def queries_by(self, request: Any, texts: Sequence[str], task: Task) -> Vectors:
        """As `encode_queries`, computed by what `one_thread` gave; in any thread."""
        inputs = self._queries(self.query_prefix(task), texts)
        out = np.empty((len(inputs), self._spec.dim), np.float32)
        groups = batches([len(one) for one in inputs], self._budget)
        for group, vectors in self._by([request], inputs, groups):
            out[group] = vectors
        return self._checked(out)

    @property
    def precision(self) -> str:
        """What it computes in: ``float32``, ``bfloat16`` or ``int8``."""
        return self._precision

    def set_threads(self, threads: int) -> None:
        """Use so many CPU threads from the next batch on, 0 for as many as at first.

        Takes 0.3 s, and no time where some of the streams have to rest only.
        """
        threads = threads or self._first_threads
        streams = len(self._requests)
        if threads > self._threads or (streams == 1 and threads != self._threads):
            self._threads = threads
            self._compile()
            return
        self._at_once = max(1, threads * streams // self._threads)

    def inputs_of(self, text: str) -> list[npt.NDArray[Any]]:
        """What the graph is given for the beginning of a passage: vectors of its tokens, mask, unpooled."""
        ((text, ids),) = self._passages([text])
        return self._given(self._windows(text, ids)[:1])

    def _given(self, inputs: list[Input]) -> list[npt.NDArray[Any]]:
        lengths = np.array([len(one) for one in inputs])
        ids = np.full((len(inputs), lengths.max()), self._pad, np.int64)
        for row, one in enumerate(inputs):
            ids[row, : len(one)] = one.ids
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        unpooled = np.array([one.unpooled for one in inputs], np.int64)
        return [self._table[ids], mask, unpooled]

    def _most_tokens(self, lengths: Sequence[int]) -> int:
        return divided(lengths, self._at_once, self._budget)

    def _computed(
        self, inputs: list[Input], groups: Iterable[list[int]]
    ) -> Iterator[tuple[list[int], Vectors]]:
        yield from self._by(self._requests[: self._at_once], inputs, groups)

    def _by(
        self, free: list[Any], inputs: list[Input], groups: Iterable[list[int]]
    ) -> Iterator[tuple[list[int], Vectors]]:
        """Each group with its vectors, as many at once as there are requests in `free`."""
        under_way: deque[_Batch] = deque()
        try:
            for group in groups:
                if not free:
                    free.append(under_way[0].request)
                    yield _finished(under_way)
                # What it is given must stay until it has answered.
                batch = _Batch(free.pop(), group, self._given([inputs[at] for at in group]))
                batch.request.start_async(batch.given, share_inputs=True)
                under_way.append(batch)
            while under_way:
                yield _finished(under_way)
        except RuntimeError as error:
            raise IndexerError(
                "The model cannot embed a text",
                f"{self._spec.name}: {str(error)[-200:]} Set the engine to torch in the settings.",
            ) from error
        finally:
            for batch in under_way:  # the next texts must not find it at work
                with contextlib.suppress(RuntimeError):
                    batch.request.wait()


class QueriesBeside:
    """Embeds queries while an `OpenVinoEncoder` embeds passages. One thread owns it, another than that one's.

    A query then waits neither for a batch of passages nor, at every layer, for a thread that lost its core.
    """

    def __init__(self, encoder: OpenVinoEncoder) -> None:
        """Takes a fifth of a second.

        Args:
            encoder: Whose model and tokenizer it uses.

        Raises:
            RuntimeError: OpenVINO refuses.
        """
        self._encoder = encoder
        self._request = encoder.one_thread()

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """As `Encoder.encode_queries`, with the errors of that."""
        return self._encoder.queries_by(self._request, texts, task)


class _Batch(NamedTuple):
    """Inputs that are being computed."""

    request: Any
    group: list[int]
    given: list[npt.NDArray[Any]]


def _finished(under_way: deque[_Batch]) -> tuple[list[int], Vectors]:
    """Wait for the eldest batch; its group and vectors."""
    batch = under_way[0]
    batch.request.wait()
    under_way.popleft()
    return batch.group, np.array(batch.request.get_output_tensor(0).data, np.float32)


def divided(lengths: Sequence[int], parts: int, most: int) -> int:
    """Padded tokens of a batch with which texts make as many batches as are computed at once, or some times.

    Args:
        lengths: Tokens of each text.
        parts: How many batches are computed at once.
        most: Tokens of a batch at most.
    """
    total = sum(lengths)
    if parts == 1 or total < 2 * _LEAST_DIVIDED:
        return most
    rounds = -(-total // (parts * most))
    # Half a text more, since texts are not cut: otherwise a last one often makes a batch by itself.
    return min(most, -(-total // (rounds * parts)) + -(-max(lengths) // 2))


def _damaged(place: Path) -> FatalError:
    return FatalError(
        "The translated model cannot be loaded",
        f"{place} is damaged. Set the engine to torch in the settings.",
    )
