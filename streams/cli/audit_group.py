"""``headrace audit``: one request's story, by its id; or one of the commands that prove what happened."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from streams.cli.audit import audit
from streams.cli.audit_seal import app as seals
from streams.cli.audit_seal import seal, tombstone
from streams.cli.audit_verify import verify

_SHOW = "show"


class _ById(TyperGroup):
    """Takes what is no command for a request's id."""

    # Typed as click's context, which typer may bring along under another name.
    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        known = {*self.commands, *ctx.help_option_names}
        # With nothing given the group's help is shown.
        if args and args[0] not in known:
            args = [_SHOW, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ById,
    no_args_is_help=True,
    help="Everything about one request: `headrace audit REQUEST_ID`; or prove what happened.",
)
app.command(_SHOW)(audit)
app.command("verify")(verify)
app.command("seal")(seal)
app.command("tombstone")(tombstone)
app.add_typer(seals, name="seals")
