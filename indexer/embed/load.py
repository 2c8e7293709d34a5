"""The door to every kind of encoder: from what a person chose to an `Encoder`."""

from __future__ import annotations

import os

from indexer.embed import Encoder, EncoderInfo, ModelChoice
from indexer.embed.bundled import NAME, bundled_folder
from indexer.errors import FatalError
from indexer.settings import EmbeddingServer, Settings

_BUNDLED = ModelChoice()
_SERVER = "server:"


def load_encoder(settings: Settings, choice: ModelChoice = _BUNDLED) -> Encoder:
    """Load a model; takes seconds and imports torch. A server is not asked anything yet.

    Raises:
        FatalError: It cannot be loaded; the message says what to do.
    """
    if choice.reference in {"", NAME} and not choice.dimensions:
        # Torch's threads wait for one another in a busy loop, which starves everybody once another program
        # wants a core. Read when libgomp is loaded, so it has to be said before torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        from indexer.embed.transformer import TransformerEncoder

        return TransformerEncoder(bundled_folder(), settings.device, settings.encoder_threads)
    if choice.reference.startswith(_SERVER):
        from indexer.embed.server import ServerEncoder

        return ServerEncoder(_server(settings, choice), choice, settings)
    raise _unknown(choice)


def info_of(settings: Settings, choice: ModelChoice = _BUNDLED) -> EncoderInfo:
    """The model that `load_encoder` will load, without torch.

    The bundled model is converted first where needed. A server is asked for a vector, to know its dimensions.

    Raises:
        FatalError: It is not there or cannot be prepared.
        IndexerError: A server does not answer as it should.
    """
    if choice.reference in {"", NAME} and not choice.dimensions:
        return bundled_folder().info
    if choice.reference.startswith(_SERVER):
        from indexer.embed.server import server_info

        return server_info(_server(settings, choice), choice, settings)
    raise _unknown(choice)


def bundled_info() -> EncoderInfo:
    """The bundled model; it is converted first where needed.

    Raises:
        FatalError: It is not there or cannot be prepared.
    """
    return bundled_folder().info


def _server(settings: Settings, choice: ModelChoice) -> EmbeddingServer:
    """The server that is meant.

    Raises:
        FatalError: There is none of that name in the settings.
    """
    name = choice.reference.removeprefix(_SERVER)
    for server in settings.servers:
        if server.name == name:
            return server
    raise FatalError("There is no such server", f"No embedding server in the settings is called {name}.")


def _unknown(choice: ModelChoice) -> FatalError:
    return FatalError(
        "There is no such model here",
        f"{choice.reference} is not installed. `dragoman models list` names what is.",
    )
