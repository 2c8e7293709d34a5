"""The door to the encoder that the settings ask for."""

from __future__ import annotations

import os

from indexer.embed import Encoder, EncoderInfo
from indexer.embed.bundled import bundled_folder
from indexer.settings import Settings


def load_encoder(settings: Settings) -> Encoder:
    """Load the model; takes seconds and imports torch.

    Raises:
        FatalError: It cannot be loaded; the message says what to do.
    """
    # Torch's threads wait for one another in a busy loop, which starves everybody once another program
    # wants a core. Read when libgomp is loaded, so it has to be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from indexer.embed.transformer import TransformerEncoder

    return TransformerEncoder(bundled_folder(), settings.device, settings.encoder_threads)


def bundled_info() -> EncoderInfo:
    """The model that `load_encoder` will load, without torch; converts it first where needed.

    Raises:
        FatalError: It is not there or cannot be prepared.
    """
    return bundled_folder().info
