"""Validate: compare the database with what the rehearsal promised. The steps of notebooks/validate.ipynb, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import StrictBool, StrictFloat, StrictInt

from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.config import regular_file
from pgrunbook.database import health
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, GOOD, PLAIN, QUIET, WARN, Banner, Card, Cell, Picture, Table, figure
from pgrunbook.errors import Broken, WrongInput
from pgrunbook.history.state import leave_out
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import Plan
from pgrunbook.plan.way_back import Frozen
from pgrunbook.procedures import undo_data_views
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.rehearse import drift, schema_only
from pgrunbook.rehearse.trial import Trial
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Validate
from pgrunbook.session.session import Session
from pgrunbook.sql import secrets
from pgrunbook.sql.classify import Type

# Below this a ratio says nothing: a query that took 2 ms before and takes 5 ms now is not slow.
SLOW_FROM_MS = 50.0


class Measurements(Frozen):
    """What prepare counted and timed: the rows of each table, and whether they were counted; each query's time."""

    rows: dict[str, tuple[StrictInt, StrictBool]]
    queries_ms: dict[str, StrictInt | StrictFloat | None]


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    here = heres.begin("validate", Validate, given)
    here.facts["problems"] = []
    return here


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target, and the run that it is compared with. Raises Unreachable."""
    promise = _promising_run(here)
    here.facts["promise"] = promise
    card = here.meet_the_target()
    run = promise.run_id if promise else Cell("no run on this target made a plan", WARN)
    return Card(card.title, [*card.facts, ("compared with", run)], card.tone)


@heres.step
def schema_as_promised(here: Session) -> Table:
    """Compare the schema with the one that the rehearsal ended in; show differences by object."""
    promise = here.facts["promise"]
    history = histories.read(here.conn, here.target)
    here.facts.update(history_table=history.qualified_table, applied=[entry.name for entry in history.applied()])
    now = snapshot(here.conn, leave_out=leave_out(history))
    here.run.keep_masked(drift.VALIDATED, now.to_json())
    here.journal("schema-validated", fingerprint=now.fingerprint, version=history.version())
    path = _promised(here, "schema-promised.json")
    headings = ["object", "name", "change", "promised", "found"]
    if path is None:
        here.journal("schema-not-compared", fingerprint=now.fingerprint)
        return Table(
            headings,
            [],
            empty="Not compared: there was no rehearsal, and so no promised schema.",
        )
    promised = Snapshot.from_json(regular_file.read(path))
    unlike: list[tuple[str, str]] = next((e["unlike"] for e in _events(promise, "proven-equal")), [])
    found = schema_only.unexpected(promised, now, unlike)
    left = [m.name for m in history.pending()]
    planned = _plan(promise)
    unknown = [key for change in planned.changes for key in change.schema_unknown_by()] if planned else []
    tone = WARN if unknown else BAD
    rows: list[tuple[object, ...]] = [
        (d.kind, d.name, Cell(d.change, tone), d.before[:300], d.after[:300]) for d in found
    ]
    here.journal("schema-compared", differences=len(found), fingerprint=now.fingerprint, promised=promised.fingerprint)
    if found and not unknown:
        here.facts["problems"].append(f"the schema differs from the promised one in {counted(len(found), 'object')}")
    still = [c.migration for c in planned.changes if c.migration in left] if planned else []
    if still:
        here.facts["problems"].append(f"still pending: {', '.join(still)}")
    title = f"found {now.fingerprint[:16]}, promised {promised.fingerprint[:16]}"
    if unknown:
        title += f"; what {', '.join(unknown)} changed was not promised: it reaches outside, and was not rehearsed"
    return here.keep_table(
        "schema-differences",
        Table(headings, rows, title=title, empty=f"Equal: {counted(len(now.objects), 'object')} as promised."),
    )


@heres.step
def nothing_left_behind(here: Session) -> Table:
    """Show invalid indexes, constraints not validated, sequences behind their column, and what was not reapplied.

    What was there before is no problem, nor what the migrations leave so on purpose.
    """
    found = health.leftovers(here.conn)
    before, meant = _known_before(here), _left_on_purpose(here)
    rows: list[tuple[object, ...]] = []
    for left in found:
        why = "was there before" if left.name in before else ""
        if (left.kind, left.name, left.where) in meant:
            why = f"the migration leaves it so; {left.advice}"
        rows.append((Cell(left.kind, WARN if why else BAD), left.name, left.where, why or left.advice))
        if not why:
            here.facts["problems"].append(f"{left.kind}: {left.name}")
    captured = undo_data.still_captured(here.conn, here.facts["applied"])
    rows += [undo_data_views.not_reapplied(kept, holds) for kept, holds in captured]
    here.journal("leftovers", found=[f"{left.kind}: {left.name}" for left in found],
                 captured={kept.kept_as: holds for kept, holds in captured})  # fmt: skip
    return Table(
        ["what", "name", "of", "what to do"],
        rows,
        empty="Nothing: indexes valid, constraints validated, sequences ahead.",
    )


@heres.step
def data_as_promised(here: Session) -> Table:
    """Compare the number of rows per table with those that prepare counted."""
    before = _measured(here).rows
    plan = _plan(here.facts["promise"]) if here.facts["promise"] else None
    touched = {
        o.rpartition(".")[2] for _, s in (plan.steps() if plan else []) if s.type is Type.DATA for o in s.objects
    } | _written_on_the_branch(here)
    rows = []
    for table, (now, exact) in health.row_counts(here.conn, leave_out=here.facts["history_table"]).items():
        then = before[table][0] if table in before else None
        change = None if then is None else now - then
        meant = table.rpartition(".")[2].strip('"') in touched
        rows.append((table, _number(then), _number(now) + ("" if exact else " (estimate)"), _changed(change, meant)))
    gone = [table for table in before if table not in {row[0] for row in rows}]
    rows += [(table, _number(before[table][0]), "-", Cell("gone", WARN)) for table in gone]
    return here.keep_table("data-as-promised", Table(["table", "rows before", "rows now", "change"], rows))


@heres.step
def as_estimated(here: Session) -> Table:
    """Show for each step the time and the rows expected, the basis of the estimate, and what it took and changed."""
    promise = here.facts["promise"]
    plan = _plan(promise) if promise else None
    took = {(e["migration"], e["step"]): e for e in _events(promise, "step-ran")} if promise else {}
    trial = _trial(here)
    rehearsed = {(s.migration, s.statement): s.safe.rows for s in trial.statements if s.safe} if trial else {}
    rows = []
    for change, step in plan.steps() if plan else []:
        ran = took.get((change.migration, step.number))
        expected = step.estimate
        if ran is None:
            continue
        rows.append(
            (
                change.migration,
                step.number,
                Cell(step.kind, under=secrets.beginning(step.sql)),
                f"{expected.duration_ms:,.0f}" if expected else "-",
                f"{ran['ms']:,.0f}",
                f"{ran['waited_ms']:,.0f}",
                f"{expected.lock_ms:,.0f}" if expected else "-",
                *_rows_of(ran["rows"], rehearsed.get((change.migration, step.statement))),
                expected.basis if expected else "not rehearsed with rows",
            )
        )
    headings = ["migration", "step", "statement", "ms expected", "ms", "ms waited", "ms locked, expected",
                "rows rehearsed", "rows", "basis"]  # fmt: skip
    return here.keep_table("as-estimated", Table(headings, rows, empty="No step ran in the run that is validated."))


@heres.step
def queries_as_fast(here: Session) -> Card | Picture:
    """Time the critical queries again; return a picture of before and after, or a sentence without them."""
    before = _measured(here).queries_ms
    timings = {n: health.time_query(here.conn, q) for n, q in here.target.critical_queries.items()}
    for name, timing in timings.items():
        was = before.get(name)
        if timing.error and was is not None:
            here.facts["problems"].append(f'query "{name}" fails: {timing.error}')
        elif was and timing.median_ms and timing.median_ms > max(SLOW_FROM_MS, was * here.parameters.max_slowdown):
            here.facts["problems"].append(f'query "{name}" takes {timing.median_ms:.0f} ms, before {was:.0f} ms')
    here.journal("queries-timed", ms={n: t.median_ms for n, t in timings.items()}, before=before)
    if not timings:
        return Card("Critical queries", [("timed", "none: the target names no critical_queries")])
    here.facts["queries"] = {n: (before.get(n), t.median_ms) for n, t in timings.items()}
    return _bars(here.facts["queries"], here.parameters.max_slowdown)


@heres.step
def checklist(here: Session) -> Table:
    """Show the guide's seven boxes, each with the evidence that this run has for it, where it has any."""
    promise = here.facts["promise"]
    plan = _plan(promise) if promise else None
    names = {e["event"] for e in _events(promise)} if promise else set()
    proven: list[str] = next((e["proven"] for e in _events(promise, "ways-back")), []) if promise else []
    one_way = [c.migration for c in plan.changes if c.migration not in proven] if plan else []
    back = f"there and back: {', '.join(proven)}" + (f"; no way back: {', '.join(one_way)}" if one_way else "")
    rehearsed = plan.rehearsed if plan and "proven-equal" in names else ""
    written = [s.type for change in plan.changes for s in change.statements] if plan else []
    counts = {t: written.count(t) for t in Type}
    impact = ", ".join(f"{n} {t}" for t, n in counts.items() if n)
    evidence = [
        ("schema changes reviewed by team", ""),
        ("migration tested in development branch", rehearsed),
        ("rollback script prepared and tested", back if proven else ""),
        (
            "performance impact assessed",
            "critical queries timed before and after" if here.facts.get("queries") else "",
        ),
        ("monitoring alerts configured", ""),
        ("documentation updated", ""),
        ("customer impact evaluated", f"statements: {impact}" if impact else ""),
    ]
    rows = [(box, Cell("evidence", GOOD) if proof else Cell("none", QUIET), proof) for box, proof in evidence]
    return here.keep_table("checklist", Table(["box", "", "what proves it"], rows))


@heres.step
def verdict(here: Session) -> Banner:
    """Say whether all is as promised. Raises Broken, with every problem, when it is not."""
    problems = here.facts["problems"]
    if problems:
        raise Broken(
            f"the database is not as promised: {problems[0]}",
            detail="; ".join(problems),
            state="Validate changed nothing; what is applied stays applied.",
            hint=f"Correct what is named{_then(here)}",
        )
    promised = _promised(here, "schema-promised.json")
    state = "The database is as promised." if promised else "No problem was found; but there was no promise to check."
    return here.verdict(state, undo_data_views.triggers(here.conn), then="nothing: the release is done")


def _promising_run(here: Session) -> Run | None:
    """Return the named run, else this one when it has a plan, else the last run on this target that has a plan."""
    if here.parameters.of_run:
        run = runs.find(here.parameters.of_run)
        if run.target != here.target.name:
            raise WrongInput(f"run {run.run_id} is of target {run.target}, not of {here.target.name}")
        return run
    for folder in (here.run.folder, *reversed(runs.folders())):
        if regular_file.is_there(folder / "plan.json"):
            try:
                run = runs.load(folder)
            except WrongInput:
                continue  # a folder that cannot be read holds no promise; `pgrunbook runs` reports it
            if run.target == here.target.name:
                return run
    return None


def _then(here: Session) -> str:
    if runs.takes_back(applied=here.run.has_applied()):
        return f"; then {runs.after_failure(applied=True)}."
    return f", or take back what was applied: {_way_back(here)}"


def _way_back(here: Session) -> str:
    promise = here.facts["promise"]
    of_run = f" -p of_run={promise.run_id}" if promise else ""
    return f"pgrunbook run rollback --target {here.target.name}{of_run}"


def _plan(run: Run) -> Plan | None:
    path = run.folder / "plan.json"
    return plans.read(path) if regular_file.is_there(path) else None


def _events(run: Run, *names: str) -> list[dict[str, Any]]:
    return [e for e in journal.read(run.journal.path) if not names or e["event"] in names]


def _measured(here: Session) -> Measurements:
    path = _promised(here, "measured-before.json")
    return regular_file.read_model(path, Measurements) if path else Measurements(rows={}, queries_ms={})


def _promised(here: Session, name: str) -> Path | None:
    """Return a file of the run that is validated, None where it wrote none."""
    promise = here.facts["promise"]
    path = promise.folder / name if promise else None
    return path if path and regular_file.is_there(path) else None


def _rows_of(ran: int | None, rehearsed: int | None) -> tuple[str, Cell]:
    """Return how many rows a step changed in the rehearsal and on the target, which stands out where it differs."""
    if ran is None:
        return "-", Cell("-")
    differs = rehearsed is not None and ran != rehearsed
    return _number(rehearsed), Cell(_number(ran), WARN if differs else PLAIN)


def _trial(here: Session) -> Trial | None:
    """Return what the rehearsal with the target's rows saw, None where there was none."""
    path = _promised(here, "rehearsal.json")
    return regular_file.read_model(path, Trial) if path else None


def _written_on_the_branch(here: Session) -> set[str]:
    """Return the names of tables whose rows the plan wrote in the rehearsal, also by cascades and triggers."""
    seen = _trial(here)
    found = set()
    for statement in seen.statements if seen else ():
        wrote = "AccessExclusiveLock" if statement.sql.upper().startswith("TRUNCATE") else "RowExclusiveLock"
        locks = statement.safe.locks if statement.safe else ()
        found |= {lock.object.rpartition(".")[2].strip('"') for lock in locks if lock.mode == wrote}
    return found


def _known_before(here: Session) -> set[str]:
    """Return the names of indexes and constraints that were invalid before the run already."""
    path = _promised(here, "leftovers-before.json")
    return set(regular_file.read_model(path, list[str])) if path else set()


def _left_on_purpose(here: Session) -> set[tuple[str, ...]]:
    """Return what the plain SQL left behind in the rehearsal: kind, name and table of each."""
    promise = here.facts["promise"]
    proven = _events(promise, "proven-equal") if promise else []
    return {tuple(left) for event in proven[:1] for left in event.get("leaves", [])}


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _changed(change: int | None, meant: bool) -> Cell:
    if change is None:
        return Cell("new table" if not meant else "not counted before", QUIET)
    if not change:
        return Cell("0", QUIET)
    return Cell(
        f"{change:+,}" + (" (a data statement)" if meant else " (not by the plan: traffic?)"),
        GOOD if meant else WARN,
    )


def _bars(queries: dict[str, tuple[float | None, float | None]], max_slowdown: float) -> Picture:
    names = list(queries)
    picture, axes = figure(8, 1.2 + 0.6 * len(names))
    before = [queries[n][0] or 0 for n in names]
    axes.barh([p + 0.2 for p in range(len(names))], before, 0.36, label="before", color="#8c959f")
    now = [queries[n][1] or 0 for n in names]
    axes.barh([p - 0.2 for p in range(len(names))], now, 0.36, label="now", color="#2da44e")
    for place, was in enumerate(before):
        limit = max(SLOW_FROM_MS, was * max_slowdown)
        axes.plot([limit, limit], [place - 0.4, place + 0.4], color="#cf222e", label="" if place else "limit")
    axes.set_yticks(list(range(len(names))), names)
    axes.set_xlabel("median of 5 runs, ms")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    numbers = "; ".join(f"{n}: {_ms(was)} before, {_ms(is_now)} now" for n, (was, is_now) in queries.items())
    return Picture.of(picture, f"Critical queries: {numbers}")


def _ms(value: float | None) -> str:
    return "not timed" if value is None else f"{value:.1f} ms"
