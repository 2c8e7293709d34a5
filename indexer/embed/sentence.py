"""Model folders of sentence-transformers' and transformers' kind, read without torch.

Such a folder is a stranger's: nothing in it is run, weights are taken from safetensors only, and what it
asks for that is not understood here is refused with the reason, for a wrong vector looks like any other.

What the layout means follows sentence-transformers (Reimers and Gurevych, "Sentence-BERT: Sentence
Embeddings using Siamese BERT-Networks", 2019) as of version 6.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import struct
from collections.abc import Iterable, Iterator, Set
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeGuard

import msgspec

from indexer.api import Task
from indexer.embed import EncoderInfo, ModelChoice
from indexer.embed.folder import CONFIG, TOKENIZER, WEIGHTS, Layer, Model, ModelFolder
from indexer.embed.tokens import open_tokenizer
from indexer.errors import FatalError
from indexer.settings import Instructions, Settings, cache_dir, private_folder

INDEX = "model.safetensors.index.json"
_MODULES = "modules.json"
_SENTENCE = "config_sentence_transformers.json"
_TRANSFORMER = "sentence_bert_config.json"
# What a transformer's settings were called in older versions of sentence-transformers.
_TRANSFORMER_NAMES = (
    _TRANSFORMER,
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_OTHER_TOKENIZERS = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "vocab.json")

# The blocks of a tensor that are digested.
_BLOCK = 4_096
_BLOCKS = 4
# Raise this when the same files give other vectors than before: it is part of the key.
_READING = 1
# JSON files are read whole, so they must not be huge; a tokenizer with 260,000 tokens has 33 MB.
_LARGEST_JSON = 64 << 20
_LARGEST_HEADER = 100 << 20
_README_BYTES = 64 << 10
# A model's own window is used up to here unless the person asks for more, and never above the other.
_DEFAULT_LENGTH = 8_192
_LONGEST = 32_768
# Tokenizers without a limit say so with a huge number.
_ENDLESS = 10_000_000
_SHORTEST = 32
# Where nothing says how long a text may be (models with relative positions).
_UNKNOWN_LENGTH = 512
# What a vector's length may be cut to.
SMALLEST_DIM = 32
# Above this the window changes no vector of a library, whose passages are cut far shorter.
_LENGTH_IN_KEY = 2_048

_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {
    *("Identity", "Tanh", "ReLU", "ReLU6", "GELU", "SiLU", "Mish", "ELU", "SELU", "CELU", "LeakyReLU"),
    *("Sigmoid", "LogSigmoid", "Softplus", "Softsign", "Hardtanh", "Hardswish", "Hardsigmoid", "Tanhshrink"),
}
# The names under which a prompt is found, the first that is there counts.
_QUERY_PROMPTS = ("query", "search_query", "retrieval.query", "Retrieval-query", "s2p_query")
_PASSAGE_PROMPTS = (
    *("document", "passage", "corpus"),
    *("search_document", "retrieval.passage", "Retrieval-document"),
)
# Their first positions are those up to and with the padding's number.
_COUNTS_FROM_PADDING = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text"),
    *("mpnet", "longformer", "bertweet"),
}
# Prompts by which a model is told the task: as Qwen3-Embedding and the instruct versions of E5 and GTE are
# ("Instruct: ...\nQuery: "), and as embeddinggemma is ("task: ... | query: ").
_INSTRUCT = re.compile(r"Instruct: (?P<task>[^\n]*)\nQuery:(?P<space> ?)")
_TASK = re.compile(r"task: (?P<task>[^|\n]*) \| query: ?")
_INSTRUCTIONS = {
    "notes": "Given a search query, retrieve passages of notes and documents about what it describes",
    "code": "Given a description of what code does, retrieve the functions or passages of code that do it",
    "question": "Given a question, retrieve passages that answer it",
}
# The tasks that embeddinggemma was trained with.
_GEMMA_TASKS = {"notes": "search result", "code": "code retrieval", "question": "question answering"}
# How the two are asked, where no file says it.
QWEN_QUERY = f"Instruct: {_INSTRUCTIONS['notes']}\nQuery:"
GEMMA_QUERY = f"task: {_GEMMA_TASKS['notes']} | query: "
GEMMA_PASSAGE = "title: none | text: "
_QWEN_CHOICES = (2048, 1024, 768, 512, 256, 128, 64, 32)
_GEMMA_CHOICES = (512, 256, 128)
# What in config.json says nothing about the vectors.
_NO_VECTORS = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "id2label", "label2id"),
    *("problem_type", "finetuning_task", "gradient_checkpointing", "output_attentions"),
    *("output_hidden_states", "return_dict"),
}
# What Qwen3-Embedding pools.
QWEN_END = "<|endoftext|>"
_CODE_KEYS = {"auto_map", "kernel_config", "use_kernels", "custom_pipelines"}


class Family(NamedTuple):
    """A well-known kind of models that does not say in its files how it wants its texts."""

    names: re.Pattern[str]
    types: frozenset[str]
    query: str
    passage: str = ""
    pooling: str = "mean"


# Known by architecture and by a name that the files give (or the folder, which is where people keep it).
_FAMILIES = (
    Family(
        re.compile(r"(?:multilingual-)?e5-(?:small|base|large)(?:-v2)?"),
        frozenset({"bert", "xlm-roberta"}),
        "query: ",
        "passage: ",
    ),
    Family(
        re.compile(r"multilingual-e5-large-instruct"),
        frozenset({"xlm-roberta"}),
        f"Instruct: {_INSTRUCTIONS['notes']}\nQuery: ",
    ),
    Family(re.compile(r"bge-m3(?:-retromae|-unsupervised)?"), frozenset({"xlm-roberta"}), "", pooling="cls"),
    Family(
        re.compile(r"bge-(?:small|base|large)-en-v1\.5"),
        frozenset({"bert"}),
        "Represent this sentence for searching relevant passages: ",
        pooling="cls",
    ),
)


def read_folder(
    path: Path, *, name: str = "", dimensions: int = 0, context_tokens: int = 0, cache: Path | None = None
) -> ModelFolder:
    """Read what a model is from its folder; takes about a second the first time, then some milliseconds.

    Args:
        path: A folder of sentence-transformers' or of transformers' kind.
        name: What it is called, such as ``org/name``; empty for the folder's own name.
        dimensions: See `ModelChoice`.
        context_tokens: See `Settings`.
        cache: Where to remember what takes long to find out; None for our place in the cache.

    Raises:
        FatalError: It is no such folder, or asks for what is not done here; the message says which.
    """
    path = path.expanduser().absolute()
    return _Reader(path, name, cache or cache_dir() / "folders").read(dimensions, context_tokens)


def folder_info(path: Path, choice: ModelChoice, settings: Settings, *, name: str = "") -> EncoderInfo:
    """What `load_folder` will load.

    Raises:
        FatalError: As `read_folder`.
    """
    return opened(path, choice, settings, name=name).info


def opened(path: Path, choice: ModelChoice, settings: Settings, *, name: str = "") -> ModelFolder:
    """`read_folder` with what was chosen and set."""
    return read_folder(path, name=name, dimensions=choice.dimensions, context_tokens=settings.context_tokens)


def harmless(value: Any) -> Any:
    """A config.json without what makes transformers fetch or run code, at any depth.

    What it says of the implementation of attention wins over the argument of `from_pretrained`, and may name
    a repository of kernels.
    """
    if isinstance(value, dict):
        return {
            key: harmless(item)
            for key, item in value.items()
            if not key.endswith("_implementation") and key not in _CODE_KEYS
        }
    return [harmless(item) for item in value] if isinstance(value, list) else value


def chosen_dim(full: int, dimensions: int, name: str) -> int:
    """The length of vectors that a choice gives.

    Raises:
        FatalError: Vectors cannot have that length.
    """
    if not dimensions:
        return full
    if not min(SMALLEST_DIM, full) <= dimensions <= full:
        raise FatalError(
            "The model has no vectors of that length",
            f"{name} gives vectors of {full} numbers; choose {min(SMALLEST_DIM, full)} to {full}.",
        )
    return dimensions


def window(own: int, context_tokens: int) -> int:
    """Longest input in tokens, from what the model takes and what the person set."""
    return max(1, min(own, context_tokens or _DEFAULT_LENGTH, _LONGEST))


def family_of(types: Set[str], names: Iterable[str]) -> Family | None:
    """The well-known kind of models that a model belongs to, by architecture and by what it is called.

    Args:
        types: What transformers calls the architectures it may be of.
        names: What it may be called, the most trusted name first; with or without the organisation.
    """
    for name in names:
        last = re.split(r"/|--", name.rstrip("/").lower())[-1]
        for family in _FAMILIES:
            if types & family.types and family.names.fullmatch(last):
                return family
    return None


def query_prefix(model: Model, instructions: Instructions, task: Task) -> str:
    """What is put in front of a query.

    Args:
        model: Which model.
        instructions: What the person wants an instruction-aware model to be told.
        task: What is sought.
    """
    if not model.instruction:
        return model.query_prefix
    own = {"notes": instructions.notes, "code": instructions.code, "question": instructions.question}
    words = " ".join(own[task].split()) or model.tasks.get(task, "")
    return model.instruction.replace("{}", words, 1)


def tasks_of(instruction: str, own: str = "") -> dict[str, str]:
    """Words for each task, for a template that wants some.

    Args:
        instruction: See `Model.instruction`.
        own: What the model's files say themselves, which are the words for searching in general.
    """
    if not instruction:
        return {}
    words = dict(_GEMMA_TASKS if instruction.startswith("task:") else _INSTRUCTIONS)
    return words | ({"notes": own} if own else {})


def instruction_of(prompt: str) -> tuple[str, str]:
    """The template of a prompt that describes a task, and the description; empty where it does not."""
    if found := _INSTRUCT.fullmatch(prompt):
        return f"Instruct: {{}}\nQuery:{found['space']}", found["task"]
    if found := _TASK.fullmatch(prompt):
        return "task: {} | query: ", found["task"]
    return "", ""


def matryoshka(instruction: str, model_type: str, full: int) -> tuple[int, ...]:
    """Documented lengths of vectors, the longest first: any from 32 for Qwen3, three for embeddinggemma."""
    if model_type == "qwen3" and instruction.startswith("Instruct:"):
        return tuple(dim for dim in _QWEN_CHOICES if dim < full)
    if model_type.startswith("gemma") and instruction.startswith("task:"):
        return tuple(dim for dim in _GEMMA_CHOICES if dim < full)
    return ()


class _Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What takes long to find out of a folder, remembered with what it was found out from.

    Attributes:
        stamp: Which files, by size and times, and which prefix.
        digest: Of weights and tokenizer.
        special: Special tokens around a text.
        prefix: Tokens of the prefix of passages.
        append: See `Model.append`.
    """

    stamp: str
    digest: str
    special: int
    prefix: int
    append: str


class _Module(NamedTuple):
    kind: str
    path: str


class _After(NamedTuple):
    """What is done with the vectors of the tokens."""

    pooling: str
    include_prompt: bool
    layers: tuple[Layer, ...]
    dim: int


class _Reader:
    """Reads one folder."""

    def __init__(self, path: Path, name: str, cache: Path) -> None:
        self._path = path
        self._name = _shown(name, path)
        self._given = name
        self._cache = cache
        if not path.is_dir():
            raise self._unsuitable("There is no such folder.")

    def read(self, dimensions: int, context_tokens: int) -> ModelFolder:
        """As `read_folder`."""
        if (self._path / "adapter_config.json").is_file():
            raise self._unsuitable(
                "It holds an adapter (LoRA or the like) of another model. Take a version merged with that."
            )
        modules = self._modules()
        transformer = modules[0].path if modules else ""
        sentence, config = self._json(_SENTENCE), self._config(transformer)
        settings = self._transformer_settings(transformer)
        model_type = str(config["model_type"])
        family = self._family(model_type, config)
        query, passage = self._prompts(sentence)
        if family is not None:
            query, passage = query or family.query, passage or family.passage
        if not modules and model_type == "qwen3" and not query:
            query = QWEN_QUERY
        instruction, words = instruction_of(query)
        after = self._after(modules, config, family)
        files = [("", file) for file in self._weights(transformer)]
        for at, layer in enumerate(after.layers):
            if layer.path:
                files += [(f"{at}:", file) for file in self._weights(layer.path)]
        # Qwen3-Embedding pools the end-of-text token, which not every tokenizer.json of it adds.
        qwen = model_type == "qwen3" and instruction.startswith("Instruct:") and after.pooling == "lasttoken"
        measured = self._measured(transformer, files, passage, qwen=qwen)
        length = window(self._own_length(transformer, config, settings), context_tokens)
        room = length - measured.special - measured.prefix
        if room < _SHORTEST // 2:
            raise self._unsuitable(
                f"Of {length} tokens nothing is left for a text. Let the longest input be longer."
            )
        model = Model(
            key="",
            name=self._name,
            dim=chosen_dim(after.dim, dimensions, self._name),
            max_length=length,
            max_passage=room,
            query_prefix=query,
            passage_prefix=passage,
            pooling=after.pooling,
            include_prompt=after.include_prompt,
            layers=after.layers,
            instruction=instruction,
            tasks=tasks_of(instruction, words),
            transformer=transformer,
            lowercase=settings.get("do_lower_case") is True,
            append=measured.append,
            choices=self._listed_dims(config, sentence, after.dim)
            or matryoshka(instruction, model_type, after.dim),
            full_dim=after.dim,
        )
        key = _key(model, model_type, config, measured.digest)
        return ModelFolder(path=self._path, model=msgspec.structs.replace(model, key=key))

    # --- files ------------------------------------------------------------------------------------

    def _unsuitable(self, why: str) -> FatalError:
        return FatalError("The model cannot be used", f"{self._path}: {why}")

    def _read(self, name: str) -> Any:
        """What a JSON file holds, None where it is missing."""
        file = self._path / name
        try:
            if file.stat().st_size > _LARGEST_JSON:
                raise self._unsuitable(f"{name} is too large to be what it should be.")
            return msgspec.json.decode(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._unsuitable(f"{name} cannot be read: {error}") from error

    def _json(self, name: str) -> dict[str, Any]:
        """A JSON object, empty where the file is missing."""
        found = self._read(name)
        if found is not None and not isinstance(found, dict):
            raise self._unsuitable(f"{name} is not what it should be.")
        return found or {}

    def _modules(self) -> list[_Module]:
        """What modules.json lists, the transformer first; nothing where there is no such file."""
        found = self._read(_MODULES)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found) or not found:
            raise self._unsuitable(f"{_MODULES} is not what it should be.")
        modules = []
        for item in found:
            kind = re.fullmatch(r"sentence_transformers\.(?:\w+\.)*(\w+)", str(item.get("type")))
            if kind is None:
                raise self._unsuitable(
                    f"It needs program code of its own ({item.get('type')}), and none is run from a model's "
                    "folder."
                )
            modules.append(_Module(kind[1], self._inside(str(item.get("path", "")))))
        if modules[0].kind != "Transformer":
            raise self._unsuitable(f"It starts with {modules[0].kind}; only transformers are supported.")
        return modules

    def _inside(self, path: str) -> str:
        """A folder inside ours, as modules.json gives it."""
        pure = PurePosixPath(path.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in path:
            raise self._unsuitable(f"{_MODULES} names {path!r}, which is not inside the folder.")
        return "" if str(pure) == "." else str(pure)

    def _config(self, transformer: str) -> dict[str, Any]:
        config = self._json(_in(transformer, CONFIG))
        if not isinstance(config.get("model_type"), str):
            raise self._unsuitable(
                f"There is no {CONFIG} of a transformer in it. Choose the folder of a model, or a .gguf file."
            )
        for key in ("quantization_config", "transformers_weights"):
            if config.get(key):
                raise self._unsuitable(
                    f"Its {CONFIG} has {key}, which is not supported. Take the plain model, or a .gguf of it."
                )
        code = config.get("auto_map")
        if isinstance(code, dict) and {"AutoConfig", "AutoModel"} & code.keys():
            raise self._unsuitable(
                "The model needs program code of its own, and none is run from a model's folder."
            )
        return config

    def _transformer_settings(self, transformer: str) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for name in _TRANSFORMER_NAMES:
            if settings := self._json(_in(transformer, name)):
                break
        if settings.get("transformer_task", "feature-extraction") != "feature-extraction":
            raise self._unsuitable(f"It is made for {settings['transformer_task']}, not for embedding.")
        if settings.get("query_expansion"):
            raise self._unsuitable("It gives a vector for each word, which is not supported.")
        kinds = settings.get("modality_config")
        if isinstance(kinds, dict):
            text = kinds.get("text")
            text = text if isinstance(text, dict) else {}
            hidden = (text.get("method"), text.get("method_output_name")) == ("forward", "last_hidden_state")
            if not hidden or "message" in kinds:
                raise self._unsuitable("It wants its texts as messages of a chat, which is not supported.")
        return settings

    def _weights(self, folder: str) -> list[Path]:
        """The safetensors files of a folder inside ours."""
        base = self._path / folder
        if (base / WEIGHTS).is_file():
            return [base / WEIGHTS]
        shards = self._json(_in(folder, INDEX)).get("weight_map")
        if isinstance(shards, dict) and shards:
            names = sorted({str(name) for name in shards.values()})
            for name in names:
                if Path(name).name != name or not name.endswith(".safetensors"):
                    raise self._unsuitable(f"{INDEX} names {name!r}, which is no safetensors file in it.")
                if not (base / name).is_file():
                    raise self._unsuitable(f"{name} is missing. Download the model again.")
            return [base / name for name in names]
        if base.is_dir() and any(file for pattern in _PICKLES for file in base.glob(pattern)):
            raise self._unsuitable(
                f"The weights in {base.name} are pickled, and reading those can run a program. "
                f"Take a version with {WEIGHTS}, or convert it."
            )
        raise self._unsuitable(f"There is no {_in(folder, WEIGHTS)} in it.")

    # --- what they say ----------------------------------------------------------------------------

    def _family(self, model_type: str, config: dict[str, Any]) -> Family | None:
        names = [
            self._given,
            str(config.get("_name_or_path", "")),
            *self._path.parts[-3:],
            self._readme_name(),
        ]
        return family_of({model_type}, names)

    def _readme_name(self) -> str:
        """What the model's card calls it, in its head or where its evaluations are listed."""
        try:
            with (self._path / "README.md").open("rb") as stream:
                text = stream.read(_README_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
        head = re.match(r"---\s*\n", text)
        found = re.search(r"(?m)^model-index:\s*\n\s*- name: *[\"']?([\w./-]+)", text) if head else None
        return found[1] if found else ""

    def _prompts(self, sentence: dict[str, Any]) -> tuple[str, str]:
        """What is put in front of queries and of passages."""
        prompts = sentence.get("prompts")
        if not isinstance(prompts, dict):
            return "", ""
        default = prompts.get(str(sentence.get("default_prompt_name")))
        chosen = []
        for names in (_QUERY_PROMPTS, _PASSAGE_PROMPTS):
            # sentence-transformers adds an empty "document" to what has a "passage".
            there = [prompts[name] for name in names if name in prompts] or [default]
            prompt = next(filter(None, there), "")
            chosen.append(prompt if isinstance(prompt, str) else "")
        return chosen[0], chosen[1]

    def _after(self, modules: list[_Module], config: dict[str, Any], family: Family | None) -> _After:
        text = config.get("text_config")
        text = text if isinstance(text, dict) else config
        dim = next((text[key] for key in ("hidden_size", "d_model", "dim") if _is_number(text.get(key))), 0)
        if not dim:
            raise self._unsuitable(f"Its {CONFIG} does not say how long its vectors are.")
        if not modules:
            pooling = family.pooling if family is not None else _usual_pooling(config)
            return _After(pooling, True, (), dim)
        pooling, include_prompt, layers = "", True, list[Layer]()
        for kind, path in modules[1:]:
            said = self._json(_in(path, CONFIG))
            if said.get("module_input_name", "sentence_embedding") != "sentence_embedding" or (
                said.get("module_output_name") not in (None, "sentence_embedding")
            ):
                raise self._unsuitable(f"Its {kind} works on the vectors of words, which is not supported.")
            if kind == "Pooling" and not pooling:
                pooling, include_prompt = self._pooling(said), said.get("include_prompt") is not False
                dim *= pooling.count("+") + 1
            elif kind == "Dense" and pooling:
                layers.append(self._dense(path, said, dim))
                dim = int(said["out_features"])
            elif kind == "LayerNorm" and pooling:
                layers.append(Layer(kind="layernorm", path=path))
            elif kind == "Normalize" and pooling:
                layers.append(Layer(kind="normalize"))
            elif kind != "Dropout":
                raise self._unsuitable(f"It has a part ({kind}) that is not supported.")
        if not pooling:
            raise self._unsuitable("It does not say how the vectors of words become one (no Pooling).")
        return _After(pooling, include_prompt, tuple(layers), dim)

    def _pooling(self, said: dict[str, Any]) -> str:
        found = said.get("pooling_mode")
        if found is None:
            found = [mode for key, mode in _POOLINGS.items() if said.get(key)] or ["mean"]
        modes = [found] if isinstance(found, str) else found
        if not isinstance(modes, list) or not modes or not {*map(str, modes)} <= set(_POOLINGS.values()):
            raise self._unsuitable(f"Its pooling ({found}) is not supported.")
        return "+".join(modes)

    def _dense(self, path: str, said: dict[str, Any], dim: int) -> Layer:
        if said.get("in_features") != dim or not _is_number(said.get("out_features")):
            raise self._unsuitable(f"Its parts do not fit together ({path}).")
        # Without the key it is sentence-transformers' default.
        activation = str(said.get("activation_function", "torch.nn.modules.activation.Tanh")).split(".")
        if activation[:2] != ["torch", "nn"] or activation[-1] not in _ACTIVATIONS:
            raise self._unsuitable(f"Its activation function ({'.'.join(activation)}) is not supported.")
        return Layer(
            kind="dense", path=path, activation=activation[-1], residual=said.get("use_residual") is True
        )

    def _listed_dims(self, config: dict[str, Any], sentence: dict[str, Any], full: int) -> tuple[int, ...]:
        for said in (config, sentence):
            for key in ("matryoshka_dimensions", "matryoshka_dims"):
                found = said.get(key)
                if isinstance(found, list):
                    dims = {dim for dim in found if _is_number(dim) and SMALLEST_DIM <= dim < full}
                    return tuple(sorted(dims, reverse=True))
        return ()

    def _own_length(self, transformer: str, config: dict[str, Any], settings: dict[str, Any]) -> int:
        """Longest input in tokens that the transformer takes and its tokenizer was set to."""
        limits = list[int]()
        said = settings.get("max_seq_length")
        if not _is_number(said):
            said = self._json(_in(transformer, "tokenizer_config.json")).get("model_max_length")
        if _is_number(said):
            limits.append(said)
        text = config.get("text_config")
        positions = (text if isinstance(text, dict) else config).get("max_position_embeddings")
        if _is_number(positions):
            padding = config.get("pad_token_id")
            offset = 1 + (padding if isinstance(padding, int) else 1)
            limits.append(positions - (offset if config["model_type"] in _COUNTS_FROM_PADDING else 0))
        return min((limit for limit in limits if limit < _ENDLESS), default=_UNKNOWN_LENGTH)

    # --- what takes long --------------------------------------------------------------------------

    def _measured(
        self, transformer: str, weights: list[tuple[str, Path]], prefix: str, *, qwen: bool
    ) -> _Measured:
        tokenizer = self._path / transformer / TOKENIZER
        if not tokenizer.is_file():
            others = [name for name in _OTHER_TOKENIZERS if (tokenizer.parent / name).is_file()]
            raise self._unsuitable(
                f"There is no {TOKENIZER} in it"
                + (f", only {others[0]}, which is another form of it. " if others else ". ")
                + f"Take a version with {TOKENIZER}; transformers writes one with "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            )
        said = tokenizer.parent / "tokenizer_config.json"
        try:
            stats = [(file.name, _stat(file)) for file in (*(file for _, file in weights), tokenizer, said)]
        except OSError as error:
            raise self._unsuitable(f"It cannot be read: {error.strerror}.") from error
        stamp = hashlib.blake2b(repr((_READING, stats, prefix, qwen)).encode(), digest_size=16).hexdigest()
        place = hashlib.blake2b(os.fsencode(self._path / transformer), digest_size=16).hexdigest()
        remembered = self._cache / f"{place}.json"
        try:
            measured = msgspec.json.decode(remembered.read_bytes(), type=_Measured)
        except (OSError, msgspec.DecodeError):
            measured = None
        if measured is None or measured.stamp != stamp:
            measured = self._measure(tokenizer, weights, prefix, stamp, qwen=qwen)
            _remember(remembered, measured)
        return measured

    def _measure(
        self, file: Path, weights: list[tuple[str, Path]], prefix: str, stamp: str, *, qwen: bool
    ) -> _Measured:
        try:
            tokenizer = open_tokenizer(file)
        except FatalError as error:
            raise self._unsuitable(f"{TOKENIZER} cannot be read: {error.__cause__}") from error
        said = self._json(str((file.parent / "tokenizer_config.json").relative_to(self._path)))
        end = QWEN_END if qwen else ""
        if said.get("add_eos_token") is True:
            token = said.get("eos_token")
            token = token.get("content") if isinstance(token, dict) else token
            end = token if isinstance(token, str) else end
        missing = bool(end) and tokenizer.token_to_id(end) not in {None, *tokenizer.encode("a").ids[-1:]}
        digest = hashlib.blake2b(digest_size=32)
        try:
            digest.update(hashlib.blake2b(file.read_bytes()).digest())
            _fingerprint(weights, digest)
        except OSError as error:
            raise self._unsuitable(f"It cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise self._unsuitable(f"{error}. Download the model again.") from error
        return _Measured(
            stamp=stamp,
            digest=digest.hexdigest(),
            special=tokenizer.num_special_tokens_to_add(False) + missing,
            prefix=len(tokenizer.encode(prefix, add_special_tokens=False)),
            append=end if missing else "",
        )


class _Tensor(NamedTuple):
    """Where a tensor is."""

    name: str
    kind: str
    file: Path
    first: int
    last: int


def _fingerprint(weights: list[tuple[str, Path]], digest: hashlib.blake2b) -> None:
    """Digest of each tensor its name, type, shape and some blocks spread over it.

    Reading 16 GB to name a model would take minutes. Whatever makes another model of one (training, merging,
    converting, quantising) changes each tensor it touches nearly everywhere, so it shows in any block; where
    it changes some rows of a table of words only, it changes other tensors, too. What escapes is somebody who
    changes single numbers by hand. How the tensors are spread over files makes no difference.

    Raises:
        ValueError: A file is damaged.
        OSError: A file cannot be read.
    """
    tensors = sorted(tensor for prefix, file in weights for tensor in _tensors(prefix, file))
    with contextlib.ExitStack() as stack:
        streams = {file: stack.enter_context(file.open("rb")) for _, file in weights}
        for tensor in tensors:
            digest.update(repr((tensor.name, tensor.kind)).encode())
            size = tensor.last - tensor.first
            for start, count in spread(size):
                streams[tensor.file].seek(tensor.first + start)
                digest.update(streams[tensor.file].read(count))


def spread(size: int) -> Iterator[tuple[int, int]]:
    """First byte and length of the blocks of a tensor that name it; see `_fingerprint`."""
    step = max(_BLOCK, -(-size // _BLOCKS))
    return ((start, min(_BLOCK, size - start)) for start in range(0, size, step))


def _tensors(prefix: str, file: Path) -> Iterator[_Tensor]:
    """What the head of a safetensors file says.

    Raises:
        ValueError: It is damaged.
        OSError: It cannot be read.
    """
    with file.open("rb") as stream:
        whole = os.fstat(stream.fileno()).st_size
        raw = stream.read(8)
        size = struct.unpack("<Q", raw)[0] if len(raw) == 8 else whole
        if size > min(_LARGEST_HEADER, whole - 8):
            raise ValueError(f"{file.name} is damaged")
        try:
            head = msgspec.json.decode(stream.read(size))
            for name, said in head.items():
                if name == "__metadata__":
                    continue
                first, last = said["data_offsets"]
                if not 0 <= first <= last <= whole - 8 - size:
                    raise ValueError(f"{file.name} is damaged: it ends too early")
                kind = f"{said['dtype']} {said['shape']}"
                yield _Tensor(prefix + name, kind, file, 8 + size + first, 8 + size + last)
        except (
            msgspec.DecodeError,
            UnicodeDecodeError,
            RecursionError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise ValueError(f"{file.name} is damaged") from error


def _key(model: Model, model_type: str, config: dict[str, Any], digest: str) -> str:
    """Names the vector space: all that makes the vectors of passages, and nothing else."""
    made_of = (
        _READING,
        (model.dim, model.full_dim, model.pooling, model.include_prompt),
        [(layer.kind, layer.activation, layer.residual) for layer in model.layers],
        (model.passage_prefix, model.lowercase, model.append, min(model.max_length, _LENGTH_IN_KEY)),
        {name: value for name, value in harmless(config).items() if name not in _NO_VECTORS},
        digest,
    )
    raw = msgspec.json.encode(made_of, order="deterministic")
    kind = re.sub(r"[^A-Za-z0-9.]+", "-", model_type).strip("-.") or "model"
    return f"{kind}-{model.dim}-{hashlib.blake2b(raw, digest_size=8).hexdigest()}"


def _usual_pooling(config: dict[str, Any]) -> str:
    """Pooling where no file says it: a language model's last token has read all others."""
    found = config.get("architectures")
    name = str(found[0]) if isinstance(found, list) and found else ""
    causal = config["model_type"] == "qwen3" or name.endswith("ForCausalLM")
    return "lasttoken" if causal and config.get("is_causal") is not False else "mean"


def _shown(name: str, path: Path) -> str:
    """What a person is shown: the last part of a name on the Hub, or the folder's name."""
    if (
        not name and path.parent.name == "snapshots"
    ):  # the Hub's own cache: models--org--name/snapshots/revision
        name = path.parent.parent.name.replace("--", "/")
    return (name or path.name).rstrip("/").rsplit("/", 1)[-1]


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _stat(file: Path) -> tuple[int, int, int, int] | None:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _remember(file: Path, measured: _Measured) -> None:
    # A cache that cannot be written to costs time only.
    with contextlib.suppress(OSError):
        private_folder(file.parent)
        new = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
        new.write_bytes(msgspec.json.encode(measured))
        new.replace(file)
