"""The commands ``pgrunbook key``: the key that signs the operator's records, and those of the team."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pgrunbook.errors import WrongInput

app = typer.Typer(no_args_is_help=True, help="The key that signs your records, and the public keys of the team.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is: a mail address, or a login.")],
) -> None:
    """Make a key that signs your records, and add its public half to ``signers``."""
    from pgrunbook.seal import signers, signing_key

    made = signing_key.make(name)
    sys.stdout.write(f"key: {made.path}\n{made.public.fingerprint}\n{signers.path()} has a line for {name} now\n")


@app.command()
def show() -> None:
    """Show the key that would sign now, how it is reached, and whether ``signers`` names it."""
    from pgrunbook.seal import signers, signing_key

    key = signing_key.load()
    if key is None:
        sys.stdout.write(
            "no key: runs are sealed unsigned\nnext: pgrunbook key new NAME, or name one in PGRUNBOOK_KEY\n"
        )
        return
    signer = (signers.load() or {}).get(key.public.fingerprint)
    named = f"{signer.name}, as {signers.path()} says" if signer else f"not in {signers.path()}"
    sys.stdout.write(f"key: {key.path}, in {key.where}\n{key.public.fingerprint}\nwhose: {named}\n")
    if signer is None:
        sys.stdout.write(f'line for signers: NAME namespaces="{signers.NAMESPACE}" {key.public.text}\n')


@app.command("list")
def list_() -> None:
    """List the signers: whose key, and from when until when it is good."""
    from pgrunbook.display.show import Table
    from pgrunbook.seal import signers

    found = signers.load() or {}
    rows = [
        (one.name, fingerprint, *(f"{m:%Y-%m-%d %H:%M}Z" if m else "" for m in (one.valid_after, one.valid_before)))
        for fingerprint, one in found.items()
    ]
    empty = f"{signers.path()} names nobody."
    sys.stdout.write(f"{Table(['who', 'key', 'good from', 'bad from'], rows, empty=empty)!r}\n")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Their public key: id_ed25519.pub.")],
) -> None:
    """Add somebody's public key to ``signers``."""
    from pgrunbook.seal import signers, signing_key

    key = signing_key.public_of(file)
    signers.add(name, key)
    sys.stdout.write(f"{signers.path()} has a line for {name} now: {key.fingerprint}\n")


@app.command()
def revoke(
    fingerprint: Annotated[str, typer.Argument(metavar="KEY", help="The key, as list shows it: SHA256:...")],
    since: Annotated[str, typer.Option("--from", help="From when on: 2026-11-30 or 2026-11-30T12:00Z; now.")] = "",
) -> None:
    """Revoke a key from a moment on; what it signed before stays good."""
    from pgrunbook.seal import signers

    try:
        moment = datetime.fromisoformat(since) if since else datetime.now(UTC)
    except ValueError as exc:
        raise WrongInput(f'--from "{since}" is no moment', hint="Write it as 2026-11-30 or 2026-11-30T12:00Z.") from exc
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    whose = signers.revoke(fingerprint, moment)
    sys.stdout.write(f"revoked from {moment:%Y-%m-%d %H:%M}Z on: {whose.key.fingerprint} of {whose.name}\n")
