"""An encoder of transformers' kind, loaded from a model folder into torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from indexer.embed import Vectors, devices, packed
from indexer.embed.devices import is_lost, is_out_of_memory
from indexer.embed.folder import CONFIG, WEIGHTS, Layer, ModelFolder
from indexer.embed.runner import PackedRunner, Started, wanted
from indexer.embed.sentence import harmless
from indexer.embed.tokenized import Input, TokenEncoder
from indexer.embed.windows import means
from indexer.errors import FatalError, IndexerError
from indexer.settings import Instructions

if TYPE_CHECKING:
    import torch

_NO_INSTRUCTIONS = Instructions()
_log = logging.getLogger(__name__)

# Padded tokens that go through the model together. On a CPU more brings nothing (the matrix
# products are large enough) and leaves the caches; a GPU wants much more.
_BUDGET_CPU = 2_048
_BUDGET_GPU = 32_768
# Where memory is short, batches are halved down to this.
_SMALLEST_BUDGET = 256
_SMALLEST_BUDGET_GPU = 1_024
# So many batches without trouble, and they become a quarter larger again.
_QUIET_BATCHES = 64
# Of the memory that is free on a GPU, what a batch may take; other programs want some, too.
_SHARE = 0.5
# Of each of a layer's two widths, so many numbers of a token are in memory at once, at most.
_COPIES = 10
_A_TOKEN = 200_000  # bytes, where the widths are not known
# Of what was counted, so many tokens are kept until they are wanted.
_MOST_COUNTED = 1_000_000
# From so many texts on the next ones are tokenized while the device works, so many characters for each
# token of a batch at a time.
_AHEAD_FROM = 32
_CHARACTERS = 3
# In these no token sees what follows it. Padded behind the text, they need no mask, which is faster.
_CAUSAL = {"qwen3", "qwen2", "mistral", "llama"}
# Their activations leave the range of float16 (https://huggingface.co/google/embeddinggemma-300m).
_NOT_IN_FLOAT16 = {"gemma3_text", "gemma3", "gemma2", "t5", "mt5", "umt5"}
# Of what a library says of a model that it cannot load; torch lists every weight.
_LONGEST_REASON = 160
_ENCODERS_OF = {"t5", "mt5", "umt5"}

Loader = Callable[["torch.dtype"], Any]


class TransformerEncoder(TokenEncoder):
    """A transformer in torch, what pools its token vectors and the layers behind. One thread owns it."""

    engine = "torch"

    def __init__(
        self,
        folder: ModelFolder,
        device: str = "auto",
        threads: int = 0,
        *,
        precision: str = "auto",
        instructions: Instructions = _NO_INSTRUCTIONS,
        load: Loader | None = None,
        packed_anyway: bool = False,
        extras: AbstractSet[str] | None = None,
    ) -> None:
        """Load the model; importing torch and transformers takes most of the time.

        Args:
            folder: The model, checked.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            threads: CPU threads, 0 for torch's own choice.
            precision: See `Settings.precision`. What follows the transformer is always float32.
            instructions: What the person wants an instruction-aware model to be told.
            load: Makes the transformer, in inference mode; None for the one in the folder.
            packed_anyway: Whether texts are packed where that brings nothing, too (for tests).
            extras: See `runner.PackedRunner`; None for what the environment asks for.

        Raises:
            FatalError: The model cannot be loaded, or the device is not there.
        """
        stay_offline()
        import torch

        super().__init__(folder, instructions, pad=0, budget=_BUDGET_CPU)

        if threads > 0:
            torch.set_num_threads(threads)
        self._first_threads = torch.get_num_threads()
        self._precision = precision
        self._loader = load or partial(load_transformer, folder)
        self._pack_anyway = packed_anyway
        self._extras = wanted() if extras is None else extras
        self._device = choose_device(device)
        try:
            try:
                self._start()
            except RuntimeError as error:
                if not self._gone(error):
                    raise
                self._fall_back(error)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise FatalError(*_too_little_memory(str(self._device))) from error
            raise

    def _start(self) -> None:
        """Load the model onto the device, and try it."""
        import torch

        dtype = choose_dtype(self._device, self._precision)
        model = self._loader(dtype)
        if dtype is torch.float16 and model.config.model_type in _NOT_IN_FLOAT16:
            model = model.float()
        self._model = model.to(self._device)
        self._layers = load_layers(self._folder, self._device)
        config = self._model.config
        self._pad = pad_token(config)
        bidirectional = getattr(config, "use_bidirectional_attention", False) or not getattr(
            config, "is_causal", True
        )
        self._causal = config.model_type in _CAUSAL and not bidirectional
        self._runner: PackedRunner | None = None
        self._quiet = 0  # tokens since batches were halved
        self._counted: dict[str, list[Input]] = {}
        self._counted_tokens = 0
        self._most = self._budget = _BUDGET_CPU if self._device.type == "cpu" else self._room()
        # The first pass sets up kernels and reads the weights from the disk: nobody should wait for it.
        try:
            if self._pack_anyway or packed.possible(self._device, self._model.dtype):
                packed.fuse_norms(self._model)
                if packed.switch(self._model, self._spec.max_length, self._pad):
                    self._runner = PackedRunner(
                        self._model,
                        self._layers,
                        self._spec.pooling,
                        self._spec.dim,
                        self._pad,
                        extras=self._extras,
                    )
            self._embed(self._queries("", ["."]))
        except IndexerError as error:
            raise FatalError(error.title, error.message) from error
        except Exception as error:  # a stranger's model may want other inputs, or give other outputs
            if is_out_of_memory(error) or self._gone(error):
                raise
            raise cannot_load(self._folder.path, error) from error

    def _room(self) -> int:
        """Tokens that a batch on a device may have, from the memory that is free there."""
        import torch

        if self._device.type != "cuda":
            return _BUDGET_GPU
        config, size = self._model.config, self._model.dtype.itemsize
        widths = [getattr(config, name, None) or 0 for name in ("hidden_size", "intermediate_size")]
        a_token = size * sum(_COPIES * width for width in widths) or _A_TOKEN
        free = torch.cuda.mem_get_info(self._device)[0]
        return int(min(_BUDGET_GPU, max(_SMALLEST_BUDGET_GPU, free * _SHARE // a_token)))

    def _gone(self, error: BaseException) -> bool:
        """Whether the device failed for good."""
        return self._device.type != "cpu" and is_lost(error)

    def _fall_back(self, error: BaseException) -> None:
        """Go on with the processor. What is on the device cannot be had back: the model is read again."""
        import torch

        devices.lose(str(self._device), error)
        self._runner = self._model = None
        self._layers = []
        self._device = torch.device("cpu")
        self._pack_anyway = False
        self._start()

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda:0``, ``mps``."""
        return str(self._device)

    @property
    def precision(self) -> str:
        """What it computes in, such as ``bfloat16``."""
        return str(self._model.dtype).removeprefix("torch.")

    def set_threads(self, threads: int) -> None:
        """Use so many CPU threads from the next batch on, 0 for as many as at first."""
        import torch

        torch.set_num_threads(threads or self._first_threads)

    @property
    def packed(self) -> bool:
        """Whether texts go through the model one behind the other, without padding."""
        return self._runner is not None

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """Embed passages; see `TokenEncoder`. Packed, the next ones are tokenized while the device works."""
        if self._runner is None or (len(texts) < _AHEAD_FROM and not self._counted):
            return super().encode_passages(texts)
        found: list[list[Input]] = []
        started: list[tuple[list[int], Started | list[Input]]] = []
        first = 0
        for slice_ in self._tokenized_ahead(texts):
            found += slice_
            inputs = [window for windows in slice_ for window in windows]
            started += [([first + at for at in where], one) for where, one in self._launch(inputs)]
            first += len(inputs)
        return means(self._collect(first, started), [len(windows) for windows in found])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `TokenEncoder`. Packed, tokens are kept for `encode_passages`: making them takes as long."""
        if self._runner is None:
            return super().count_tokens(texts)
        found = [self._windows(text, ids) for text, ids in self._passages(texts)]
        counts = [sum(map(len, windows)) for windows in found]
        for text, windows, count in zip(texts, found, counts, strict=True):
            if text in self._counted or count > _MOST_COUNTED:
                continue
            self._counted[text] = windows
            self._counted_tokens += count
            while self._counted_tokens > _MOST_COUNTED:  # the oldest may never be wanted
                oldest = self._counted.pop(next(iter(self._counted)))
                self._counted_tokens -= sum(map(len, oldest))
        return counts

    def _tokenized_ahead(self, texts: Sequence[str]) -> Iterator[list[list[Input]]]:
        """The windows of each text, slice by slice; one slice is made in a thread while another is used."""

        def windows(slice_: Sequence[str]) -> list[list[Input]]:
            known = [self._counted.pop(text, None) for text in slice_]
            self._counted_tokens -= sum(len(one) for found in known for one in found or ())
            new = [text for text, one in zip(slice_, known, strict=True) if one is None]
            made = iter([self._windows(text, ids) for text, ids in self._passages(new)])
            return [next(made) if one is None else one for one in known]

        most = _CHARACTERS * self._budget
        cuts, size = [0], 0
        for at, text in enumerate(texts):
            if size > most:
                cuts.append(at)
                size = 0
            size += len(text)
        slices = [texts[first:last] for first, last in zip(cuts, [*cuts[1:], len(texts)], strict=True)]
        with ThreadPoolExecutor(1, "tokenizer") as pool:
            ahead: Future[list[list[Input]]] = pool.submit(windows, slices[0])
            for at in range(len(slices)):
                ready = ahead.result()
                if at + 1 < len(slices):
                    ahead = pool.submit(windows, slices[at + 1])
                yield ready

    def _embed(self, inputs: list[Input]) -> Vectors:
        if self._runner is None:
            return super()._embed(inputs)
        return self._collect(len(inputs), self._launch(inputs))

    def _launch(self, inputs: list[Input]) -> list[tuple[list[int], Started | list[Input]]]:
        """Start what the device can take; what it could not comes back as it was, with its places."""
        started: list[tuple[list[int], Started | list[Input]]] = []
        for batch in packed.packs([len(one) for one in inputs], self._budget):
            chosen = [inputs[at] for at in batch]
            one: Started | list[Input] = chosen
            if self._runner is not None:
                try:
                    one = self._runner.start(chosen)
                except RuntimeError as error:
                    if self._gone(error):
                        self._fall_back(error)
                    elif not is_out_of_memory(error):
                        raise
            started.append((batch, one))
        return started

    def _collect(self, count: int, started: list[tuple[list[int], Started | list[Input]]]) -> Vectors:
        """Wait for what was started; what was not, or was lost with the device, is done now."""
        out = np.empty((count, self._spec.dim), np.float32)
        for where, one in started:
            out[where] = self._done(one)
        return out

    def _done(self, one: Started | list[Input]) -> Vectors:
        if isinstance(one, list):
            return super()._embed(one)
        # Once the device is lost, all that was started on it is.
        if self._runner is not None:
            try:
                vectors = one.result()
            except RuntimeError as error:
                if not self._gone(error):
                    raise
                failure = error
            else:
                self._grow(one.inputs)
                return self._checked(vectors)
            self._fall_back(failure)
        return super()._embed(one.inputs)

    def _computed(
        self, inputs: list[Input], groups: Iterable[list[int]]
    ) -> Iterator[tuple[list[int], Vectors]]:
        for group in groups:
            yield group, self._run([inputs[at] for at in group])

    def _run(self, inputs: list[Input]) -> Vectors:
        """Vectors of texts: in parts where memory is short, by the processor where the device is lost."""
        import torch

        try:
            with torch.inference_mode():
                vectors = self._within_memory(inputs)
        except RuntimeError as error:
            if not self._gone(error):
                raise
            failure = error
        else:
            self._grow(inputs)
            return vectors
        # Outside of the handler, where the failed pass is no longer held by the exception.
        self._fall_back(failure)
        return super()._embed(inputs)

    def _grow(self, inputs: list[Input]) -> None:
        """After batches were halved: a little larger again, once many have gone through."""
        if self._budget >= self._most:
            return
        self._quiet += sum(map(len, inputs))
        if self._quiet >= _QUIET_BATCHES * self._budget:
            self._budget = min(self._most, self._budget + self._budget // 4)
            self._quiet = 0
            _log.info("%s: batches of %d tokens from now on", self.device, self._budget)

    def _within_memory(self, inputs: list[Input]) -> Vectors:
        """Vectors of a batch, in halves where the device has no room for the whole."""
        try:
            return self._forward(inputs) if self._runner is None else self._runner.start(inputs).result()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(inputs) == 1:
                raise IndexerError(*_too_little_memory(self.device)) from error
        # Outside of the handler, as above.
        self._free_cache()
        half = len(inputs) // 2
        lengths = list(map(len, inputs))
        failed = sum(lengths) if self._runner is not None else len(inputs) * max(lengths)
        self._budget = max(_SMALLEST_BUDGET, min(self._budget, failed // 2))
        self._quiet = 0
        _log.info("%s is short of memory: batches of %d tokens from now on", self.device, self._budget)
        return np.concatenate([self._within_memory(inputs[:half]), self._within_memory(inputs[half:])])

    def _forward(self, inputs: list[Input]) -> Vectors:
        import torch

        device = self._model.device
        lengths = np.array([len(one) for one in inputs])
        # On the right, so that positions, however a model numbers them, are those of the text alone.
        padded = np.full((len(inputs), lengths.max()), self._pad, np.int64)
        for row, one in enumerate(inputs):
            padded[row, : len(one)] = one.ids
        ids = torch.from_numpy(padded).to(device)
        mask = torch.from_numpy(np.arange(padded.shape[1]) < lengths[:, None]).to(device)
        seen = None if self._causal or lengths.min() == lengths.max() else mask.long()
        hidden = self._model(input_ids=ids, attention_mask=seen).last_hidden_state
        unpooled = torch.tensor([one.unpooled for one in inputs], device=device)
        vectors = pooled(hidden, mask, self._spec.pooling, unpooled)
        for layer in self._layers:
            vectors = layer(vectors)
        unit = torch.nn.functional.normalize(vectors[:, : self._spec.dim], dim=1)
        rows: Vectors = unit.cpu().numpy()
        return rows

    def _free_cache(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()


def pooled(
    hidden: torch.Tensor, mask: torch.Tensor, pooling: str, unpooled: torch.Tensor | None = None
) -> torch.Tensor:
    """Make one vector of the vectors of a text's tokens.

    Args:
        hidden: (n, width, dim), of any floating type.
        mask: (n, width), not 0 where there is a token of the text; padding may be on either side.
        pooling: See `Model.pooling`.
        unpooled: Int (n,), tokens at the beginning of each text that are left out; None for none.

    Returns:
        Float32 (n, dim times the number of poolings). ``weightedmean`` weighs tokens by position, as
        Muennighoff, "SGPT: GPT Sentence Embeddings for Semantic Search", 2022.
    """
    import torch

    mask = mask.bool()
    position = mask.cumsum(1)  # of each token in its text, from 1
    if unpooled is not None:
        # Where nothing is left the whole is pooled, for there is nothing else.
        rest = mask & (position > unpooled[:, None])
        mask = torch.where(rest.any(1, keepdim=True), rest, mask)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    order = torch.arange(mask.shape[1], device=mask.device)
    vectors = []
    for mode in pooling.split("+"):
        if mode == "cls":
            vectors.append(hidden[rows, mask.int().argmax(1)].float())
        elif mode == "lasttoken":
            vectors.append(hidden[rows, torch.where(mask, order, -1).argmax(1)].float())
        elif mode == "max":
            vectors.append(hidden.masked_fill(~mask[..., None], float("-inf")).amax(1).float())
        else:
            weight = (mask * position if mode == "weightedmean" else mask).float()[..., None]
            total = weight.sum(1).clamp(min=1e-9)
            # Padding is put to zero rather than multiplied with it: it may be infinite.
            kept = hidden.float().masked_fill(~mask[..., None], 0)
            vectors.append(
                (kept * weight).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)
            )
    return torch.cat(vectors, dim=1)


def pad_token(config: Any) -> int:
    """The token that stands where there is none."""
    return int(getattr(config, "pad_token_id", None) or 0)


def stay_offline() -> None:
    """Forbid transformers every call home; it reads these when it is imported."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY"):
        os.environ[name] = "1"


def choose_device(wanted: str) -> torch.device:
    """The torch device that a setting means; the processor where that one failed before.

    Raises:
        FatalError: There is no such device here.
    """
    import torch

    mps = torch.backends.mps.is_available()
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise FatalError(
            "The device is not known", f"{wanted!r} is not a device. Choose auto, cpu, cuda or mps."
        ) from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}.get(device.type, 0)
    if (device.index or 0) >= count:
        raise FatalError(
            "The device is not there",
            f"torch {torch.__version__} finds no {wanted} here. Choose auto or cpu in the settings.",
        )
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
    return torch.device("cpu") if devices.lost(str(device)) else device


def choose_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The torch type that a setting means on a device.

    Raises:
        FatalError: There is no such precision.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision in known:
        return known[precision]
    # What torch has for 8 bits is slower than its other types, or needs a compiler.
    if precision not in {"auto", "int8"}:
        raise FatalError(
            "The precision is not known",
            f"{precision!r} is none. Choose auto, float32, bfloat16, float16 or int8.",
        )
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


def load_transformer(folder: ModelFolder, dtype: torch.dtype) -> Any:
    """The transformer of a folder, in inference mode.

    Raises:
        FatalError: It cannot be built, or some of its weights are missing: transformers would make those up
            at random.
    """
    path = folder.transformer
    try:
        config: dict[str, Any] = msgspec.json.decode((path / CONFIG).read_bytes())
        if _is_plain_bert(config, path):
            return _load_mapped_bert(path, config).to(dtype)
        from transformers import CONFIG_MAPPING

        kind = str(config["model_type"])
        if kind not in CONFIG_MAPPING:
            raise FatalError(  # noqa: TRY301
                "The model cannot be used",
                f"{path}: it is a {kind}, which this version of transformers does not know.",
            )
        return from_pretrained(str(path), CONFIG_MAPPING[kind].from_dict(harmless(config)), dtype)
    except FatalError:
        raise
    except Exception as error:  # three libraries' ways to say that the files do not fit
        raise cannot_load(path, error) from error


def from_pretrained(place: str, config: Any, dtype: torch.dtype, **more: Any) -> Any:
    """What transformers loads from a local place, in inference mode, with every weight from there.

    Raises:
        FatalError: Weights are missing.
        Exception: Whatever transformers raises.
    """
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.utils import logging as transformers_logging

    hush: Callable[[], None] = transformers_logging.disable_progress_bar
    hush()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if hasattr(config, "use_cache"):
        config.use_cache = False
    auto: Any = AutoModelForTextEncoding if config.model_type in _ENCODERS_OF else AutoModel
    for attention in ("sdpa", "eager"):
        try:
            model, report = auto.from_pretrained(
                place,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                **({"use_safetensors": True} | more),
            )
        except ValueError as error:
            if attention == "sdpa" and "attention" in str(error):
                continue  # not every architecture has it
            raise
        break
    # BERT's kin are published with and without a pooler, which is not used here.
    missing = sorted(name for name in report["missing_keys"] if "pooler." not in name)
    if missing or report["mismatched_keys"]:
        names = ", ".join(map(str, missing[:3] or sorted(report["mismatched_keys"])[:3]))
        raise FatalError(
            "The model cannot be loaded",
            f"{place}: weights are missing or do not fit ({names}). Download it again.",
        )
    return model.eval()


def load_layers(folder: ModelFolder, device: torch.device) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """What follows the pooling: functions of float32 (n, dim).

    Raises:
        FatalError: Their weights cannot be loaded.
    """
    import torch
    from safetensors.torch import load_file

    def layer_of(layer: Layer) -> Callable[[torch.Tensor], torch.Tensor]:
        functional = torch.nn.functional
        if layer.kind == "normalize":
            return functional.normalize
        loaded = load_file(folder.path / layer.path / WEIGHTS)
        weights = {name: tensor.to(device, torch.float32) for name, tensor in loaded.items()}
        if layer.kind == "layernorm":
            weight, bias = weights["norm.weight"], weights["norm.bias"]
            return lambda rows: functional.layer_norm(rows, weight.shape, weight, bias)
        linear, added = weights["linear.weight"], weights.get("linear.bias")
        around = weights.get("residual.weight")
        activation = getattr(torch.nn, layer.activation)()

        def dense(rows: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = activation(functional.linear(rows, linear, added))
            if layer.residual:
                out = out + (rows if around is None else functional.linear(rows, around))
            return out

        return dense

    layers = []
    for layer in folder.model.layers:
        try:
            layers.append(layer_of(layer))
        except Exception as error:  # as above
            raise cannot_load(folder.path / layer.path, error) from error
    return layers


def _is_plain_bert(config: dict[str, Any], path: Path) -> bool:
    """Whether the file's tensors are just what BertModel calls its parameters."""
    if config.get("model_type") != "bert" or not (path / WEIGHTS).is_file():
        return False
    from safetensors import safe_open

    with safe_open(path / WEIGHTS, "np") as weights:
        return "embeddings.word_embeddings.weight" in weights.keys()  # noqa: SIM118  it is no dictionary


def _load_mapped_bert(path: Path, config: dict[str, Any]) -> Any:
    """A BertModel in inference mode whose weights are the mapped file itself.

    `from_pretrained` would import more and copy; here the parameters are views of the file, so
    loading takes a moment and rows of the vocabulary that are not used take no memory.
    """
    import torch
    from safetensors.torch import load_file
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    made = BertConfig.from_dict(harmless(config))
    made._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = BertModel(made, add_pooling_layer=False)
    weights = load_file(path / WEIGHTS)
    unused = [name for name in weights if name.startswith("pooler.") or name == "embeddings.position_ids"]
    for name in unused:
        del weights[name]
    model.load_state_dict(weights, strict=True, assign=True)
    # Not among the weights: what says which position and which type each token has.
    embeddings = model.embeddings
    positions = torch.arange(made.max_position_embeddings).unsqueeze(0)
    embeddings.register_buffer("position_ids", positions, persistent=False)
    types = torch.zeros_like(positions)
    embeddings.register_buffer("token_type_ids", types, persistent=False)
    return model.eval()


def cannot_load(place: Path, error: Exception) -> FatalError:
    """What a person is told when a library refuses a model's files."""
    reason = " ".join(str(error).split())
    if len(reason) > _LONGEST_REASON:
        reason = reason[:_LONGEST_REASON].rsplit(" ", 1)[0] + " ..."
    return FatalError(
        "The language model cannot be loaded",
        f"{place}: {reason} Its files may be damaged, or may not belong together: get them again, or choose "
        "another model. The bundled model is made anew once its folder is removed.",
    )


def _too_little_memory(device: str) -> tuple[str, str]:
    return (
        "The model needs more memory",
        f"{device} has too little left. "
        "Make the longest input shorter, or choose a smaller model or the device cpu.",
    )
