"""What a target's database says of the ledger: whether lines are gone or written anew, or the database went back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgrunbook.database.anchors import AnchorRow, ServerPlace
    from pgrunbook.seal.verification import SealedLine, Verification

RESTORED = "the database was restored to before this run"


@dataclass(frozen=True)
class Anchors:
    """The rows of pgrunbook.ledger in a target, where its server stands, and whether the table refuses changes."""

    rows: Sequence[AnchorRow]
    place: ServerPlace
    is_guarded: bool


@dataclass(frozen=True)
class _Expected:
    """A line that has to be anchored, as the seal of its attempt says; the end may not be, where nobody was asked."""

    line: SealedLine
    anchor: Mapping[str, Any]
    is_unasked: bool


def check(found: Verification, target: str, anchors: Anchors) -> dict[str, str]:
    """Compare the ledger with the anchors of a target, add the problems, and return how each of its runs is anchored.

    1. A row of this ledger has to be a line of the file: else lines were cut off, or written anew.
    2. A line that is said to be anchored has to have a row. Where it has none, and this is another server or another
       timeline than the one it was anchored on, and all that was anchored there later lacks its row as well, then the
       database was restored to before it. Else somebody has deleted the row.
    """
    if not found.lines:
        return {}
    name = str(found.lines[0].predicate["ledger"])
    rows = {row.seq: row for row in anchors.rows if row.ledger == name}
    _check_rows(found, rows)
    _tell_of_others(found, name, anchors)
    by_run = {row.run_id: row for row in rows.values()}
    standing = {run_id: f"in the database, by {row.session_user_name}" for run_id, row in by_run.items()}
    newest: dict[int, int] = {}  # the last line that was anchored on each timeline
    for row in rows.values():
        newest[row.timeline] = max(newest.get(row.timeline, 0), row.seq)
    for one in _expected(found, target):
        if one.line.seq in rows:
            continue
        if _is_restored(one, newest, anchors.place):
            if standing.get(one.line.run_id) != RESTORED:
                found.notes.append(f"the database was restored to before run {one.line.run_id}")
            standing[one.line.run_id] = RESTORED
        elif one.is_unasked:
            standing[one.line.run_id] = "the end is not anchored"
            found.notes.append(f"the end of run {one.line.run_id} is not anchored: the database was not reached then")
        else:
            says = f"line {one.line.seq} was anchored in {target}, and its row is not there"
            if not one.line.is_open:  # it is written behind the line: somebody may have been killed between them
                says += f"; where its runner or the server was killed then: pgrunbook seal {one.line.run_id}"
            found.note("anchor", "missing", says, one.line.run_id, one.line.seq)
    return standing


def _check_rows(found: Verification, rows: Mapping[int, AnchorRow]) -> None:
    by_seq = {line.seq: line for line in found.lines}
    for seq, row in rows.items():
        line = by_seq.get(seq)
        if line is None:
            says = f"the database holds line {seq}, and the ledger does not: lines of it are gone"
            found.note("anchor", "truncated", says, row.run_id, seq)
        elif line.sha256 != row.line_sha256 or line.run_id != row.run_id:
            says = f"the database holds another line {seq}: it was written anew, or the row was changed"
            found.note("anchor", "altered", says, line.run_id, seq)


def _tell_of_others(found: Verification, name: str, anchors: Anchors) -> None:
    others: dict[str, int] = {}
    for row in anchors.rows:
        if row.ledger != name:
            others[row.ledger] = others.get(row.ledger, 0) + 1
    found.notes += [f"the database holds {count} lines of another ledger, {other}" for other, count in others.items()]
    if not anchors.is_guarded:
        found.notes.append("the trigger that refuses changes of pgrunbook.ledger is gone, or switched off")


def _expected(found: Verification, target: str) -> Iterator[_Expected]:
    """Yield the lines that have to be anchored in a target: both of each attempt whose seal says so.

    An attempt that is open says nothing; where the database has a row of it, that is compared like every row.
    """
    by_seq = {line.seq: line for line in found.lines}
    for line in found.lines:
        anchor = line.predicate.get("anchor")
        if line.is_open or not isinstance(anchor, dict) or anchor.get("target") != target:
            continue
        opened = by_seq.get(_number(anchor.get("line")))
        if opened is not None:
            yield _Expected(opened, anchor, is_unasked=False)
        faithful = line.predicate.get("faithful")
        was_asked = isinstance(faithful, dict) and faithful.get("database_asked") is True
        yield _Expected(line, anchor, is_unasked=not was_asked)


def _number(value: object) -> int:
    """Return a number of a line, 0 where somebody has written something else."""
    return value if isinstance(value, int) else 0


def _is_restored(one: _Expected, newest: Mapping[int, int], place: ServerPlace) -> bool:
    """Tell whether the database went back to before a line, as its server's own identity and timeline prove."""
    system, timeline = str(one.anchor.get("system_identifier", "")), _number(one.anchor.get("timeline"))
    if system and place.system_identifier != system:
        return True
    later = max((seq for of, seq in newest.items() if of <= timeline), default=0)
    return place.timeline > timeline > 0 and later < one.line.seq
