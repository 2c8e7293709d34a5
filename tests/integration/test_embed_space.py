"""The shipped profile belongs to the bundled model and does what it is for."""

import io
import json

import numpy as np
import pytest

from indexer.embed import Encoder
from indexer.embed.load import bundled_info, load_encoder
from indexer.embed.space import PROFILES, REFERENCE, space_of
from indexer.settings import Settings


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(Settings())


@pytest.mark.parametrize("language", ["de", "ja"])
def test_the_shipped_means_are_those_of_the_bundled_model(encoder: Encoder, language: str) -> None:
    items = json.loads((REFERENCE / "part_a.json").read_text(encoding="utf-8"))["items"]
    rows = encoder.encode_passages([item["texts"][language]["passage"] for item in items])
    with np.load(io.BytesIO((PROFILES / f"{encoder.info.key}.npz").read_bytes())) as arrays:
        shipped = arrays["passages"][list(arrays["languages"]).index(language)].astype(np.float32)
    assert np.abs(rows.mean(0) - shipped).max() < 2e-3


def test_a_question_prefers_the_answer_to_its_own_language(encoder: Encoder) -> None:
    space = space_of(bundled_info().key)
    assert space is not None
    query = encoder.encode_queries(["暖气不热怎么办"])
    passages = encoder.encode_passages(
        [
            "我们的猫每年春天都要去兽医那里打疫苗。",
            "If the radiators stay cold, bleed the air out with the small brass key.",
        ]
    )
    cat, radiator = (space.queries(query) @ space.passages(passages).T)[0]
    assert radiator > cat
    far = space.reference @ space.queries(query)[0]
    distances = [float((cosine - far.mean()) / far.std()) for cosine in (cat, radiator)]
    assert space.similarity(distances[0]) < 0.25
    assert space.similarity(distances[0]) < space.similarity(distances[1])
