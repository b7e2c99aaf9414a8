"""The demo command."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.session import read_settings


def demo(
    once: Annotated[bool, typer.Option("--once", help="End by itself instead of leaving the server running.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="A labelled file (.jsonl or .jsonl.gz) instead of the sample.")
    ] = None,
    label: Annotated[str, typer.Option(help="The field of --data that names the route.")] = "domain",
    nights: Annotated[int | None, typer.Option(min=1, max=100, help="How many nights.")] = None,
    per_night: Annotated[int | None, typer.Option(min=50, max=100_000, help="Requests before each night.")] = None,
    rated: Annotated[float, typer.Option(min=0, max=1, help="Share of the requests that get a vote.")] = 0.2,
    flipped: Annotated[float, typer.Option(min=0, max=1, help="Share of the votes that say the opposite.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the simulated users.")] = 0,
) -> None:
    """Watch the whole loop: a server, users who ask and vote, nights that learn, a rollback.

    Example: trimtab demo --once
    """
    from api.demo.run import DemoOptions, run_demo

    options = DemoOptions(
        once=once, data=data, label=label, nights=nights, per_night=per_night, rated=rated, flipped=flipped, seed=seed
    )
    raise typer.Exit(run_demo(read_settings(), options))
