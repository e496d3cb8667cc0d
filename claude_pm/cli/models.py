"""``claude-pm models list|pull|path``."""

from __future__ import annotations

from typing import Annotated

import typer

from claude_pm.cli.output import print_json, print_table

app = typer.Typer(help="The model that answers, and its weights.", no_args_is_help=True)


@app.command("list")
def list_models(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the model in use (CLAUDE_PM_MODEL, CLAUDE_PM_BASE_URL) and the embedded one."""
    from claude_pm.model_names import EMBEDDED
    from claude_pm.models.connect import CLAUDE_URL
    from claude_pm.models.weights import FILE_NAME, SIZE_BYTES, default_weights_path
    from claude_pm.settings import read_settings

    settings = read_settings()
    path = default_weights_path(settings.model_dir)
    fetched = path.is_file()
    embedded_in_use = settings.model == EMBEDDED and settings.base_url is None
    rows = [
        {
            "model": EMBEDDED,
            "in use": "yes" if embedded_in_use else "",
            "where": str(path) if fetched else f"not fetched yet ({SIZE_BYTES / 1e6:.0f} MB)",
            "what": FILE_NAME,
        }
    ]
    if not embedded_in_use:
        is_file = settings.model.lower().endswith(".gguf")
        where = "this process" if is_file else settings.base_url or CLAUDE_URL
        name = "(the only one there)" if settings.model == EMBEDDED else settings.model
        rows.append({"model": name, "in use": "yes", "where": where, "what": "Messages API"})
    if as_json:
        print_json(rows)
        return
    print_table(["model", "in use", "where", "what"], rows)


@app.command("pull")
def pull() -> None:
    """Fetch the embedded model's weights, unless they are there and undamaged."""
    from claude_pm.models.weights import ensure_weights
    from claude_pm.settings import read_settings

    typer.echo(ensure_weights(read_settings().model_dir, verify=True))


@app.command("path")
def path() -> None:
    """Print where the embedded model's weights are, or will be."""
    from claude_pm.models.weights import default_weights_path
    from claude_pm.settings import read_settings

    typer.echo(default_weights_path(read_settings().model_dir))
