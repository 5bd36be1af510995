"""The commands ``pgrunbook verify``, whether records are as they were sealed, and ``pgrunbook seal``, to seal late."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgrunbook.app import terminal
from pgrunbook.errors import Refused, RunbookError

if TYPE_CHECKING:
    from pgrunbook.seal.anchor_check import Anchors
    from pgrunbook.seal.standing import VerificationReport


def verify(
    place: Annotated[
        str,
        typer.Argument(metavar="[PLACE]", help="A folder of runs, an archive, or a URL; without one, the project's."),
    ] = "",
    target: Annotated[str, typer.Option(help="Compare with the anchors in this target's database as well.")] = "",
    files: Annotated[bool, typer.Option("--files", help="Compare every file with its seal.")] = False,
    git: Annotated[bool, typer.Option("--git", help="Compare with the trailers of the project's commits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell whether the records of all runs are as they were sealed; it needs no private key, and no network.

    Exit codes: 0 true, 1 it could not be checked, 2 wrong use, 3 altered.
    """
    from pgrunbook.seal import standing

    try:
        found = _report(place, target, files=files, git=git)
    except RunbookError as exc:
        sys.stderr.write("\n".join(exc.shown()) + "\n")
        sys.exit(standing.NOT_CHECKED)
    _write(found, as_json=as_json)
    sys.exit(found.exit_code)


def seal(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")],
    redact: Annotated[bool, typer.Option("--redact", help="Mask the secrets in its files first.")] = False,
    trailer: Annotated[
        bool,
        typer.Option("--trailer", help="Print the trailer for a commit that anchors the sealed run; seal nothing."),
    ] = False,
) -> None:
    """Seal a run that has ended and could not be sealed then: it was killed, the disk was full, a file held a secret.

    Where it is sealed and its target does not hold that yet, the row is written there.

    Exit codes: 0 sealed, 1 failed, 2 wrong use, 3 refused because a file holds a secret, 4 somebody is at work.
    """
    from functools import partial

    from pgrunbook.record import executed_copy
    from pgrunbook.record import run as records
    from pgrunbook.seal import anchor, attempt, git_trailer
    from pgrunbook.session import naming

    made = records.find(run_id)
    if trailer:
        sys.stdout.write(git_trailer.text(made))
        return
    made.hold()
    if not attempt.is_open(made):
        if late := anchor.close_late(made, partial(naming.target, made.target)):
            sys.stdout.write(f"anchored: {made.run_id}, line {', '.join(map(str, late))}, in {made.target}\n")
            return
        raise Refused(
            f"run {made.run_id} has no open attempt to seal",
            detail="It is sealed, or was made before records were sealed.",
            hint="See how it stands: pgrunbook verify.",
        )
    executed_copy.refresh(made)
    places = attempt.redact(made) if redact else []
    for place in places:
        sys.stdout.write(f"masked: {place}\n")
    line = anchor.seal(made, partial(naming.target, made.target))
    by = line.predicate["signer"]
    sys.stdout.write(f"sealed: {made.run_id}, line {line.seq}, {by['fingerprint'] if by else 'unsigned'}\n")


def _report(place: str, target: str, *, files: bool, git: bool) -> VerificationReport:
    from pgrunbook.config import paths
    from pgrunbook.errors import WrongInput
    from pgrunbook.seal import archive_check, remote_archive, standing

    here = Path(place) if place else paths.outputs_dir()
    if "://" not in place and not here.is_file():
        anchors = _anchors(target) if target else None
        return standing.report(here.resolve(), files=files, target=target, anchors=anchors, git=git)
    if target or git:
        raise WrongInput(
            "--target and --git are for a folder of runs", hint="Unpack the archive, or verify the runs' own folder."
        )
    if "://" in place:
        return remote_archive.report(place, files=files)
    return archive_check.report(here, named=place)


def _anchors(target: str) -> Anchors:
    from pgrunbook.database import anchors
    from pgrunbook.database.connection import connect
    from pgrunbook.seal.anchor_check import Anchors

    chosen = terminal.chosen(target, "verify")
    with terminal.looking(chosen), connect(chosen, purpose="verifies records") as conn:
        rows = anchors.rows(conn)
        return Anchors(rows, anchors.place(conn), anchors.is_guarded(conn))


def _write(found: VerificationReport, *, as_json: bool) -> None:
    from pgrunbook.display.prose import counted
    from pgrunbook.display.show import visible

    if as_json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
        return
    sys.stdout.write(f"{found.table()!r}\n\n")
    for one in found.problems:
        where = f" ({one.run})" if one.run and one.run not in one.says else ""
        sys.stdout.write(f"{one.word.upper()}: {visible(one.says)}{where}\n")
    for note in found.notes:
        sys.stdout.write(f"Note: {visible(note)}\n")
    said = {0: "true", 1: "not checked", 3: "NOT TRUE"}[found.exit_code]
    sys.stdout.write(f"{said}: {counted(len(found.runs), 'run')}, {counted(found.lines, 'line')} of the ledger\n")
