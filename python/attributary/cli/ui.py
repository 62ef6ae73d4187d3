"""`attributary ui`: a server for one person at this machine, and its page."""

from __future__ import annotations

import click

from .serve import serve_command


@click.command("ui", context_settings={"ignore_unknown_options": True})
@click.argument("bundles", nargs=-1, required=True)
@click.option(
    "--http-port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="of the page"
)
@click.pass_context
def ui_command(ctx: click.Context, bundles: tuple[str, ...], http_port: int) -> None:
    """Serve BUNDLES with a page to look at: drop a picture on it, see its sources. Ctrl-C ends it.

    Takes what `attributary serve` takes; gRPC listens on a free port, and there is no page for Prometheus. Needs
    attributary[ui].
    """
    click.echo(
        f"the page will be at http://127.0.0.1:{http_port} once the bundle has been verified", err=True
    )
    own = [
        "--ui",
        "--http-port",
        str(http_port),
        "--port",
        "0",
        "--metrics-port",
        "-1",
        "--log-format",
        "console",
    ]
    with serve_command.make_context("serve", [*own, *bundles], parent=ctx.parent) as inner:
        serve_command.invoke(inner)
