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
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import psutil

from indexer.embed import Vectors
from indexer.embed.folder import Model, ModelFolder
from indexer.embed.tokenized import Input, TokenEncoder
from indexer.errors import FatalError, IndexerError
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


def compiled(core: Any, graph: Any, precision: str, threads: int) -> Any:
    """A graph made ready for this processor.

    Args:
        core: As `core` gives it.
        graph: A model or the path of one.
        precision: ``float32``, ``bfloat16`` or ``int8``.
        threads: CPU threads.
    """
    bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint = "bf16" if precision != "float32" and bfloat16 else "f32"
    return core.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
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
    ) -> None:
        """Load a translated model; takes about half a second.

        Args:
            folder: The model, checked.
            place: Where its translation is; see `prepared`.
            threads: CPU threads, 0 for one each real core.
            instructions: What the person wants an instruction-aware model to be told.
            graph: The translation, where it is not in `place` yet.
            findings: The same for what was found.

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
        try:
            file = place / TABLE if findings.table == TABLE else folder.path / findings.table
            self._table = Table(file, findings)
            self._core = core()
            self._compile()
            self._embed(self._queries("", ["."]))
        except IndexerError as error:
            raise FatalError(error.title, error.message) from error
        except Exception as error:  # OpenVINO raises RuntimeError for all it finds wrong
            _log.warning("The translated model cannot be loaded", exc_info=error)
            raise _damaged(place) from error

    def _compile(self) -> None:
        self._request = compiled(
            self._core, self._graph, self._precision, self._threads
        ).create_infer_request()

    @property
    def precision(self) -> str:
        """What it computes in: ``float32``, ``bfloat16`` or ``int8``."""
        return self._precision

    def set_threads(self, threads: int) -> None:
        """Use so many CPU threads from the next batch on, 0 for as many as at first; takes 0.3 s."""
        threads = threads or self._first_threads
        if threads != self._threads:
            self._threads = threads
            self._compile()

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

    def _run(self, inputs: list[Input]) -> Vectors:
        try:
            rows = self._request.infer(self._given(inputs), share_inputs=True)[0]
        except RuntimeError as error:
            raise IndexerError(
                "The model cannot embed a text",
                f"{self._spec.name}: {str(error)[-200:]} Set the engine to torch in the settings.",
            ) from error
        vectors: Vectors = np.array(rows, np.float32)
        return vectors


def _damaged(place: Path) -> FatalError:
    return FatalError(
        "The translated model cannot be loaded",
        f"{place} is damaged. Set the engine to torch in the settings.",
    )
