"""Models in one .gguf file, llama.cpp's format, often quantised.

Two engines run them. llama.cpp (the package ``llama-cpp-python``) keeps the weights quantised in memory and
knows nearly every architecture that is published so. Where it is not installed, transformers makes plain
numbers of them again, for Qwen3.

The file is a stranger's: what its head claims is checked against its size before anything is believed. The
format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import logging
import mmap
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from indexer.api import Task
from indexer.embed import Encoder, EncoderInfo, ModelChoice, Vectors
from indexer.embed.bundled import bundled_folder
from indexer.embed.folder import TOKENIZER, Model, ModelFolder
from indexer.embed.sentence import (
    GEMMA_PASSAGE,
    GEMMA_QUERY,
    QWEN_END,
    QWEN_QUERY,
    chosen_dim,
    family_of,
    instruction_of,
    matryoshka,
    query_prefix,
    spread,
    tasks_of,
    window,
)
from indexer.embed.windows import beginning, even_cuts, means, most_windows
from indexer.errors import FatalError, IndexerError
from indexer.settings import Instructions, Settings, cache_dir, private_folder

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_NATIVE_LOG = logging.getLogger(f"{__name__}.llama_cpp")

_READING = 1
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS = 65_536
_MOST_TENSORS = 1 << 17
_MOST_DIMS = 4
_LONGEST_NAME = 65_536
_STRING, _ARRAY = 8, 9
_FORMATS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
# Numbers and bytes of a block, by type of tensor, where known.
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 30: (1, 2), 28: (1, 8), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8)},
    **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 20: (32, 18)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{23: (256, 136), 21: (256, 110), 18: (256, 98), 22: (256, 82), 16: (256, 66), 17: (256, 74)},
}
_POOLINGS = {1: "mean", 2: "cls", 3: "lasttoken"}
_LLAMA_POOLINGS = {pooling: number for number, pooling in _POOLINGS.items()}
_RERANKER = 4
# Architectures whose tokens see what follows; of the others the last token has read all.
_BIDIRECTIONAL = {
    *("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "eurobert"),
    *("modern-bert", "gemma-embedding", "t5encoder"),
}
# What transformers' loader and tokenizers are checked with in the tests.
_BY_TRANSFORMERS = {"qwen3"}
_QUANTISATION = re.compile(r"[-._](?:i?q\d\w*|f16|f32|bf16|fp16|fp32)(?:[-._].*)?$")
# Sequences and tokens that llama.cpp works on at once. For each of these tokens it has room for the logits,
# though nobody wants them here (4 bytes for each word of the vocabulary: 0.3 GB for 512 tokens of Qwen3), so
# that more would cost memory, and on a CPU is no faster.
_SEQUENCES = 64
_STEP = 512
# Where tokens see what follows, all of a text must be in one step, so that less is read at once unless the
# person asks for more.
_BIDIRECTIONAL_LENGTH = 2_048
# How long a model may take to be loaded and to embed three texts.
_TRY_S = 600.0
_HOW = "Install the extra: pip install 'dragoman[gguf]' (transformers' way) or llama-cpp-python."


class Header(NamedTuple):
    """What a .gguf file says of itself."""

    values: dict[str, Any]
    tensors: tuple[Tensor, ...]
    end: int


class Tensor(NamedTuple):
    """Where a tensor is in the file, and its type as ggml numbers them."""

    name: str
    kind: int
    first: int
    size: int


class GgufModel(ModelFolder, frozen=True, kw_only=True):
    """A .gguf file that can be used; `path` is the file.

    Attributes:
        counts: A tokenizer.json to count tokens by.
        architecture: As llama.cpp calls it.
        head_dim: Length of the vectors that attention compares; 0 where the file does not say.
    """

    counts: Path
    architecture: str
    head_dim: int

    @property
    def info(self) -> EncoderInfo:
        """What the rest of the program must know of the model."""
        model = self.model
        return EncoderInfo(
            key=model.key, name=model.name, dim=model.dim, max_tokens=model.max_passage, tokenizer=self.counts
        )

    @property
    def tokenizer(self) -> Path:
        """Where the tokenizer is written to that transformers makes of the file's."""
        return cache_dir() / "gguf" / self.model.key / TOKENIZER


def gguf_info(path: Path, choice: ModelChoice, settings: Settings) -> EncoderInfo:
    """What `load_gguf` will load; reads the file's head and some blocks of it.

    Raises:
        FatalError: It is no such file, or not one of an embedding model.
    """
    return read_gguf(path, choice, settings).info


def load_gguf(path: Path, choice: ModelChoice, settings: Settings) -> Encoder:
    """Load a model from a .gguf file with the engine that is set, or else with the best that is installed.

    Raises:
        FatalError: As `gguf_info`, or no engine for it is installed; the message says what to do.
    """
    model = read_gguf(path, choice, settings)
    engine = choose_engine(settings.gguf_engine, model)
    if engine == "llama.cpp":
        _tried_out(model, settings)
        return LlamaEncoder(
            model, settings.device, settings.encoder_threads, instructions=settings.instructions
        )
    from indexer.embed.transformer import TransformerEncoder

    _convert_tokenizer(model)
    return TransformerEncoder(
        model,
        settings.device,
        settings.encoder_threads,
        precision=settings.precision,
        instructions=settings.instructions,
        load=partial(_load_dequantised, model),
    )


def choose_engine(wanted: str, model: GgufModel) -> str:
    """``llama.cpp`` or ``transformers``.

    Raises:
        FatalError: The engine is not installed or cannot run the model.
    """
    if wanted not in {"auto", "llama.cpp", "transformers"}:
        raise FatalError("The engine is not known", f"{wanted!r}: choose auto, llama.cpp or transformers.")
    if wanted != "transformers" and importlib.util.find_spec("llama_cpp"):
        return "llama.cpp"
    if wanted == "llama.cpp":
        raise FatalError(
            "llama.cpp is not installed", "Run: pip install llama-cpp-python. Or choose another engine."
        )
    if model.architecture not in _BY_TRANSFORMERS:
        raise _unsuitable(
            model.path,
            f"{model.architecture} is run by llama.cpp only. Run: pip install llama-cpp-python",
        )
    if not (importlib.util.find_spec("gguf") and importlib.util.find_spec("accelerate")):
        raise FatalError("Nothing here can run a .gguf file", _HOW)
    return "transformers"


# --- the file -------------------------------------------------------------------------------------


def read_gguf(path: Path, choice: ModelChoice, settings: Settings) -> GgufModel:
    """Read what a model is from its file.

    Raises:
        FatalError: As `gguf_info`.
    """
    path = path.expanduser().absolute()
    try:
        with path.open("rb") as stream, _mapped(stream.fileno()) as data:
            header = read_header(data)
            digest = _digest(data, header)
    except OSError as error:
        raise _unsuitable(path, f"It cannot be read: {error.strerror or error}.") from error
    except (ValueError, struct.error, OverflowError) as error:
        raise _unsuitable(path, f"It is damaged or no .gguf file: {error}.") from error
    return _model(path, header, digest, choice, settings)


def _mapped(handle: int) -> mmap.mmap:
    if os.fstat(handle).st_size < 24:
        raise ValueError("it is too short")
    return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)


class _Cursor:
    """Reads a file from its beginning, and nothing beyond its end."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def string(self, most: int = 1 << 24) -> str:
        size = self.number("Q")
        if size > most:
            raise ValueError("a name is too long")
        return self.take(size).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A value; of a list of strings its length only, for that is all that is wanted of a vocabulary."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            if kind not in _FORMATS:
                raise ValueError(f"it has a value of an unknown kind ({kind})")
            return self.number(_FORMATS[kind])
        inner, count = self.number("I"), self.number("Q")
        if inner == _STRING:
            for _ in range(self._fits(count, 8)):
                self.take(self.number("Q"))
            return count
        if inner not in _FORMATS:
            raise ValueError(f"it has a list of an unknown kind ({inner})")
        size = struct.calcsize(f"<{_FORMATS[inner]}")
        self.take(self._fits(count, size) * size)
        return count

    def _fits(self, count: int, size: int) -> int:
        if count > (len(self.data) - self.at) // size:
            raise ValueError("it ends too early")
        return int(count)


def read_header(data: mmap.mmap | bytes) -> Header:
    """Read the head of a .gguf file.

    Raises:
        ValueError: It is damaged, or of a version that is not known.
    """
    cursor = _Cursor(data)
    if cursor.take(4) != _MAGIC:
        raise ValueError("it does not begin as one")
    version, tensor_count, key_count = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}")
    if tensor_count > _MOST_TENSORS or key_count > _MOST_KEYS:
        raise ValueError("it claims more than any model has")
    values: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string(_LONGEST_NAME)
        values[key] = cursor.value(cursor.number("I"))
    found = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise ValueError("its alignment is wrong")
    start = -(-cursor.at // alignment) * alignment
    tensors = []
    next_first = len(data)
    for tensor in sorted(found, key=lambda tensor: -tensor.first):
        first = start + tensor.first
        if first > len(data) or tensor.size > len(data) - first:
            raise ValueError("it ends too early; was it downloaded to the end?")
        # One of an unknown type reaches to the next.
        tensors.append(tensor._replace(first=first, size=tensor.size or next_first - first))
        next_first = first
    return Header(values, tuple(tensors), cursor.at)


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.string(_LONGEST_NAME)
    dims = cursor.number("I")
    if dims > _MOST_DIMS:
        raise ValueError(f"{name[:40]!r} has {dims} dimensions")
    count = 1
    for _ in range(dims):
        count *= cursor.number("Q")
    kind, first = cursor.number("I"), cursor.number("Q")
    numbers, size = _BLOCKS.get(kind, (1, 0))
    return Tensor(name, kind, first, -(-count // numbers) * size)


def _digest(data: mmap.mmap, header: Header) -> str:
    """Of the whole head, and of blocks of each tensor: see `sentence.spread` for why that is enough."""
    digest = hashlib.blake2b(digest_size=32)
    digest.update(data[: header.end])
    for tensor in sorted(header.tensors):
        for start, count in spread(tensor.size):
            first = tensor.first + start
            digest.update(data[first : first + count])
    return digest.hexdigest()


def _model(path: Path, header: Header, digest: str, choice: ModelChoice, settings: Settings) -> GgufModel:
    values = header.values

    def number(name: str) -> int:
        value = values.get(f"{architecture}.{name}")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    architecture = str(values.get("general.architecture", ""))
    if values.get("general.type", "model") != "model" or not header.tensors:
        raise _unsuitable(path, f"It is no model ({values.get('general.type', 'there are no weights')}).")
    if isinstance(values.get("split.count"), int) and values["split.count"] > 1:
        raise _unsuitable(path, "It is one part of several. Join them with llama-gguf-split --merge.")
    dim, length = number("embedding_length"), number("context_length")
    if not dim or not length:
        raise _unsuitable(path, "It does not say how long its vectors and texts are; is it a language model?")
    said = values.get(f"{architecture}.pooling_type")
    if said == _RERANKER:
        raise _unsuitable(path, "It is a reranker, which gives no vectors.")
    pooling = _POOLINGS.get(said if isinstance(said, int) else 0, "")
    pooling = pooling or ("mean" if architecture in _BIDIRECTIONAL else "lasttoken")
    name, query, passage = _prompts(path, values, architecture)
    instruction, words = instruction_of(query)
    if architecture in _BIDIRECTIONAL and not settings.context_tokens:
        length = min(length, _BIDIRECTIONAL_LENGTH)
    length = window(length, settings.context_tokens)
    kept = chosen_dim(dim, choice.dimensions, name)
    model_type = "gemma3_text" if architecture == "gemma-embedding" else architecture
    made_of = (_READING, digest, pooling, passage, kept, min(length, 2_048))
    made = hashlib.blake2b(msgspec.json.encode(made_of), digest_size=8).hexdigest()
    kind = re.sub(r"[^A-Za-z0-9.]+", "-", architecture)[:40].strip("-.")
    model = Model(
        key=f"gguf-{kind}-{kept}-{made}",
        name=name,
        dim=kept,
        max_length=length,
        # A token is at least a byte.
        max_passage=max(1, length - 3 - len(passage.encode())),
        query_prefix=query,
        passage_prefix=passage,
        pooling=pooling,
        instruction=instruction,
        tasks=tasks_of(instruction, words),
        append=QWEN_END if architecture == "qwen3" and pooling == "lasttoken" else "",
        choices=matryoshka(instruction, model_type, dim),
        full_dim=dim,
    )
    return GgufModel(
        path=path,
        model=model,
        counts=bundled_folder().info.tokenizer,
        architecture=architecture,
        head_dim=number("attention.key_length"),
    )


def _prompts(path: Path, values: dict[str, Any], architecture: str) -> tuple[str, str, str]:
    """Its name, and what is put in front of queries and of passages, which no such file says."""
    stem = _QUANTISATION.sub("", path.stem.lower())
    names = [str(values.get(f"general.{key}", "")) for key in ("basename", "name")]
    shown = path.stem
    if architecture == "qwen3":
        return shown, QWEN_QUERY, ""
    if architecture == "gemma-embedding":
        return shown, GEMMA_QUERY, GEMMA_PASSAGE
    candidates = [stem, *(name.lower().replace(" ", "-") for name in names)]
    family = family_of({"bert", "xlm-roberta"} if architecture == "bert" else {architecture}, candidates)
    return (shown, "", "") if family is None else (shown, family.query, family.passage)


def _unsuitable(path: Path, why: str) -> FatalError:
    return FatalError("The model cannot be used", f"{path}: {why}")


# --- transformers ---------------------------------------------------------------------------------


def _convert_tokenizer(model: GgufModel) -> None:
    """Write the file's tokenizer as a tokenizer.json, unless that was done before.

    Raises:
        FatalError: It is of a kind that transformers cannot convert.
    """
    if model.tokenizer.is_file():
        return
    from indexer.embed.transformer import stay_offline

    stay_offline()
    from tokenizers import processors
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        convert_gguf_tokenizer,
        get_gguf_tokenizer,
    )

    try:
        architecture, vocabulary, said = get_gguf_tokenizer(str(model.path))
        tokenizer, _ = convert_gguf_tokenizer(architecture, vocabulary)
        around = {}
        for role in ("bos", "eos"):
            at = vocabulary.get(f"{role}_token_id")
            around[role] = (
                vocabulary["tokens"][at] if said.get(f"add_{role}_token") and at is not None else ""
            )
        if any(around.values()):
            single = " ".join(filter(None, [around["bos"], "$A", around["eos"]]))
            ids = [(token, tokenizer.token_to_id(token)) for token in set(around.values()) if token]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=single, pair=f"{single} $B", special_tokens=ids
            )
    except Exception as error:  # a stranger's file, and two libraries' ways to refuse it
        raise _unsuitable(
            model.path, f"Its tokenizer cannot be converted ({error}). Run: pip install llama-cpp-python"
        ) from error
    private_folder(model.tokenizer.parent)
    new = model.tokenizer.with_name(f"{TOKENIZER}.{os.getpid()}.new")
    tokenizer.save(str(new))
    new.replace(model.tokenizer)


def _load_dequantised(model: GgufModel, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig

    from indexer.embed.transformer import cannot_load, from_pretrained

    try:
        _no_bars()
        place, file = str(model.path.parent), model.path.name
        config = AutoConfig.from_pretrained(place, gguf_file=file, local_files_only=True)
        if model.head_dim and hasattr(config, "head_dim"):
            # Transformers 5.23 does not read Qwen3's, and takes 128, which those that were published have.
            config.head_dim = model.head_dim
        return from_pretrained(place, config, dtype, gguf_file=file, use_safetensors=None)
    except FatalError:
        raise
    except Exception as error:  # three libraries' ways to say that the file does not fit
        raise cannot_load(model.path, error) from error


def _no_bars() -> None:
    """Transformers draws a bar on stderr while it reads a .gguf, whatever it was told about bars."""
    import transformers.modeling_gguf_pytorch_utils as loader

    setattr(loader, "tqdm", lambda tensors, **_: tensors)  # noqa: B010  mypy knows no such name there


# --- llama.cpp ------------------------------------------------------------------------------------


def _tried_out(model: GgufModel, settings: Settings) -> None:
    """Let the model embed something in a process of its own, unless it did before.

    What llama.cpp finds wrong only while it computes makes it end its process, which must not be the service.

    Raises:
        FatalError: It did not survive.
    """
    if getattr(sys, "frozen", False):
        return  # there is no interpreter to start
    from importlib.metadata import version

    kind = "cpu" if settings.device == "cpu" else "gpu"
    mark = cache_dir() / "gguf" / model.model.key / f"llama.cpp-{version('llama-cpp-python')}-{kind}"
    if mark.is_file():
        return
    program = "import sys; sys.path.append(sys.argv[1])\nfrom indexer.embed.gguf import try_out\n"
    program += "try_out(sys.argv[2:])"
    command = [sys.executable, "-P", "-c", program, str(Path(__file__).parents[2]), str(model.path), kind]
    try:
        subprocess.run(
            [*command, str(settings.context_tokens)],
            check=True,
            timeout=_TRY_S,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or b"").decode("utf-8", "replace").strip()
        _log.error("llama.cpp failed with %s: %s", model.path, said[-2_000:] or error)
        raise FatalError(
            "The language model cannot be loaded",
            f"{model.path}: llama.cpp refuses it; the log says why. Download it again, or take another.",
        ) from error
    with contextlib.suppress(OSError):  # then it is tried out again the next time
        private_folder(mark.parent)
        mark.touch()


def try_out(arguments: list[str]) -> None:
    """What `_tried_out` lets a process of its own do."""
    file, kind, context = arguments
    settings = Settings(device=kind, context_tokens=int(context))
    model = read_gguf(Path(file), ModelChoice(), settings)
    logging.basicConfig(level=logging.ERROR)
    encoder = LlamaEncoder(model, kind, instructions=settings.instructions)
    encoder.encode_passages(["one", "two words", "word " * _STEP])


class LlamaEncoder:
    """A model that llama.cpp runs, quantised as it is in the file. One thread owns it."""

    def __init__(
        self,
        model: GgufModel,
        device: str = "auto",
        threads: int = 0,
        *,
        instructions: Instructions,
    ) -> None:
        """Load the model.

        Args:
            model: The file, checked.
            device: ``cpu``, or anything else for the graphics processor, where llama.cpp was built for one.
            threads: CPU threads, 0 for a core less than there are.
            instructions: What the person wants an instruction-aware model to be told.

        Raises:
            FatalError: llama.cpp cannot load it.
        """
        self._file, self._spec, self._instructions = model, model.model, instructions
        self._llama = _Llama(model, on_gpu=device != "cpu", threads=threads or _threads())
        plain, whole = self._llama.tokens("a", special=False), self._llama.tokens("a", special=True)
        at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
        self._head, self._tail = whole[:at], whole[at + len(plain) :]
        if (
            self._spec.append
            and (end := self._llama.tokens(self._spec.append, parse=True))
            and not self._tail
        ):
            self._tail = end
        self._prefixes: dict[str, list[int]] = {}
        try:
            self._embed([self._shortened("", ".")])
        except IndexerError as error:
            raise FatalError(error.title, error.message) from error

    @property
    def info(self) -> EncoderInfo:
        """What the model is."""
        return self._file.info

    @property
    def device(self) -> str:
        """Where it runs: ``cpu`` or ``gpu``."""
        return self._llama.device

    def query_prefix(self, task: Task = "notes") -> str:
        """What is put in front of a query of this kind."""
        return query_prefix(self._spec, self._instructions, task)

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """As `TransformerEncoder.encode_queries`."""
        prefix = self.query_prefix(task)
        return self._embed([self._shortened(prefix, text) for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """As `TransformerEncoder.encode_passages`."""
        found = [self._windows(text) for text in texts]
        vectors = self._embed([ids for windows in found for ids in windows])
        return means(vectors, [len(windows) for windows in found])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a passage, prefix and special tokens included, of all its windows."""
        return [sum(map(len, self._windows(text))) for text in texts]

    def _shortened(self, prefix: str, text: str) -> list[int]:
        room = self._spec.max_length - len(self._head) - len(self._tail)
        ids = self._llama.tokens(prefix + beginning(text, room))[: max(1, room)]
        # Where nothing stands for an empty text, its first token does.
        return self._head + ids + self._tail or [0]

    def _windows(self, text: str) -> list[list[int]]:
        spec, prefix = self._spec, self._spec.passage_prefix
        most = most_windows(spec.max_length)
        text = beginning(text, spec.max_length * most)
        ids = self._llama.tokens(prefix + text)
        if len(self._head) + len(ids) + len(self._tail) <= spec.max_length:
            return [self._head + ids + self._tail or [0]]
        if prefix not in self._prefixes:
            self._prefixes[prefix] = self._llama.tokens(prefix)
        before = self._head + self._prefixes[prefix]
        room = max(1, spec.max_length - len(before) - len(self._tail))
        ids = self._llama.tokens(text)[: room * most]
        return [before + ids[first:last] + self._tail for first, last in even_cuts(len(ids), room)]

    def _embed(self, inputs: list[list[int]]) -> Vectors:
        out = np.empty((len(inputs), self._spec.dim), np.float32)
        for batch in self._batches(inputs):
            rows = self._llama.embed([inputs[at] for at in batch])[:, : self._spec.dim]
            out[batch] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        if not np.isfinite(out).all():
            raise IndexerError("The model gives no numbers", f"{self._file.path}: download it again.")
        return out

    def _batches(self, inputs: list[list[int]]) -> Iterator[list[int]]:
        """Positions of inputs that go through the model together; nothing is padded."""
        batch, tokens = list[int](), 0
        for at in sorted(range(len(inputs)), key=lambda at: -len(inputs[at])):
            if batch and (len(batch) == _SEQUENCES or tokens + len(inputs[at]) > _STEP):
                yield batch
                batch, tokens = [], 0
            batch.append(at)
            tokens += len(inputs[at])
        if batch:
            yield batch


class _Llama:
    """The few calls of llama.cpp that are needed, by its C interface.

    The package's own class is not used: it redirects file descriptors to be silent, which a process with
    other threads cannot have, and makes a template engine of what the file says about chats.
    """

    def __init__(self, model: GgufModel, *, on_gpu: bool, threads: int) -> None:
        # By name, so that types can be checked where it is not installed.
        llama_cpp = self._api = importlib.import_module("llama_cpp")
        self._path = model.path
        self._dim = model.model.full_dim
        self._causal = model.architecture not in _BIDIRECTIONAL
        self._in_steps = self._causal and model.model.pooling == "lasttoken"
        self._pooling = _LLAMA_POOLINGS[model.model.pooling]
        self._threads = threads
        self._context: Any = None
        self._batch: Any = None
        self._room = 0
        _silence(llama_cpp)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        on_gpu = on_gpu and bool(llama_cpp.llama_supports_gpu_offload())
        params.n_gpu_layers = 999 if on_gpu else 0
        self.device = "gpu" if on_gpu else "cpu"
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(model.path), params)
        if not self._model:
            raise FatalError(
                "The language model cannot be loaded",
                f"{model.path}: llama.cpp refuses it; the log says why. Download it again, or take another.",
            )
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        if llama_cpp.llama_model_n_embd(self._model) != self._dim:
            raise _unsuitable(model.path, "Its vectors have another length than it says.")

    def __del__(self) -> None:
        self._free_context()
        if getattr(self, "_model", None):
            self._api.llama_model_free(self._model)
            self._model = None

    def _free_context(self) -> None:
        if getattr(self, "_batch", None) is not None:
            self._api.llama_batch_free(self._batch)
            self._batch = None
        if getattr(self, "_context", None):
            self._api.llama_free(self._context)
            self._context = None

    def tokens(self, text: str, *, special: bool = False, parse: bool = False) -> list[int]:
        """Tokens of a text; `special` adds those around it, `parse` finds special ones in it."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        while True:
            found = (self._api.llama_token * room)()
            count = self._api.llama_tokenize(self._vocabulary, raw, len(raw), found, room, special, parse)
            if count >= 0:
                return list(found[:count])
            room = -count

    def embed(self, inputs: list[list[int]]) -> Vectors:
        """One vector for each list of tokens, as the model pools them.

        Raises:
            IndexerError: There is too little memory.
        """
        api = self._api
        self._make_room(sum(map(len, inputs)))
        if (memory := api.llama_get_memory(self._context)) is not None:
            api.llama_memory_clear(memory, True)
        rows = [(seq, at, token) for seq, ids in enumerate(inputs) for at, token in enumerate(ids)]
        # Of a text that is read in steps the last step gives the vector, which is that of its last token.
        step = _STEP if self._in_steps else len(rows)
        for first in range(0, len(rows), step):
            self._run(rows[first : first + step])
        out = np.empty((len(inputs), self._dim), np.float32)
        for sequence in range(len(inputs)):
            vector = api.llama_get_embeddings_seq(self._context, sequence)
            if not vector:
                raise IndexerError(
                    "The model gives no vectors", f"{self._path}: it does not pool its tokens."
                )
            out[sequence] = np.ctypeslib.as_array(vector, (self._dim,))
        return out

    def _run(self, rows: list[tuple[int, int, int]]) -> None:
        """Let tokens through the model: (number of the text, position in it, token)."""
        batch = self._batch
        for at, (sequence, position, token) in enumerate(rows):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            batch.logits[at] = True
        batch.n_tokens = len(rows)
        run = self._api.llama_decode if self._causal else self._api.llama_encode
        if result := run(self._context, batch):
            raise self._too_little_memory(f"llama.cpp answers {result}")

    def _make_room(self, tokens: int) -> None:
        """Have a context for so many tokens."""
        if tokens <= self._room:
            return
        api = self._api
        self._free_context()
        room = max(_STEP, 1 << (tokens - 1).bit_length())
        params = api.llama_context_default_params()
        params.n_ctx = room
        params.n_batch = params.n_ubatch = _STEP if self._in_steps else room
        params.n_seq_max = _SEQUENCES
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = self._pooling
        params.n_threads = params.n_threads_batch = self._threads
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            self._room = 0
            raise self._too_little_memory(f"a context of {room} tokens cannot be made")
        self._batch = api.llama_batch_init(params.n_batch, 0, 1)
        self._room = room

    def _too_little_memory(self, why: str) -> IndexerError:
        return IndexerError(
            "The model needs more memory",
            f"{self._path}: {why}. Make the longest input shorter, or choose a smaller model.",
        )


def _threads() -> int:
    """A core less than there are.

    Its threads wait for one another after every matrix, so that one that has to share its core with another
    program slows all of them down.
    """
    import psutil

    return max(1, (psutil.cpu_count(logical=False) or os.cpu_count() or 1) - 1)


_callback: Any = None


def _silence(llama_cpp: Any) -> None:
    """Send what llama.cpp says to our log instead of stderr."""
    global _callback  # C keeps the pointer, so Python must keep the function
    if _callback is not None:
        return
    # It would start a debugger on itself, where there is one, before it ends.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    # Of ggml's levels the third are warnings about ways to use it that are meant here.
    levels = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}

    def tell(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if (known := levels.get(level)) is not None and _NATIVE_LOG.isEnabledFor(known):
            _NATIVE_LOG.log(known, "%s", text.decode("utf-8", "replace").rstrip())

    _callback = llama_cpp.llama_log_callback(tell)
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
