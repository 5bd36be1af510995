"""The command ``pgrunbook archive``: sealed runs in one file that can be verified anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgrunbook.errors import Refused, WrongInput

if TYPE_CHECKING:
    from pgrunbook.record.run import Run
    from pgrunbook.seal.archive import Archive

FOLDER = "archives"  # in the folder of the runs


def archive(
    run_id: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs by id, or its end; without any, all sealed ones."),
    ] = None,
    before: Annotated[str, typer.Option(metavar="DAY", help="Only runs that ended before that day: 2026-01-01.")] = "",
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to: a new file, or a URL (s3://, file://).")] = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the folders, when the archive was read back and verified.")
    ] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="Make the copies that PGRUNBOOK_COPIES asks for and that are not there.")
    ] = False,
) -> None:
    """Pack sealed runs into one file, which pgrunbook verify FILE verifies without anything else.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused: a run that was named is open, or not as it was sealed.
    """
    from pgrunbook.config import paths
    from pgrunbook.seal import archive as archives
    from pgrunbook.seal import archived

    if copies:
        if run_id or before or out or remove:
            raise WrongInput("--copies goes alone", hint="pgrunbook archive --copies")
        _catch_up()
        return
    _refuse_no_day(before)
    outputs = paths.outputs_dir()
    archived.clear(outputs)
    with archives.chosen(run_id or [], before) as (fit, refused):
        _tell_refused(refused, is_named=bool(run_id))
        if not fit:
            sys.stdout.write("no run to archive\n")
            return
        made = _written(fit, out, outputs)
        count = f"{len(fit)} run{'s' if len(fit) != 1 else ''}"
        sys.stdout.write(f"archived: {count} in {made.place}, sha256 {made.sha256}, {made.signer}\n")
        if remove:
            archives.remove(fit, made, outputs)
            sys.stdout.write(f"removed: the folders of {count}\n")


def _written(fit: Sequence[Run], out: str, outputs: Path) -> Archive:
    """Write the archive to a file or a URL; in the ledger its name is one that holds where ``outputs`` is copied to."""
    from dataclasses import replace

    from pgrunbook.seal import archive as archives
    from pgrunbook.seal import remote_archive

    if "://" in out:
        return remote_archive.write(fit, out)
    file = Path(out).absolute() if out else outputs / FOLDER / archives.name_of(fit)
    if file.is_dir():
        file /= archives.name_of(fit)
    made = archives.write(fit, file)
    inside = file.resolve().is_relative_to(outputs)
    return replace(made, place=file.resolve().relative_to(outputs).as_posix()) if inside else made


def _tell_refused(refused: dict[str, str], *, is_named: bool) -> None:
    """Refuse where somebody has named such a run; else tell that it stays out."""
    if is_named and refused:
        first, why = next(iter(refused.items()))
        more = f" {len(refused) - 1} more of those named cannot be archived either." if len(refused) > 1 else ""
        raise Refused(
            f"run {first} cannot be archived",
            detail=f"{why[0].upper()}{why[1:].rstrip('.')}.{more}",
            state="No run was archived, and none removed; nothing changed in the database.",
            hint="See how they stand: pgrunbook verify --files; or leave these out.",
        )
    for name, why in refused.items():
        sys.stderr.write(f"left out: {name}: {why}\n")


def _catch_up() -> None:
    from pgrunbook.seal import copies

    done, failed = copies.catch_up()
    for name in done:
        sys.stdout.write(f"copied: {name}\n")
    for name, why in failed.items():
        sys.stderr.write(f"not copied: {name}: {why}\n")
    sys.stdout.write(f"{copies.url()} has {'every sealed run' if not failed else 'not every sealed run'}\n")
    if failed:
        sys.exit(1)


def _refuse_no_day(before: str) -> None:
    from datetime import date

    if before:
        try:
            date.fromisoformat(before)
        except ValueError as exc:
            raise WrongInput(f'"{before}" is no day', hint="Write it as 2026-11-30.") from exc
