"""An encoder of transformers' kind, loaded from a model folder into torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.api import Task
from indexer.embed import EncoderInfo, Vectors
from indexer.embed.folder import CONFIG, TOKENIZER, WEIGHTS, ModelFolder
from indexer.embed.tokens import clean, open_tokenizer
from indexer.errors import FatalError

if TYPE_CHECKING:
    import torch

# A token is at least a character, but white space and dropped characters are none: this much of a
# text is tokenized to fill `max_length`, so that a text of any length costs about the same.
_CHARACTERS_A_TOKEN = 40
# Padded tokens that go through the model together. On a CPU more brings nothing (the matrix
# products are large enough) and leaves the caches; a GPU wants much more.
_BUDGET_CPU = 2_048
_BUDGET_GPU = 32_768


class TransformerEncoder:
    """A BERT-like encoder with mean pooling. One thread owns it."""

    def __init__(self, folder: ModelFolder, device: str = "auto", threads: int = 0) -> None:
        """Load the model; importing torch and transformers takes most of the time.

        Args:
            folder: The model, checked.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            threads: CPU threads, 0 for torch's own choice.

        Raises:
            FatalError: The model cannot be loaded, or the device is not there.
        """
        self._folder = folder
        stay_offline()
        import torch

        if threads > 0:
            torch.set_num_threads(threads)
        self._device = choose_device(device)
        self._tokenizer = open_tokenizer(folder.path / TOKENIZER)
        self._tokenizer.enable_truncation(folder.model.max_length)
        self._model = _load_model(folder.path).to(self._device)
        self._pad = int(self._model.config.pad_token_id or 0)
        self._budget = _BUDGET_CPU if self._device.type == "cpu" else _BUDGET_GPU
        # The first pass sets up kernels and reads the weights from the disk: nobody should wait for it.
        self._encode("", ["."])

    @property
    def info(self) -> EncoderInfo:
        """What the model is."""
        return self._folder.info

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda:0``, ``mps``."""
        return str(self._device)

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """Embed queries.

        Args:
            texts: Any strings; of long ones the beginning counts.
            task: What is sought; for models that take instructions.

        Returns:
            Float32 (len(texts), dim), rows of unit length, in the order of `texts`.
        """
        return self._encode(self._folder.model.query_prefix, texts)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """Embed passages; as `encode_queries`."""
        return self._encode(self._folder.model.passage_prefix, texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as it is embedded: truncated, prefix and special tokens included."""
        return [len(ids) for ids in self._tokenize(self._folder.model.passage_prefix, texts)]

    def _encode(self, prefix: str, texts: Sequence[str]) -> Vectors:
        import torch

        model = self._folder.model
        out = np.empty((len(texts), model.dim), np.float32)
        if not texts:
            return out
        tokens = self._tokenize(prefix, texts)
        with torch.inference_mode():
            for batch in batches([len(ids) for ids in tokens], self._budget):
                out[batch] = self._forward([tokens[at] for at in batch]).cpu().numpy()
        return out

    def _tokenize(self, prefix: str, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with prefix and special tokens, at most `max_length`."""
        cut = self._folder.model.max_length * _CHARACTERS_A_TOKEN
        # White space in front stands for no token, but could fill all of the cut.
        inputs = [prefix + clean(text[:cut] if text[:1].strip() else text.lstrip()[:cut]) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(inputs)]

    def _forward(self, tokens: list[list[int]]) -> torch.Tensor:
        import torch

        width = max(map(len, tokens))
        padded = np.full((len(tokens), width), self._pad, np.int64)
        mask = np.zeros((len(tokens), width), np.int64)
        for row, ids in enumerate(tokens):
            padded[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        inputs = torch.from_numpy(padded).to(self._device)
        attention = torch.from_numpy(mask).to(self._device)
        hidden = self._model(input_ids=inputs, attention_mask=attention).last_hidden_state
        weight = attention.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        unit: torch.Tensor = torch.nn.functional.normalize(mean.float(), dim=1)
        return unit


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group texts of similar length, so that little is padded.

    Args:
        lengths: Tokens of each text.
        budget: Most tokens of a group, padding included; a single longer text is a group.

    Yields:
        Positions in `lengths`; each comes once. Longest first: what does not fit into memory fails
        at once, and not after minutes.
    """
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    first = 0
    while first < len(order):
        last = first + max(1, budget // max(1, lengths[order[first]]))
        yield order[first:last]
        first = last


def stay_offline() -> None:
    """Forbid transformers every call home; it reads these when it is imported."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY"):
        os.environ[name] = "1"


def choose_device(wanted: str) -> torch.device:
    """The torch device that a setting means.

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
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _load_model(path: Path) -> Any:
    """A BertModel in inference mode whose weights are the mapped file itself.

    `from_pretrained` would import more and copy; here the parameters are views of the file, so
    loading takes a moment and rows of the vocabulary that are not used take no memory.
    """
    import torch
    from safetensors.torch import load_file
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    try:
        config = BertConfig.from_json_file(str(path / CONFIG))
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model: Any = BertModel(config, add_pooling_layer=False)
        model.load_state_dict(load_file(path / WEIGHTS), strict=True, assign=True)
        # Not among the weights: what says which position and which type each token has.
        embeddings = model.embeddings
        positions = torch.arange(config.max_position_embeddings).unsqueeze(0)
        embeddings.register_buffer("position_ids", positions, persistent=False)
        types = torch.zeros_like(positions)
        embeddings.register_buffer("token_type_ids", types, persistent=False)
    except Exception as error:  # three libraries' ways to say that the files do not fit
        raise FatalError(
            "The language model cannot be loaded",
            f"{path}: {error}. Remove the folder; it is made again at the next start.",
        ) from error
    return model.eval()
