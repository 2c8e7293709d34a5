"""Cross-encoders that read query and passage together, and the thread that owns one.

Two kinds of folders in Hugging Face's layout are understood. A sequence classifier
(bge-reranker-v2-m3, mmarco-mMiniLMv2, gte-multilingual-reranker ...) reads the two texts as its
tokenizer's pair. Qwen3-Reranker, as it was published or turned into a classifier, is a language
model that is asked for "yes" or "no"; how it is asked and scored follows Zhang et al.,
"Qwen3 Embedding: Advancing Text Embedding and Reranking Through Foundation Models", 2025.

The folder is a stranger's: weights are read from safetensors only, nothing in it is run, and
nothing is looked for elsewhere.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.embed.folder import CONFIG, TOKENIZER, WEIGHTS
from indexer.embed.sentence import harmless
from indexer.embed.tokenized import batches
from indexer.embed.tokens import clean, open_tokenizer
from indexer.embed.transformer import choose_device, choose_dtype, stay_offline
from indexer.errors import FatalError, IndexerError
from indexer.settings import Settings

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

_log = logging.getLogger(__name__)

Scores = npt.NDArray[np.float32]

# What Qwen3-Reranker was trained with: one wrong character costs accuracy.
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_PROMPT_HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_PROMPT_TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_PROMPT_MARK = "Judge whether the Document meets the requirements"
_YES, _NO = "yes", "no"
# A converted head is exactly yes minus no; one that was trained further is still near it, and a
# head of another origin is at right angles to it.
_SAME_HEAD = 0.5

_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_POSITIVE = {"yes", "true", "relevant", "positive"}
# Passages are chunks: what a model could read beyond this would only cost memory.
_LONGEST = 8_192
# Of a query that is longer than the model reads, so much is left to the passage.
_PASSAGE_SHARE = 0.25
# As in `transformer`: characters looked at for each token there is room for.
_CHARACTERS_A_TOKEN = 40
# Padded tokens of a batch. On a CPU a batch of 600 million parameters is some seconds, and a newer
# search waits for it.
_BUDGET_CPU = 512
_BUDGET_GPU = 8_192
_IDLE_S = 600.0
_RETRY_S = 60.0


class RerankCancelledError(Exception):
    """The caller wanted no scores any more."""


class Reranker(Protocol):
    """A loaded cross-encoder. Not thread-safe: one thread owns it."""

    @property
    def name(self) -> str:
        """What a person is shown: the folder's name."""

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda:0``, ``mps``."""

    def scores(
        self, query: str, passages: Sequence[str], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Scores:
        """How well each passage answers the query.

        Args:
            query: Any string. It is read whole, unless that left too little room for the passage.
            passages: Any strings; of long ones the beginning counts.
            cancelled: Asked before each batch.

        Returns:
            Float32 (len(passages),), 0 to 1, in the order of `passages`.

        Raises:
            RerankCancelledError: `cancelled` said so.
            IndexerError: The device has too little memory, or the model gives no numbers.
        """

    def close(self) -> None:
        """Give the memory back; the reranker cannot be used afterwards."""


def load_reranker(
    folder: Path, *, device: str = "auto", threads: int = 0, instruction: str = INSTRUCTION
) -> Reranker:
    """Load a cross-encoder from a local folder; takes seconds and imports torch.

    Args:
        folder: ``config.json``, ``tokenizer.json`` and ``model.safetensors`` (or its shards).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        threads: CPU threads, 0 for torch's own choice.
        instruction: What Qwen3-Reranker is told to judge; the other kind takes none.

    Raises:
        IndexerError: A file is missing, the weights are pickled, or the model is of another kind;
            the message says which and what to do. FatalError where the device is not there.
    """
    config = _read_config(folder)
    causal = _is_causal(folder, config)
    _check_weights(folder)
    tokenizer = _open_tokenizer(folder)
    # See `load.load_encoder`: read when libgomp is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    stay_offline()
    import torch
    from transformers import CONFIG_MAPPING

    if str(config.get("model_type")) not in CONFIG_MAPPING:
        raise _unsuitable(
            folder, "The model needs program code of its own, and none is run from a model's folder."
        )
    if threads > 0:
        torch.set_num_threads(threads)
    where = choose_device(device)
    model = _load_model(folder, config, causal=causal, dtype=choose_dtype(where, "auto"))
    try:
        model = model.to(where)
    except torch.OutOfMemoryError as error:
        raise _too_little_memory(str(where)) from error
    if causal:
        _check_logit_score(folder, tokenizer)
        return _PromptReranker(
            folder, model, tokenizer, where, instruction, _yes_or_no(folder, model, tokenizer)
        )
    if config.get("model_type") == "qwen3":
        if not _is_qwen_reranker(folder, model, tokenizer):
            raise _unsuitable(folder, "It is not known how this model wants query and passage to be written.")
        return _PromptReranker(folder, model, tokenizer, where, instruction, _head(model))
    return _PairReranker(folder, model, tokenizer, where)


def available(settings: Settings) -> bool:
    """Whether searches may be reranked with these settings.

    True when the settings name a folder that is there and either the person turned reranking on, or
    a graphics processor would do the work: on a CPU it takes seconds a search, so there it
    counts as off until somebody chose it. Whether one search *is* reranked is another question
    (`Search.rerank`, or `Settings.rerank` where that is None), asked only when this is true.

    Imports torch when the answer depends on the device.
    """
    if not settings.reranker or not _folder_of(settings).is_dir():
        return False
    if settings.rerank:
        return True
    if settings.device == "cpu":
        return False
    stay_offline()
    try:
        return choose_device(settings.device).type != "cpu"
    except FatalError:
        return False


def reranker_thread(settings: Settings) -> RerankThread:
    """A thread for the reranker of these settings; nothing is loaded before the first use."""
    return RerankThread(
        lambda: load_reranker(_folder_of(settings), device=settings.device, threads=settings.encoder_threads)
    )


def _folder_of(settings: Settings) -> Path:
    return Path(settings.reranker).expanduser()


# --- the folder -------------------------------------------------------------------------------


def _unsuitable(folder: Path, why: str) -> IndexerError:
    return IndexerError("The reranker cannot be used", f"{folder}: {why}")


def _too_little_memory(device: str) -> IndexerError:
    return IndexerError(
        "The reranker needs more memory",
        f"{device} has too little left. Choose a smaller reranker, or the device cpu.",
    )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object, empty where the file is missing."""
    try:
        return msgspec.json.decode((folder / name).read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unsuitable(folder, f"{name} cannot be read: {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise _unsuitable(folder, "There is no such folder.")
    config = _read_json(folder, CONFIG)
    if not config:
        raise _unsuitable(folder, f"There is no {CONFIG} in it. Choose the folder of a reranker.")
    for key in ("quantization_config", "transformers_weights"):
        if config.get(key):
            raise _unsuitable(
                folder, f"Its {CONFIG} has {key}, which is not supported. Take the plain model."
            )
    return config


def _is_causal(folder: Path, config: dict[str, Any]) -> bool:
    """Whether it is asked for a word; False for a classifier.

    Raises:
        IndexerError: Neither.
    """
    found = config.get("architectures")
    name = str(found[0]) if isinstance(found, list) and found else ""
    causal = name == "Qwen3ForCausalLM"
    if not causal and not name.endswith("ForSequenceClassification"):
        raise _unsuitable(
            folder,
            f"It holds {name or 'an unnamed model'}, which is no reranker. Choose one that is a "
            "...ForSequenceClassification, or Qwen3-Reranker.",
        )
    return causal


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    shards = _read_json(folder, _INDEX).get("weight_map")
    if isinstance(shards, dict) and shards:
        for name in sorted({str(name) for name in shards.values()}):
            if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
                raise _unsuitable(
                    folder, f"{_INDEX} names {name!r}, which is no safetensors file in the folder."
                )
        return
    if any(file for pattern in _PICKLES for file in folder.glob(pattern)):
        raise _unsuitable(
            folder,
            "Its weights are pickled, and reading those can run a program. Take a version with "
            f"{WEIGHTS}, or convert it.",
        )
    raise _unsuitable(folder, f"There is no {WEIGHTS} in it.")


def _open_tokenizer(folder: Path) -> Tokenizer:
    file = folder / TOKENIZER
    if not file.is_file():
        raise _unsuitable(folder, f"There is no {TOKENIZER} in it. Take a version that has one.")
    try:
        return open_tokenizer(file)
    except FatalError as error:
        raise _unsuitable(folder, f"{TOKENIZER} cannot be read: {error.__cause__}") from error


def _load_model(folder: Path, config: dict[str, Any], *, causal: bool, dtype: torch.dtype) -> Any:
    """The model in inference mode.

    Raises:
        IndexerError: It cannot be built, or some of its weights are missing: transformers would
            make those up at random.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    hush: Callable[[], None] = transformers_logging.disable_progress_bar
    hush()
    kind: Any = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    for attention in ("sdpa", "eager"):
        try:
            model, report = kind.from_pretrained(
                str(folder),
                config=CONFIG_MAPPING[config["model_type"]].from_dict(harmless(config)),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
            )
        except Exception as error:  # three libraries' ways to say that the files do not fit
            if attention == "sdpa" and isinstance(error, ValueError) and "attention" in str(error):
                continue  # not every architecture has it
            raise _unsuitable(folder, f"It cannot be loaded: {error}") from error
        break
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise _unsuitable(folder, f"Weights are missing ({names}): it is not, or not only, a reranker.")
    return model.eval()


def _check_logit_score(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse a language model that says itself that it answers with other words."""
    for file in sorted(folder.glob("*_LogitScore/config.json")):
        said = _read_json(file.parent, file.name)
        answers = said.get("true_token_id"), said.get("false_token_id")
        if answers != (tokenizer.token_to_id(_YES), tokenizer.token_to_id(_NO)):
            raise _unsuitable(folder, 'It is a language model that does not answer with "yes" or "no".')


def _yes_or_no(folder: Path, model: Any, tokenizer: Tokenizer) -> torch.Tensor:
    """What the last hidden state is multiplied with for logit("yes") - logit("no"), float32 (hidden,)."""
    yes, no = tokenizer.token_to_id(_YES), tokenizer.token_to_id(_NO)
    if yes is None or no is None:
        raise _unsuitable(folder, f'{TOKENIZER} has no token "yes" or "no".')
    weight = model.get_output_embeddings()
    rows = (model.get_input_embeddings() if weight is None else weight).weight.detach()
    direction: torch.Tensor = rows[yes].float() - rows[no].float()
    return direction


def _head(model: Any) -> torch.Tensor:
    """The same of a classifier with one or two labels."""
    weight = model.score.weight.detach().float()
    direction: torch.Tensor = weight[0] if len(weight) == 1 else weight[-1] - weight[0]
    return direction


def _is_qwen_reranker(folder: Path, model: Any, tokenizer: Tokenizer) -> bool:
    """Whether a Qwen3 classifier was made of Qwen3-Reranker, and so wants its prompt.

    Its config does not say so. Its head is the row of "yes" minus the row of "no" of the
    embedding, which the classifier still has; the largest model has other rows for that, so its
    chat template or name must tell.
    """
    import torch

    if model.config.num_labels > 2 or any(tokenizer.token_to_id(word) is None for word in (_YES, _NO)):
        return False
    likeness = torch.nn.functional.cosine_similarity(
        _head(model), _yes_or_no(folder, model, tokenizer), dim=0
    )
    if float(likeness) > _SAME_HEAD:
        return True
    template = str(_read_json(folder, "tokenizer_config.json").get("chat_template", ""))
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        template += jinja.read_text("utf-8", errors="replace")
    return _PROMPT_MARK in template or "qwen3-reranker" in str(folder.resolve()).lower()


# --- the models -------------------------------------------------------------------------------


class _Input(NamedTuple):
    """Tokens of one pair, special ones included, and which of the two texts each belongs to."""

    ids: list[int]
    types: list[int]


class _Reranker(ABC):
    """What both kinds share: sorting into batches, padding on the right, giving up, numbers."""

    def __init__(self, folder: Path, model: Any, tokenizer: Tokenizer, device: torch.device) -> None:
        self._folder = folder
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._budget = _BUDGET_CPU if device.type == "cpu" else _BUDGET_GPU
        self._pad = int(model.config.pad_token_id or 0)
        self._longest = _longest(folder, model)
        # A file may contain what looks like a special token, and must not end its own passage with it.
        tokenizer.encode_special_tokens = True

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def device(self) -> str:
        return str(self._device)

    def scores(
        self, query: str, passages: Sequence[str], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Scores:
        import torch

        out = np.empty(len(passages), np.float32)
        if cancelled():
            raise RerankCancelledError
        if not passages:
            return out
        inputs = self._inputs(clean(query), [self._cut(passage) for passage in passages])
        with torch.inference_mode():
            for batch in batches([len(one.ids) for one in inputs], self._budget):
                if cancelled():
                    raise RerankCancelledError
                out[batch] = self._within_memory([inputs[at] for at in batch])
        if not np.isfinite(out).all():
            raise IndexerError("The reranker gives no numbers", f"{self._folder}: its weights are damaged.")
        return out

    def close(self) -> None:
        self._model = None
        gc.collect()
        self._free_cache()

    @abstractmethod
    def _inputs(self, query: str, passages: list[str]) -> list[_Input]:
        """Tokens of the query with each passage, at most `_longest`."""

    @abstractmethod
    def _logits(self, ids: torch.Tensor, types: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """One number for each row of padded inputs; their sigmoid is the score."""

    def _cut(self, passage: str) -> str:
        """Of an endless passage as much as could be read; the rest is not even tokenized."""
        cut = self._longest * _CHARACTERS_A_TOKEN
        return clean(passage if len(passage) <= cut else passage.lstrip()[:cut])

    def _within_memory(self, inputs: list[_Input]) -> Scores:
        """Scores of a batch, in halves where the device has no room for the whole."""
        import torch

        try:
            return self._forward(inputs)
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                raise _too_little_memory(self.device) from error
        # Outside of the handler, where the failed pass is no longer held by the exception.
        self._free_cache()
        self._budget = max(1, self._budget // 2)
        half = len(inputs) // 2
        return np.concatenate([self._within_memory(inputs[:half]), self._within_memory(inputs[half:])])

    def _forward(self, inputs: list[_Input]) -> Scores:
        import torch

        lengths = np.array([len(one.ids) for one in inputs])
        ids = np.full((len(inputs), lengths.max()), self._pad, np.int64)
        types = np.zeros_like(ids)
        for row, one in enumerate(inputs):
            ids[row, : len(one.ids)] = one.ids
            types[row, : len(one.ids)] = one.types
        on_device = [torch.from_numpy(array).to(self._device) for array in (ids, types, lengths)]
        logits = self._logits(*on_device)
        scores: Scores = torch.sigmoid(logits.float()).cpu().numpy()
        return scores

    def _free_cache(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()


class _PairReranker(_Reranker):
    """A classifier of pairs of texts, as the tokenizer joins them."""

    def __init__(self, folder: Path, model: Any, tokenizer: Tokenizer, device: torch.device) -> None:
        super().__init__(folder, model, tokenizer, device)
        labels = int(model.config.num_labels)
        if labels not in (1, 2):
            raise _unsuitable(
                folder, f"It tells {labels} kinds of pairs apart; a reranker has one label or two."
            )
        names = {at: str(name).lower() for at, name in (model.config.id2label or {}).items()}
        self._positive = 0 if labels == 2 and names.get(0) in _POSITIVE else labels - 1
        if model.config.pad_token_id is None:
            self._budget = 1  # some find the end of a text by its padding, and refuse two texts without
        self._special = tokenizer.num_special_tokens_to_add(True)
        if not _joins(tokenizer):
            raise _unsuitable(folder, "Its tokenizer puts nothing between query and passage.")
        wanted = _read_json(folder, "tokenizer_config.json").get("model_input_names")
        refused = isinstance(wanted, list) and "token_type_ids" not in wanted
        self._typed = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1 and not refused

    def _inputs(self, query: str, passages: list[str]) -> list[_Input]:
        room = self._longest - self._special
        first = self._tokenizer.encode(query[: room * _CHARACTERS_A_TOKEN], add_special_tokens=False)
        first.truncate(max(1, int(room * (1 - _PASSAGE_SHARE))))
        inputs = []
        for second in self._tokenizer.encode_batch(passages, add_special_tokens=False):
            second.truncate(room - len(first))
            pair = self._tokenizer.post_process(first, second, add_special_tokens=True)
            inputs.append(_Input(pair.ids, pair.type_ids))
        return inputs

    def _logits(self, ids: torch.Tensor, types: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        import torch

        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        more = {"token_type_ids": types} if self._typed else {}
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, **more).logits.float()
        if logits.shape[1] == 1:
            return logits[:, 0]
        # The sigmoid of the difference is the softmax of the two.
        return logits[:, self._positive] - logits[:, 1 - self._positive]


class _PromptReranker(_Reranker):
    """Qwen3-Reranker: a causal model that says yes or no at the end of a prompt.

    Args:
        direction: Float32 (hidden,); the last hidden state times this is logit("yes") - logit("no").
            So the other 150,000 logits are never computed.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        tokenizer: Tokenizer,
        device: torch.device,
        instruction: str,
        direction: torch.Tensor,
    ) -> None:
        self._head_ids = tokenizer.encode(_PROMPT_HEAD, add_special_tokens=False).ids
        self._tail_ids = tokenizer.encode(_PROMPT_TAIL, add_special_tokens=False).ids
        super().__init__(folder, model, tokenizer, device)
        self._instruction = instruction
        self._direction = direction

    def close(self) -> None:
        self._direction = None  # type: ignore[assignment]
        super().close()

    def _inputs(self, query: str, passages: list[str]) -> list[_Input]:
        room = self._longest - len(self._head_ids) - len(self._tail_ids)
        before = self._tokenizer.encode(self._before(""), add_special_tokens=False)
        most = max(1, int(room * (1 - _PASSAGE_SHARE)) - len(before))
        tokens = self._tokenizer.encode(query[: most * _CHARACTERS_A_TOKEN], add_special_tokens=False)
        if len(tokens) > most:
            query = query[: tokens.offsets[most - 1][1]]
        # Query and passage are tokenized together, as in training: a token may join " " and a word.
        texts = [self._before(query) + passage for passage in passages]
        inputs = []
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids = self._head_ids + encoding.ids[:room] + self._tail_ids
            inputs.append(_Input(ids, [0] * len(ids)))
        return inputs

    def _before(self, query: str) -> str:
        return f"<Instruct>: {self._instruction}\n<Query>: {query}\n<Document>: "

    def _logits(self, ids: torch.Tensor, types: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        import torch

        # Padded on the right, no token sees padding, for each sees only what is before it. So
        # there is no mask, which is faster than padding on the left and gives the same.
        hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
        logits: torch.Tensor = last.float() @ self._direction
        return logits


def _longest(folder: Path, model: Any) -> int:
    """Longest input in tokens that the model takes and its tokenizer was set to."""
    limits = [_LONGEST]
    if isinstance(positions := getattr(model.config, "max_position_embeddings", None), int) and positions > 0:
        limits.append(positions)
    said = _read_json(folder, "tokenizer_config.json").get("model_max_length")
    if isinstance(said, int) and said > 0:
        limits.append(said)
    for name, part in model.named_modules():
        # RoBERTa's kin count positions from behind the padding's.
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            limits.append(int(part.num_embeddings) - int(part.padding_idx) - 1)
    return min(limits)


def _joins(tokenizer: Tokenizer) -> bool:
    """Whether something stands between the two texts of a pair."""
    mask = tokenizer.encode("a", "b", add_special_tokens=True).special_tokens_mask
    inner = "".join(map(str, mask)).strip("1")
    return "1" in inner


# --- the thread -------------------------------------------------------------------------------


class RerankStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of the reranker.

    Attributes:
        state: ``idle`` when it is not loaded (not yet, or not used for a while).
        model: The folder's name, once loaded.
        message: Why, when `state` is ``failed``.
    """

    state: Literal["idle", "loading", "ready", "failed"]
    model: str = ""
    device: str = ""
    message: str = ""


class _Job:
    """A request and its one answer."""

    def __init__(self, query: str, passages: Sequence[str], caller: str) -> None:
        self.query = query
        self.passages = list(passages)
        self.caller = caller
        self.future: Future[Scores | None] = Future()
        self._answering = threading.Lock()
        self._answered = False

    def over(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.done()

    def finish(self, outcome: Scores | None) -> None:
        """Answer, unless that was done or the future was cancelled, be it at this very moment."""
        with self._answering:
            first, self._answered = not self._answered, True
        if first and self.future.set_running_or_notify_cancel():
            self.future.set_result(outcome)


class RerankThread:
    """Loads a reranker when it is first wanted, in a thread of its own, and serves with it.

    Never stands in a search's way: what cannot be reranked is answered with None and `status` says
    why. After some minutes without a request the model's memory is given back.

    All methods may be called from any thread.
    """

    def __init__(
        self, load: Callable[[], Reranker], *, idle_s: float = _IDLE_S, retry_s: float = _RETRY_S
    ) -> None:
        """Prepare; neither thread nor model is there yet.

        Args:
            load: Called in the thread.
            idle_s: Seconds without a request after which the model is unloaded.
            retry_s: Seconds after a failure to load during which it is not tried again.
        """
        self._load = load
        self._idle_s = idle_s
        self._retry_s = retry_s
        self._wake = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._current: _Job | None = None
        self._status = RerankStatus(state="idle")
        self._failed_at: float | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> RerankStatus:
        """Whether a model is loaded, and why not."""
        return self._status

    def rerank(self, query: str, passages: Sequence[str], *, caller: str = "") -> Future[Scores | None]:
        """Score passages; the caller goes on meanwhile.

        Args:
            query: As `Reranker.scores`.
            passages: As `Reranker.scores`.
            caller: A newer request of the same caller takes the place of this one; requests with
                an empty caller are never replaced.

        Returns:
            A future of float32 (len(passages),), 0 to 1, or of None when there are no scores: the
            reranker failed, a newer request came, or the service ends. It never raises. It can
            be cancelled until it is done, also while the model works: that stops after the batch
            in hand.
        """
        job = _Job(query, passages, caller)
        with self._wake:
            old = [self._current, *self._jobs] if caller else []
            replaced = [other for other in old if other is not None and other.caller == caller]
            if stopping := self._stopping:
                replaced = []
            else:
                self._jobs = deque(other for other in self._jobs if other not in replaced)
                self._jobs.append(job)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="reranker", daemon=True)
                    self._thread.start()
                self._wake.notify_all()
        for other in replaced:
            other.finish(None)
        if stopping:
            job.finish(None)
        return job.future

    def stop(self) -> None:
        """Give up after the batch in hand (or loading), end the thread. May be called twice."""
        with self._wake:
            self._stopping = True
            thread = self._thread
            self._wake.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        reranker: Reranker | None = None
        while True:
            with self._wake:
                self._current = None
                self._wake.wait_for(
                    lambda: self._stopping or self._jobs, None if reranker is None else self._idle_s
                )
                if self._stopping:
                    break
                job = self._current = self._jobs.popleft() if self._jobs else None
            if job is not None:
                reranker = self._serve(reranker, job)
            elif reranker is not None:
                _closed(reranker)
                reranker = None
                self._status = RerankStatus(state="idle")
        if reranker is not None:
            _closed(reranker)
        self._status = RerankStatus(state="idle")
        with self._wake:
            waiting = list(self._jobs)
            self._jobs.clear()
        for job in waiting:
            job.finish(None)

    def _serve(self, reranker: Reranker | None, job: _Job) -> Reranker | None:
        """Answer a job; the reranker, loaded where that was necessary and possible."""
        if job.over():
            job.finish(None)  # tells those who wait for several futures that it was cancelled
            return reranker
        if reranker is None:
            reranker = self._loaded()
        if reranker is None:
            job.finish(None)
            return None
        scores: Scores | None = None
        try:
            scores = reranker.scores(job.query, job.passages, cancelled=lambda: job.over() or self._stopping)
        except RerankCancelledError:
            _log.debug("Reranking was given up")
        except Exception as error:  # noqa: BLE001  whatever it was, the hits are right without it
            _log.warning("%d passages could not be reranked", len(job.passages), exc_info=error)
            self._status = _failed(error)
        else:
            self._status = RerankStatus(state="ready", model=reranker.name, device=reranker.device)
        job.finish(scores)
        return reranker

    def _loaded(self) -> Reranker | None:
        now = time.monotonic()
        if self._failed_at is not None and now - self._failed_at < self._retry_s:
            return None
        self._status = RerankStatus(state="loading")
        try:
            reranker = self._load()
        except Exception as error:  # noqa: BLE001  whatever it was, the hits are right without it
            _log.error("The reranker could not be loaded", exc_info=error)
            self._failed_at = time.monotonic()
            self._status = _failed(error)
            return None
        self._failed_at = None
        self._status = RerankStatus(state="ready", model=reranker.name, device=reranker.device)
        return reranker


def _closed(reranker: Reranker) -> None:
    try:
        reranker.close()
    except Exception as error:  # noqa: BLE001  a broken device must not end the thread
        _log.warning("The reranker could not be unloaded", exc_info=error)


def _failed(error: Exception) -> RerankStatus:
    if isinstance(error, IndexerError):
        return RerankStatus(state="failed", message=str(error))
    return RerankStatus(state="failed", message=f"The reranker failed: {type(error).__name__}")
