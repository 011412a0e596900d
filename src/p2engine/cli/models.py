"""`models`: every provider, whether its key is there, where it is asked, and the line that enables it."""

from typing import TYPE_CHECKING

import typer

from p2engine.cli.session import output_of, settings_of

if TYPE_CHECKING:
    from p2engine.models.catalogue import ProviderRow


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("models")(models)


def models(ctx: typer.Context) -> None:
    """List the providers of models: key present, address, and one line to enable each."""
    from p2engine.wiring import models_of

    output = output_of(ctx)
    found = models_of(settings_of(ctx)).describe()
    documents = [
        {name: getattr(row, name) for name in row.__struct_fields__} | {"enable": row.enable or None} for row in found
    ]
    output.table(
        "", ("provider", "driver", "key", "address", "answered by", "to enable"), map(_cells, found), documents
    )


def _cells(row: "ProviderRow") -> tuple[str | None, ...]:
    by = "the offline stand-in" if row.offline else "its models"
    if row.provider == row.driver == "offline":
        return row.provider, "built in", None, None, by, ""
    return row.provider, row.driver, "yes" if row.key else "no", row.base or "the vendor's own", by, row.enable
