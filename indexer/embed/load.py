"""The door to every kind of encoder: from what a person chose to an `Encoder`."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from indexer.embed import Encoder, EncoderInfo, ModelChoice, hub
from indexer.embed.bundled import NAME, bundled_folder
from indexer.embed.folder import ModelFolder
from indexer.embed.sentence import opened
from indexer.errors import FatalError
from indexer.settings import EmbeddingServer, Settings

_BUNDLED = ModelChoice()
_SERVER = "server:"
# Transformers imports its modules when they are first wanted; two threads that want the same one at once may
# find it half imported ("cannot import name ...").
_LOADING = threading.Lock()
_GGUF = ".gguf"


def load_encoder(settings: Settings, choice: ModelChoice = _BUNDLED) -> Encoder:
    """Load a model; takes seconds and imports torch. A server is not asked anything yet.

    Raises:
        FatalError: It cannot be loaded; the message says what to do.
    """
    if choice.reference in {"", NAME} and not choice.dimensions:
        return _load_folder(settings, bundled_folder())
    if choice.reference.startswith(_SERVER):
        from indexer.embed.server import ServerEncoder

        return ServerEncoder(_server(settings, choice), choice, settings)
    if (path := _path(choice)) is not None:
        if path.suffix.lower() == _GGUF:
            _before_torch()
            from indexer.embed.gguf import load_gguf

            return load_gguf(path, choice, settings)
        return _load_folder(settings, opened(path, choice, settings))
    if (path := _downloaded(choice)) is not None:
        return _load_folder(settings, opened(path, choice, settings, name=choice.reference))
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
    if (path := _path(choice)) is not None:
        if path.suffix.lower() == _GGUF:
            from indexer.embed.gguf import gguf_info

            return gguf_info(path, choice, settings)
        return opened(path, choice, settings).info
    if (path := _downloaded(choice)) is not None:
        return opened(path, choice, settings, name=choice.reference).info
    raise _unknown(choice)


def bundled_info() -> EncoderInfo:
    """The bundled model; it is converted first where needed.

    Raises:
        FatalError: It is not there or cannot be prepared.
    """
    return bundled_folder().info


def _load_folder(settings: Settings, folder: ModelFolder) -> Encoder:
    from indexer.embed import openvino

    for last in (False, True):
        if (place := openvino.prepared(folder, settings)) is None:
            break
        try:
            return openvino.OpenVinoEncoder(
                folder, place, settings.encoder_threads, instructions=settings.instructions
            )
        except FatalError:
            if last:
                raise
            openvino.discard(place)  # a damaged one is made again
    _before_torch()
    from indexer.embed.transformer import TransformerEncoder

    with _LOADING:
        return TransformerEncoder(
            folder,
            settings.device,
            settings.encoder_threads,
            precision=settings.precision,
            instructions=settings.instructions,
        )


def _before_torch() -> None:
    # Torch's threads wait for one another in a busy loop, which starves everybody once another program
    # wants a core. Read when libgomp is loaded, so it has to be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _path(choice: ModelChoice) -> Path | None:
    """The folder or file that is meant, None where the reference is no full path."""
    path = Path(choice.reference)
    return path if path.is_absolute() else None


def _downloaded(choice: ModelChoice) -> Path | None:
    """The folder of a model of the Hub, None where it is not installed or the reference names none."""
    model = hub.installed(choice.reference) if hub.is_hub_reference(choice.reference) else None
    return None if model is None else model.path


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
    if hub.is_hub_reference(choice.reference):
        return FatalError(
            "The model is not installed", f"Download it: dragoman models install {choice.reference}"
        )
    return FatalError(
        "There is no such model here",
        f"{choice.reference} is not installed. `dragoman models list` names what is.",
    )
