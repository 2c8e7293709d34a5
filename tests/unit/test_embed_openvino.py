"""How texts are divided among the batches that are computed at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexer.embed.openvino import divided
from indexer.embed.tokenized import batches

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 4), st.integers(512, 2048))
def test_no_batch_is_larger_than_allowed_and_every_text_is_in_one(
    lengths: list[int], parts: int, most: int
) -> None:
    budget = divided(lengths, parts, most)
    assert 0 < budget <= most
    groups = list(batches(lengths, budget))
    assert sorted(at for group in groups for at in group) == list(range(len(lengths)))
    if parts > 1 and sum(lengths) >= 48:
        # Half a text of slack, since texts are not cut.
        rounds = -(-sum(lengths) // (parts * most))
        assert budget <= sum(lengths) / (rounds * parts) + max(lengths) / 2 + 2


def test_texts_are_divided_evenly() -> None:
    def sizes(lengths: list[int], parts: int = 2) -> list[int]:
        return [len(group) for group in batches(lengths, divided(lengths, parts, 1024))]

    assert sizes([10, 8]) == [2]  # a query and its gloss: not worth it
    assert sizes([17, 17, 17]) == [2, 1]
    assert sizes([300, 300]) == [1, 1]
    assert sizes([130] * 10) == [5, 5]
    assert sizes([130] * 20) == [5, 5, 5, 5]
    assert sizes([130] * 20, 1) == [7, 7, 6]
