"""What every encoder that runs here does with texts before its model sees them, and with what comes out.

Texts get their prefix, become tokens, are cut to the model's window or into several, and are put together
in batches of similar length. What a batch of tokens becomes is the subclass's secret.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from indexer.api import Task
from indexer.embed import EncoderInfo, Vectors
from indexer.embed.folder import ModelFolder
from indexer.embed.sentence import query_prefix
from indexer.embed.tokens import open_tokenizer
from indexer.embed.windows import beginning, even_cuts, means, most_windows
from indexer.errors import IndexerError
from indexer.settings import Instructions

# A piece of a text may have a few tokens more on its own than it had in the text.
_SLACK = 8
# Texts that are taken to tokens before a query that waits for the same tokenizer has its turn.
_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Input:
    """Tokens of a text, and how many at its beginning are not pooled."""

    ids: list[int]
    unpooled: int

    def __len__(self) -> int:
        return len(self.ids)


class TokenEncoder(abc.ABC):
    """An `Encoder` as far as it does not depend on what runs the model. One thread owns it.

    Texts may be taken to tokens by others, too.
    """

    def __init__(self, folder: ModelFolder, instructions: Instructions, *, pad: int, budget: int) -> None:
        """Load the tokenizer.

        Args:
            folder: The model, checked.
            instructions: What the person wants an instruction-aware model to be told.
            pad: The token that stands where there is none.
            budget: Padded tokens that go through the model together.
        """
        self._folder = folder
        self._spec = folder.model
        self._instructions = instructions
        self._pad = pad
        self._budget = budget
        self._tokenizer = open_tokenizer(folder.tokenizer)
        # Whether it cuts texts off is a state of it, and queries may be embedded by another thread.
        self._tokenizing = threading.Lock()
        self._prepare_tokenizer()

    @abc.abstractmethod
    def _computed(
        self, inputs: list[Input], groups: Iterable[list[int]]
    ) -> Iterator[tuple[list[int], Vectors]]:
        """Each group of inputs of similar length with its vectors, float32 (len(group), dim), unit length."""

    @property
    @abc.abstractmethod
    def precision(self) -> str:
        """What it computes in, such as ``bfloat16``."""

    @property
    def info(self) -> EncoderInfo:
        """What the model is."""
        return self._folder.info

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """Embed queries.

        Args:
            texts: Any strings; of long ones the beginning counts.
            task: What is sought; for models that take instructions.

        Returns:
            Float32 (len(texts), dim), rows of unit length, in the order of `texts`.

        Raises:
            IndexerError: The device has too little memory, or the model gives no numbers.
        """
        return self._embed(self._queries(self.query_prefix(task), texts))

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """Embed passages.

        Args:
            texts: Any strings. One that is longer than the model takes gets the mean of its windows'
                vectors, of which there are at most 32.

        Returns:
            As `encode_queries`.

        Raises:
            IndexerError: As `encode_queries`.
        """
        found = [self._windows(text, ids) for text, ids in self._passages(texts)]
        vectors = self._embed([window for windows in found for window in windows])
        return means(vectors, [len(windows) for windows in found])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a passage, prefix and special tokens included, of all its windows."""
        return [sum(map(len, self._windows(text, ids))) for text, ids in self._passages(texts)]

    def query_prefix(self, task: Task = "notes") -> str:
        """What is put in front of a query of this kind."""
        return query_prefix(self._spec, self._instructions, task)

    # --- texts to tokens ------------------------------------------------------------------------------

    def _prepare_tokenizer(self) -> None:
        from tokenizers import normalizers

        spec, tokenizer = self._spec, self._tokenizer
        if spec.lowercase:
            before = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
        # A file may contain what looks like a special token, and must not end its own passage with it.
        prefixes = spec.query_prefix + spec.instruction + spec.passage_prefix
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        tokenizer.encode_special_tokens = not any(token in prefixes for token in special)
        end = tokenizer.token_to_id(spec.append) if spec.append else None
        self._end = [] if end is None or end in tokenizer.encode("a").ids[-1:] else [end]
        self._special = tokenizer.num_special_tokens_to_add(False) + len(self._end)
        self._unpooled: dict[str, int] = {}

    def _tokenize(self, prefix: str, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """Token ids of each text with prefix and special tokens; of more than `most` the end is left away."""
        found: list[list[int]] = []
        for first in range(0, len(texts), _TOGETHER):
            inputs = [prefix + text for text in texts[first : first + _TOGETHER]]
            with self._tokenizing:
                if most is not None:
                    self._tokenizer.enable_truncation(most)
                try:
                    encodings = self._tokenizer.encode_batch_fast(inputs)
                finally:
                    self._tokenizer.no_truncation()
            # Where nothing stands for an empty text, padding does.
            found += [encoding.ids + self._end or [self._pad] for encoding in encodings]
        return found

    def _shortened(self, prefix: str, texts: Sequence[str]) -> list[list[int]]:
        """As `_tokenize`, at most `max_length`: of a longer text the end is left away."""
        return self._tokenize(prefix, texts, max(1, self._spec.max_length - len(self._end)))

    def _queries(self, prefix: str, texts: Sequence[str]) -> list[Input]:
        cut = self._spec.max_length
        found = self._shortened(prefix, [beginning(text, cut) for text in texts])
        unpooled = self._prompt_tokens(prefix)
        return [Input(ids, unpooled) for ids in found]

    def _passages(self, texts: Sequence[str]) -> list[tuple[str, list[int]]]:
        """Each text, cut to what is embedded of it, and its tokens, however many."""
        cut = self._spec.max_length * most_windows(self._spec.max_length)
        texts = [beginning(text, cut) for text in texts]
        return list(zip(texts, self._tokenize(self._spec.passage_prefix, texts), strict=True))

    def _windows(self, text: str, ids: list[int]) -> list[Input]:
        """The text as one input or, where it has too many tokens, as several of about the same length."""
        spec, prefix = self._spec, self._spec.passage_prefix
        unpooled = self._prompt_tokens(prefix)
        if len(ids) <= spec.max_length:
            return [Input(ids, unpooled)]
        room = max(1, spec.max_passage - min(_SLACK, spec.max_passage // 4))
        with self._tokenizing:
            offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        ends = [end for _, end in offsets]
        parts = even_cuts(len(ends[: room * most_windows(spec.max_length)]), room)
        if len(parts) == 1:
            return [Input(ids, unpooled) for ids in self._shortened(prefix, [text])]
        cuts = [0, *(ends[last - 1] for _, last in parts)]
        pieces = [text[first:last] for first, last in pairwise(cuts)]
        found = self._shortened(prefix, [piece for piece in pieces if piece.strip()] or pieces[:1])
        return [Input(ids, unpooled) for ids in found]

    def _prompt_tokens(self, prefix: str) -> int:
        """Tokens at the beginning that are not pooled."""
        if self._spec.include_prompt or not prefix:
            return 0
        if prefix not in self._unpooled:
            with self._tokenizing:
                encoding = self._tokenizer.encode(prefix)
            self._unpooled[prefix] = len(encoding) - (encoding.special_tokens_mask[-1:] == [1])
        return self._unpooled[prefix]

    # --- tokens to vectors ----------------------------------------------------------------------------

    def _embed(self, inputs: list[Input]) -> Vectors:
        out = np.empty((len(inputs), self._spec.dim), np.float32)
        lengths = [len(one) for one in inputs]
        for group, vectors in self._computed(inputs, batches(lengths, self._most_tokens(lengths))):
            out[group] = vectors
        return self._checked(out)

    def _most_tokens(self, _: Sequence[int]) -> int:
        """Padded tokens of a group at most, where the inputs have so many each."""
        return self._budget

    def _checked(self, out: Vectors) -> Vectors:
        """The same, once it is known to be numbers."""
        if not np.isfinite(out).all():
            raise IndexerError(
                "The model gives no numbers",
                f"{self._spec.name} in {self.precision}: choose the precision float32, or install it again.",
            )
        return out


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
