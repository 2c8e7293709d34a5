"""`dragoman models server` and `dragoman chroma`: servers of the person, written into the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from indexer.cli_models import DataDir, asking, models_app
from indexer.settings import ChromaServer, EmbeddingServer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
AskKey = Annotated[
    bool, typer.Option("--key", help="Ask for a key (or token); it is not shown, nor left in the history.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow plain http to another computer: others may read along.")
]


@models_app.command("server")
def add_server(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="How you call it; the model is then server:NAME.")],
    url: Annotated[str, typer.Argument(help="Such as http://127.0.0.1:30000/v1")],
    data_dir: DataDir = None,
    model: Annotated[str, typer.Option(help="Which of its models; else the first that it lists.")] = "",
    key: AskKey = False,
    dimensions: Annotated[int, typer.Option(min=0, help="Ask the server for vectors of this length.")] = 0,
    query_prefix: Annotated[
        str, typer.Option(help="Put in front of queries; {task} stands for the instruction.")
    ] = "",
    passage_prefix: Annotated[str, typer.Option(help="Put in front of passages.")] = "",
    max_tokens: Annotated[int, typer.Option(min=32, help="Longest input that it takes.")] = 8192,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Most inputs a request.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests at once.")] = 4,
    insecure: Insecure = False,
) -> None:
    """Add (or change) an embedding server that speaks OpenAI's protocol, and ask it for a first vector.

    Then: `dragoman models use server:NAME`; `dragoman models remove server:NAME` takes it out again.
    """
    from indexer import cli

    if not _NAME.fullmatch(name):
        raise typer.BadParameter("A name has letters, digits, dots and hyphens only.")
    server = EmbeddingServer(
        name=name,
        url=_checked(url),
        model=model,
        key=typer.prompt("Key", hide_input=True) if key else "",
        insecure=insecure,
        dimensions=dimensions,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        max_tokens=max_tokens,
        batch=batch,
        concurrency=concurrency,
    )
    reference = f"server:{name}"
    with cli._client(context, data_dir) as client:
        asking(reference)
        plan = client.plan_model(reference, server=server)  # stored only when it answers
        before = client.settings()
        others = tuple(other for other in before.servers if other.name != name)
        client.put_settings(msgspec.structs.replace(before, servers=(*others, server)))
    typer.echo(f"{reference} answers. Its index of {plan.texts} texts: dragoman models use {reference}")
    if plan.anew:
        typer.echo(
            f"Its vectors are no longer those of the index that this library has of {reference}: that cannot "
            "be searched or added to until the server is chosen again with that command.",
            err=True,
        )


def chroma(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Argument(help="Such as http://127.0.0.1:8000, or `own`; none: say what is set."),
    ] = None,
    data_dir: DataDir = None,
    token: AskKey = False,
    token_header: Annotated[str, typer.Option(help="Authorization or X-Chroma-Token.")] = "Authorization",
    tenant: Annotated[str, typer.Option(help="Whose data it is.")] = "default_tenant",
    database: Annotated[str, typer.Option(help="Which of the tenant's libraries.")] = "default_database",
    certificate: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Trust this certificate.")
    ] = None,
    insecure: Insecure = False,
) -> None:
    """Keep the vectors that are searched on a Chroma server; `own` for the one that comes with Dragoman.

    Everything is also kept in the library itself: while the server is away, searching goes on.
    """
    from indexer import cli

    with cli._client(context, data_dir) as client:
        before = client.settings()
        if url is not None:
            chosen = ChromaServer()
            if url != "own":
                chosen = ChromaServer(
                    url=_checked(url),
                    token=typer.prompt("Token", hide_input=True) if token else "",
                    token_header=token_header,
                    tenant=tenant,
                    database=database,
                    certificate="" if certificate is None else str(certificate.absolute()),
                    insecure=insecure,
                )
            client.put_settings(msgspec.structs.replace(before, chroma=chosen))
        chosen = client.settings().chroma
        status = client.status()
    where = f"{chosen.url} (tenant {chosen.tenant}, database {chosen.database})" if chosen.url else "our own"
    serving = "it serves" if status.index == "chroma" else "being filled or away; exact search serves"
    typer.echo(f"Chroma: {where}; {serving}.")
    for notice in status.notices:
        typer.echo(f"{notice.title}. {notice.message}")


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise typer.BadParameter(f"{url} is not an address such as http://127.0.0.1:8000.")
    return url
