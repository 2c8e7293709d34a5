"""The models that are known by name, what is on this computer of them, and which one suits it."""

from __future__ import annotations

import importlib.util
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from indexer import api
from indexer.embed import ModelChoice, hub
from indexer.embed.bundled import DATA_SIZE, NAME, key
from indexer.embed.folder import CONFIG
from indexer.embed.measure import Measure, last_measured
from indexer.embed.sentence import opened
from indexer.errors import IndexerError
from indexer.settings import Settings, cache_dir

_log = logging.getLogger(__name__)

REFERENCE_MODEL = "Qwen/Qwen3-Embedding-0.6B"
_SERVER = "server:"
_NVIDIA_TIMEOUT_S = 5.0
# What the 0.6B model takes in 16 bits with a batch of chunks and the driver's own share, and some to spare.
_ENOUGH_GPU_BYTES = 3_500 << 20
# Apple's GPU shares the memory with everything else that runs.
_ENOUGH_SHARED_BYTES = 15 << 30
# Beside the weights: torch itself and what a batch takes. The bundled model's process had 0.85 GB resident
# for 0.47 GB of weights.
_OVERHEAD_BYTES = 450 << 20
_ACTIVATIONS = 1.1
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is known by name.

    Attributes:
        reference: The bundled model's name, or ``org/name`` on the Hub.
        languages: As its card says.
        licence: SPDX identifier, or the licence's name.
        parameters: Number of weights.
        download_bytes: Of the files that are taken, about.
        dimensions: Of its vectors.
        choices: Matryoshka lengths, the longest first, without `dimensions` itself.
        max_tokens: Longest input.
        gated: Whether its licence has to be accepted on the Hub before it can be downloaded.
        summary: What it is good for, in a line.
    """

    reference: str
    languages: str
    licence: str
    parameters: int
    download_bytes: int
    dimensions: int
    choices: tuple[int, ...] = ()
    max_tokens: int
    gated: bool = False
    summary: str


# Languages, licence, dimensions, Matryoshka lengths and input length are from the models' cards at
# https://huggingface.co/REFERENCE, as of 2026. Parameters: of Qwen3 as keras-hub counted the same weights
# (https://github.com/keras-team/keras-hub/pull/2455; of the 8B without the 621,219,840 of the language
# model's head, which the embedding model does not have); of XLM-RoBERTa's and BERT's kind counted in a model
# of their config.json; of embeddinggemma from https://ai.google.dev/gemma/docs/embeddinggemma (308M).
# Downloads are the parameters in the precision that is published, and the tokenizer: about right; the exact
# size is asked for before anything is downloaded. A model's work goes by its weights beside the vocabulary.
KNOWN = (
    Known(
        reference=NAME,
        languages="100 languages",
        licence="MIT",
        parameters=117_653_760,
        download_bytes=0,
        dimensions=384,
        max_tokens=512,
        summary="Comes with Dragoman: small and quick on any processor, tuned here across languages.",
    ),
    Known(
        reference=REFERENCE_MODEL,
        languages="over 100 languages",
        licence="Apache-2.0",
        parameters=595_776_512,
        download_bytes=1_207_000_000,
        dimensions=1024,
        choices=(768, 512, 256, 128, 64, 32),
        max_tokens=32_768,
        summary="Best for its size: long texts, code, told what to look for. Wants a GPU.",
    ),
    Known(
        reference="Qwen/Qwen3-Embedding-4B",
        languages="over 100 languages",
        licence="Apache-2.0",
        parameters=4_021_774_336,
        download_bytes=8_060_000_000,
        dimensions=2560,
        choices=(2048, 1024, 768, 512, 256, 128, 64, 32),
        max_tokens=32_768,
        summary="More exact than 0.6B at eight times the work; for a GPU with 12 GB or more.",
    ),
    Known(
        reference="Qwen/Qwen3-Embedding-8B",
        languages="over 100 languages",
        licence="Apache-2.0",
        parameters=7_567_295_488,
        download_bytes=15_150_000_000,
        dimensions=4096,
        choices=(2048, 1024, 768, 512, 256, 128, 64, 32),
        max_tokens=32_768,
        summary="First on the multilingual MTEB when it came out (June 2025); for a GPU with 24 GB.",
    ),
    Known(
        reference="BAAI/bge-m3",
        languages="over 100 languages",
        licence="MIT",
        parameters=567_754_752,
        download_bytes=2_293_000_000,
        dimensions=1024,
        max_tokens=8192,
        summary="Long texts in many languages, without instructions; only its dense vectors are used.",
    ),
    Known(
        reference="google/embeddinggemma-300m",
        languages="over 100 languages",
        licence="Gemma",
        parameters=307_581_696,
        download_bytes=1_268_000_000,
        dimensions=768,
        choices=(512, 256, 128),
        max_tokens=2048,
        gated=True,
        summary="Strong for a laptop. Google's licence must be accepted on the Hub, with a token (HF_TOKEN).",
    ),
    Known(
        reference="intfloat/multilingual-e5-base",
        languages="100 languages",
        licence="MIT",
        parameters=278_043_648,
        download_bytes=1_135_000_000,
        dimensions=768,
        max_tokens=512,
        summary="The bundled model's larger sister: somewhat better at four times the work.",
    ),
    Known(
        reference="intfloat/multilingual-e5-large",
        languages="100 languages",
        licence="MIT",
        parameters=559_890_432,
        download_bytes=2_262_000_000,
        dimensions=1024,
        max_tokens=512,
        summary="The largest of the E5 family; fourteen times the work of the bundled model.",
    ),
)


def known(reference: str) -> Known | None:
    """What is known of a model by its name, upper and lower case alike; None for any other model."""
    name = (reference or NAME).casefold()
    return next((model for model in KNOWN if model.reference.casefold() == name), None)


def canonical(reference: str) -> str:
    """A reference with the upper and lower case of the known model of that name."""
    model = known(reference) if reference else None
    return reference if model is None else model.reference


# --- this computer ------------------------------------------------------------------------------


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What models can run on.

    Attributes:
        memory_bytes: Main memory.
        gpu: Name of the GPU that torch could use; empty for none.
        gpu_bytes: Its memory; all of the main memory where it is shared.
        shared: Whether it is.
    """

    memory_bytes: int
    gpu: str = ""
    gpu_bytes: int = 0
    shared: bool = False

    @property
    def enough(self) -> bool:
        """Whether the smallest model that wants a GPU runs well on it."""
        return self.gpu_bytes >= (_ENOUGH_SHARED_BYTES if self.shared else _ENOUGH_GPU_BYTES)


def hardware(settings: Settings, *, nvidia_smi: str = "nvidia-smi") -> Hardware:
    """Look at this computer without torch, which takes seconds to import; asks NVIDIA's tool if there is one.

    A GPU counts only if the torch that is installed was built for it and the settings allow it.
    """
    memory = psutil.virtual_memory().total
    if settings.device == "cpu":
        return Hardware(memory_bytes=memory)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Hardware(memory_bytes=memory, gpu="Apple", gpu_bytes=memory, shared=True)
    if not _torch_has_cuda():
        return Hardware(memory_bytes=memory)
    name, size = _nvidia(nvidia_smi)
    return Hardware(memory_bytes=memory, gpu=name, gpu_bytes=size)


def recommended(found: Hardware) -> str:
    """The reference of the model to take on a computer."""
    return REFERENCE_MODEL if found.enough else NAME


def memory_bytes(parameters: int, settings: Settings, found: Hardware) -> int:
    """Main or GPU memory that a model needs about, in the precision that it would run in here."""
    if not parameters:
        return 0
    automatic = "bfloat16" if found.gpu else "float32"
    size = _BYTES.get(automatic if settings.precision == "auto" else settings.precision, 4)
    return int(parameters * size * _ACTIVATIONS) + _OVERHEAD_BYTES


def _torch_has_cuda() -> bool:
    """Whether the torch that is installed was built for NVIDIA's GPUs, as its version.py says."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        lines = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.startswith("cuda") and "=" in line and "'" in line.split("=")[1] for line in lines)


def _nvidia(program: str) -> tuple[str, int]:
    """Name and memory of the largest GPU, or nothing where the tool or the driver is not there."""
    path = shutil.which(program)
    if path is None:
        return "", 0
    command = [path, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(
            command, capture_output=True, timeout=_NVIDIA_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("%s does not answer: %s", program, type(error).__name__)
        return "", 0
    found = []
    for line in out.stdout.decode(errors="replace").splitlines():
        name, _, size = line.rpartition(",")
        if size.strip().isdigit():
            found.append((int(size) << 20, name.strip()))
    size_, name = max(found, default=(0, ""))
    return name, size_


# --- what can be chosen -------------------------------------------------------------------------


State = Literal["active", "building", "kept"]


class InLibrary(msgspec.Struct, frozen=True, kw_only=True):
    """What a library has of a model.

    Attributes:
        state: Whether it is used, built, or kept beside the one in use.
        vectors: Texts that have a vector of it.
        vector_bytes: Disk that these take.
        dimensions: Their length.
    """

    state: State
    vectors: int = 0
    vector_bytes: int = 0
    dimensions: int = 0


def models(
    settings: Settings,
    library: Mapping[str, InLibrary],
    *,
    found: Hardware | None = None,
    measured: Callable[[str], Measure | None] | None = None,
) -> tuple[api.Model, ...]:
    """Every model that can be chosen or downloaded. Reads some small files, no network; may take some 100 ms.

    Args:
        settings: Servers, device and precision.
        library: What the library has, by reference; the bundled model's name for that one.
        found: This computer, if it is known already.
        measured: Speeds by reference; those that were measured here if None.

    Returns:
        The recommended one first, then what is used or installed, then what could be downloaded.
    """
    found = found or hardware(settings)
    speeds = measured or last_measured
    best = recommended(found)
    downloaded = {one.manifest.reference: one for one in hub.all_installed()}
    listed: dict[str, api.Model] = {}
    for reference in [model.reference for model in KNOWN] + list(downloaded):
        if reference not in listed:
            listed[reference] = _named(reference, downloaded.get(reference), settings, found)
    for server in settings.servers:
        reference = f"{_SERVER}{server.name}"
        listed[reference] = api.Model(
            reference=reference,
            name=server.model or server.name,
            kind="server",
            state="installed",
            summary=f"Embeds at {server.url}.",
            dimensions=server.dimensions,
            max_tokens=server.max_tokens,
        )
    for reference in (*settings.own_models, *library):
        if reference not in listed:
            listed[reference] = _own(reference, settings, found)
    ready = [_with_library(model, library.get(model.reference), speeds, best) for model in listed.values()]
    order = {"active": 1, "building": 1, "kept": 1, "installed": 2, "available": 3}
    return tuple(sorted(ready, key=lambda model: 0 if model.recommended else order[model.state]))


def _named(reference: str, here: hub.Installed | None, settings: Settings, found: Hardware) -> api.Model:
    model = known(reference)
    bundled = reference == NAME
    parameters = model.parameters if model else 0
    shape = _shape(here.path, reference, settings) if here and not model else _Shape()
    size = _folder_bytes(cache_dir() / "models" / key()) if bundled else here.manifest.bytes if here else 0
    return api.Model(
        reference=reference,
        name=reference.rpartition("/")[2],
        kind="bundled" if bundled else "hub",
        state="installed" if bundled or here else "available",
        summary=model.summary if model else "",
        languages=model.languages if model else "",
        licence=model.licence if model else here.manifest.licence if here else "",
        parameters=parameters or shape.parameters,
        download_bytes=0 if bundled or here else model.download_bytes if model else 0,
        installed_bytes=size or (DATA_SIZE if bundled else 0),
        memory_bytes=memory_bytes(parameters or shape.parameters, settings, found),
        dimensions=model.dimensions if model else shape.dimensions,
        choices=model.choices if model else shape.choices,
        max_tokens=model.max_tokens if model else shape.max_tokens,
    )


def _own(reference: str, settings: Settings, found: Hardware) -> api.Model:
    """A model of the library that is none of the known, downloaded or set ones: a folder, a file, or gone."""
    path = Path(reference)
    is_file = path.suffix.lower() == ".gguf"
    kind: Literal["hub", "folder", "gguf", "server"] = "gguf" if is_file else "folder"
    if reference.startswith(_SERVER):
        kind = "server"
    elif hub.is_hub_reference(reference):
        kind = "hub"
    size = 0
    if path.is_absolute():
        try:
            size = path.stat().st_size if is_file else _folder_bytes(path)
        except OSError:
            _log.info("%s cannot be read", path)
    shape = _shape(path, "", settings) if kind == "folder" and path.is_absolute() else _Shape()
    return api.Model(
        reference=reference,
        name=path.name or reference,
        kind=kind,
        state="installed",
        installed_bytes=size,
        memory_bytes=memory_bytes(shape.parameters, settings, found),
        dimensions=shape.dimensions,
        choices=shape.choices,
        max_tokens=shape.max_tokens,
    )


def _with_library(
    model: api.Model, here: InLibrary | None, speeds: Callable[[str], Measure | None], best: str
) -> api.Model:
    speed = speeds(model.reference)
    more: dict[str, object] = {"recommended": model.reference == best}
    if speed is not None:
        more |= {"tokens_per_s": speed.tokens_per_s, "device": speed.device}
    if here is not None:
        more |= {"state": here.state, "vectors": here.vectors, "vector_bytes": here.vector_bytes}
        if here.dimensions:
            more["dimensions"] = here.dimensions
    return msgspec.structs.replace(model, **more)


class _Shape(msgspec.Struct, frozen=True):
    """What a model's own files say, for those that are not known by name."""

    dimensions: int = 0
    choices: tuple[int, ...] = ()
    max_tokens: int = 0
    parameters: int = 0


def _shape(folder: Path, name: str, settings: Settings) -> _Shape:
    """Read a folder; a second the first time, then some milliseconds. Nothing of one that cannot be read."""
    try:
        model = opened(folder, ModelChoice(), settings, name=name).model
        config = hub.read_json(folder / model.transformer / CONFIG)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors") if file.is_file())
    except (IndexerError, OSError) as error:
        _log.info("%s cannot be read: %s", folder, error)
        return _Shape()
    width = 2 if "16" in str(config.get("dtype") or config.get("torch_dtype")) else 4
    return _Shape(model.full_dim or model.dim, model.choices, model.max_length, size // width)


def _folder_bytes(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except OSError:
        return 0


def choice_of(reference: str, dimensions: int = 0) -> ModelChoice:
    """The choice that a person's words mean: empty for the bundled model, known names in their own case."""
    reference = canonical(reference)
    if (path := Path(reference)).is_absolute():
        reference = str(plain(path))
    return ModelChoice("" if reference == NAME else reference, dimensions)


def plain(path: Path) -> Path:
    """A full path without `..`, so that a model has one name; links stay, as they may be meant to move."""
    return path.resolve() if ".." in path.parts else path
