"""The review of migration files: every statement with its locks and hazards, as text, JSON or SARIF."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pgrunbook import history
from pgrunbook.config.targets import Target
from pgrunbook.database import catalog_reader
from pgrunbook.database.catalog import UNKNOWN, Catalog
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display.prose import counted
from pgrunbook.effects.result import Effects
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.history import up_part, ways_back
from pgrunbook.history.files import as_text as text_of
from pgrunbook.history.files import migration_name
from pgrunbook.record import door
from pgrunbook.review import baseline, before_contract, hazards, server_parser, squawk
from pgrunbook.review.hazards import Hazard, Severity, Timeouts, Transactions, design
from pgrunbook.review.safe_mode import PARAMETER, Refusal, refusals, way_through
from pgrunbook.review.sarif import sarif
from pgrunbook.review.statement_scenes import Script, TransactionMark, script, stage
from pgrunbook.session import naming
from pgrunbook.sql.classify import Type
from pgrunbook.sql.places import Place
from pgrunbook.sql.statements import Statement

Form = Literal["text", "json", "sarif"]
FailOn = Literal["error", "warning", "never"]
File = tuple[str, str]

LONGEST_SHOWN = 160
SHOWN = 5
REFUSED = "refused-in-safe-migrations-mode"


@dataclass(frozen=True)
class Finding:
    """A statement with its effects and hazards; ``hazards`` is () for one that is safe here."""

    file: str
    place: Place
    statement: str
    type: Type
    effects: Effects
    hazards: tuple[Hazard, ...]

    def to_json(self) -> dict[str, object]:
        """Return the documented form: place, file, line, statement, type, locks and hazards."""
        return {
            "place": str(self.place),
            "file": self.file,
            "line": self.place.line,
            "statement": self.statement,
            "type": str(self.type),
            "locks": [{"object": lock.object, "mode": lock.mode} for lock in self.effects.locks],
            "hazards": [
                {"id": h.id, "severity": str(h.severity), "effect": h.effect, "way_out": h.way_out}
                for h in self.hazards
            ],
        }


def review(
    files: Sequence[File] | Script,
    catalog: Catalog | None = None,
    *,
    transactions: Transactions = Transactions.UNKNOWN,
    timeouts: Timeouts | None = None,
    design_rules: Collection[str] = (),
    with_squawk: bool = True,
) -> list[Finding]:
    """Return every statement of the files with its hazards, in order.

    Without a catalog the text alone is judged, and tables that the files do not create count as big and busy.
    ``timeouts`` are in force until a file sets its own.

    Raises WrongInput, with file and line, for SQL that does not parse.
    """
    read = files if isinstance(files, Script) else script(files)
    scenes = stage(read, catalog or UNKNOWN, transactions=transactions, timeouts=timeouts)
    beside = _from_squawk(read, catalog or UNKNOWN, transactions, design_rules) if with_squawk else {}
    found = [
        Finding(
            scene.statement.file,
            scene.statement.place,
            scene.statement.sql,
            scene.statement.type,
            scene.effects,
            (*own, *beside.get(scene.position, ())),
        )
        for scene, own in hazards.find(scenes, design_rules=design_rules)
    ]
    marks = list(_marked(read.marks))
    order = {name: number for number, (name, _) in enumerate(read.texts)}
    return sorted([*marks, *found], key=lambda finding: (order[finding.file], finding.place.line, finding.place.nth))


def with_refusals(
    findings: Iterable[Finding],
    found: Sequence[Refusal],
    target: str,
    waiting: Iterable[tuple[Statement, Hazard]] = (),
) -> list[Finding]:
    """Return the findings, with the refusals of safe-migrations mode as the first hazards of each.

    ``waiting`` are statements that prepare refuses, each with its hazard, because a column waits for contract.
    """
    more: dict[tuple[str, Place], list[Hazard]] = {}
    for statement, hazard in waiting:
        more.setdefault((statement.file, statement.place), []).append(hazard)
    for one in found:
        hazard = Hazard(
            REFUSED,
            Severity.ERROR,
            "The target is in safe-migrations mode, and the statement loses something that is in use.",
            f"{one.object}: {one.reason}.",
            f"-- keep the object, or accept its loss with parameter {PARAMETER}: {way_through([one.object], target)}",
            one.file,
            one.place.line,
        )
        more.setdefault((one.file, one.place), []).append(hazard)
    return [replace(f, hazards=(*more.get((f.file, f.place), ()), *f.hazards)) for f in findings]


def fails(findings: Iterable[Finding], fail_on: FailOn) -> bool:
    """Whether a hazard is as bad as ``fail_on``, or worse."""
    if fail_on == "never":
        return False
    return any(h.severity.rank >= Severity(fail_on).rank for finding in findings for h in finding.hazards)


def run(
    files: list[Path],
    *,
    target: str | None,
    fail_on: FailOn,
    form: Form,
    with_squawk: bool = True,
    since: Path | None = None,
) -> tuple[str, int]:
    """Review files for the command line; return what to print, without secrets, and the code to exit with.

    With a target its database is read, and the files are judged as our own runner runs them: each in a
    transaction, under the target's timeouts, by its rules of design, and in its safe-migrations mode. Migrations that
    are applied there are left out, and so are files that undo others of the list, and the findings of the baseline
    ``since``, which is written where there is none.

    Raises WrongInput when a file, the baseline or the target cannot be read, Unreachable when the database cannot.
    """
    notes = [squawk.missing()] if with_squawk else []
    left_out = ways_back(files)
    if left_out:
        files = [path for path in files if path not in left_out]
        names = _listed([path.name for path in left_out])
        notes.append(f"what undoes others is left out, and is reviewed where it is named alone: {names}")
    if target is None:
        findings = review(_script(files), with_squawk=with_squawk)
    else:
        findings, more = _on(naming.target(target), files, with_squawk=with_squawk)
        notes += more
    if since is not None:
        findings, note = _since(since, findings)
        notes.append(note)
    told = [door.masked(note) for note in notes if note]
    return _formed([_masked(finding) for finding in findings], form, told), int(fails(findings, fail_on))


def _masked(finding: Finding) -> Finding:
    """Return a finding as it is shown: each of its texts without secrets, code by the rules for code."""
    shown = (replace(h, effect=door.masked(h.effect), way_out=door.masked(h.way_out)) for h in finding.hazards)
    return replace(finding, statement=door.masked(finding.statement), hazards=tuple(shown))


def _script(files: Sequence[Path]) -> Script:
    return script([(str(path), _text(path)) for path in files], {str(path): migration_name(path) for path in files})


def _on(target: Target, files: Sequence[Path], *, with_squawk: bool) -> tuple[list[Finding], list[str]]:
    rules = design.design_rules(target)
    with connect(target, purpose="review") as conn:
        applied, note = _applied(conn, target)
        there = [path for path in files if path.resolve() in applied]
        read = _script([path for path in files if path not in there])
        server_parser.refuse_unknown(conn, read.statements)
        catalog = catalog_reader.read(conn, read.statements)
        waiting, untold = before_contract.find(conn, read.statements, target.name)
    timeouts = Timeouts(target.lock_timeout_ms, target.statement_timeout_ms)
    findings = review(
        read, catalog, transactions=Transactions.FILE, timeouts=timeouts, design_rules=rules, with_squawk=with_squawk
    )
    found = refusals(read.statements, catalog, ()) if target.safe_migrations else []
    if there:
        are = "is" if len(there) == 1 else "are"
        names = _listed([migration_name(path) for path in there])
        note = f"{counted(len(there), 'file')} {are} applied on {target.name} already and left out: {names}"
    return with_refusals(findings, found, target.name, waiting), [note, untold]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _applied(conn: Connection, target: Target) -> tuple[set[Path], str]:
    """Return the files of the target's folder that are applied there, and a note where that cannot be told."""
    if target.migrations is None:
        return set(), ""
    try:
        entries = history.read(conn, target).entries
    except (WrongInput, Refused) as exc:
        return set(), f"which files are applied on {target.name} cannot be told: {exc.message}"
    return {e.migration.path.resolve() for e in entries if e.migration is not None and e.applied is not None}, ""


def _since(file: Path, findings: Sequence[Finding]) -> tuple[list[Finding], str]:
    """Return the findings without those of the baseline, which is written where there is none; and a note on it."""
    known = baseline.read(file)
    note = f"findings of baseline {file} are left out"
    if known is None:
        found = [
            (f.statement, f.place, h) for f in findings for h in f.hazards if h.id not in (REFUSED, before_contract.ID)
        ]
        note = f"baseline {file} is written, with {counted(baseline.write(file, found), 'finding')}"
        known = baseline.read(file) or frozenset()
    is_new = baseline.is_new(known)
    kept = [replace(f, hazards=tuple(h for h in f.hazards if is_new(f.statement, f.place, h))) for f in findings]
    return kept, note


def _formed(findings: Sequence[Finding], form: Form, notes: Sequence[str]) -> str:
    if form == "json":
        return json.dumps([finding.to_json() for finding in findings], indent=2, ensure_ascii=False)
    if form == "sarif":
        found = [(finding.statement, finding.place, hazard) for finding in findings for hazard in finding.hazards]
        return json.dumps(sarif(found, notes), indent=2, ensure_ascii=False)
    return as_text(findings, notes)


def as_text(findings: Sequence[Finding], notes: Sequence[str] = ()) -> str:
    """Return a block for each statement with a hazard, a line for each rule, and a last line that counts them."""
    blocks = ["\n".join(_block(finding)) for finding in findings if finding.hazards]
    counts = [sum(h.severity is s for f in findings for h in f.hazards) for s in Severity]
    total = ", ".join(counted(n, s) for n, s in zip(counts, Severity, strict=True) if n)
    number = counted(len(findings), "statement")
    rules = ["\n".join(_by_rule(findings))] if len(blocks) > 1 else []
    end = [f"{number}: {total or 'no hazards'}", *(f"Note: {note}" for note in notes)]
    return "\n\n".join([*blocks, *rules, *end])


def _by_rule(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each rule that found something, the worst and most frequent first."""
    found: dict[str, list[Hazard]] = {}
    for hazard in (hazard for finding in findings for hazard in finding.hazards):
        found.setdefault(hazard.id, []).append(hazard)
    worst = {name: max((h.severity for h in each), key=lambda s: s.rank) for name, each in found.items()}
    order = sorted(found, key=lambda name: (-worst[name].rank, -len(found[name]), name))
    return [f"{worst[name]}: {name}: {len(found[name])} x: {found[name][0].condition}" for name in order]


def _block(finding: Finding) -> list[str]:
    statement = " ".join(finding.statement.split())
    shown = statement if len(statement) <= LONGEST_SHOWN else statement[: LONGEST_SHOWN - 3] + "..."
    lines = [f"{finding.place}: {shown}"]
    if finding.file != finding.place.migration:
        lines.append(f"  at {finding.file}:{finding.place.line}")
    locks = ", ".join(f"{lock.object} {lock.mode}" for lock in finding.effects.locks)
    lines += [f"  locks: {locks}"] if locks else []
    for hazard in finding.hazards:
        lines.append(f"  {hazard.severity}: {hazard.id}: {hazard.condition}")
        lines.append(f"    {hazard.effect}")
        lines += [f"      {line}" for line in hazard.way_out.splitlines()]
    return lines


def _marked(marks: Sequence[TransactionMark]) -> Iterator[Finding]:
    """Yield what opens and ends transactions: an error where prepare refuses it, else one note on all of them."""
    left_out = list(dict.fromkeys(mark.file for mark in marks if mark.refusal is None))
    more = f", also in {counted(len(left_out) - 1, 'more file')}" if len(left_out) > 1 else ""
    told = False
    for mark in marks:
        severity, effect = Severity.NOTE, f"prepare leaves it out{more}: a migration is one transaction anyway."
        way_out = "-- it may stay where other tools need it"
        if mark.refusal is not None:
            severity, effect = Severity.ERROR, f"prepare refuses it: {mark.refusal.message}. {mark.refusal.detail}"
            way_out = "-- take it out; what has to be committed before goes into a migration of its own"
        hazard = Hazard("transaction-in-file", severity, "A file opens or ends a transaction itself.", effect, way_out,
                        mark.file, mark.place.line)  # fmt: skip
        hazards_ = () if told and mark.refusal is None else (hazard,)
        told = told or mark.refusal is None
        yield Finding(mark.file, mark.place, mark.sql, Type.COMPATIBLE, Effects(), hazards_)


def _from_squawk(
    read: Script, catalog: Catalog, transactions: Transactions, design_rules: Collection[str]
) -> dict[int, list[Hazard]]:
    """Return squawk's hazards by the position of their statement."""
    together = transactions in (Transactions.FILE, Transactions.ALL)
    found: dict[int, list[Hazard]] = {}
    of_file: dict[str, list[int]] = {}
    for number, statement in enumerate(read.statements):
        of_file.setdefault(statement.file, []).append(number)
    texts = dict(read.texts)
    for finding in squawk.findings(read.texts, major=catalog.major, in_transaction=together, design_rules=design_rules):
        hazard = finding.hazard
        mine = [(number, read.placed[number].statement) for number in of_file.get(hazard.file, ())]
        if mine and mine[0][1].line <= hazard.line:
            found.setdefault(_at(texts[hazard.file], mine, finding), []).append(hazard)
    return {number: list(dict.fromkeys(hazards)) for number, hazards in found.items()}


def _at(text: str, statements: Sequence[tuple[int, Statement]], finding: squawk.SquawkFinding) -> int:
    """Return the last statement of a file that begins before the finding, also among several on one line."""
    lines = text.splitlines(keepends=True)
    place = sum(map(len, lines[: finding.hazard.line - 1])) + finding.column
    start, chosen = 0, statements[0][0]
    for number, statement in statements:
        start = text.find(statement.sql, start)
        if start >= place:
            break
        chosen = number
        start += len(statement.sql)
    return chosen


def _text(path: Path) -> str:
    """Return a file's SQL for applying it; a file with marks also holds the way back."""
    try:
        return up_part(path, text_of(path, path.read_bytes()))
    except OSError as exc:
        hint = f"Name the files in it, in their order: {path}/*.sql" if path.is_dir() else ""
        raise WrongInput(f"could not read {path}", detail=str(exc), hint=hint) from exc
