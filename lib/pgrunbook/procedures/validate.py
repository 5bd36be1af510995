"""Validate: compare the database with what the rehearsal promised. The steps of notebooks/validate.ipynb, in order."""

from __future__ import annotations

import re

from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.config import regular_file
from pgrunbook.database import (
    assertions,
    health,
    integrity,
    measurements,
    query_plans,
)
from pgrunbook.database.measurements import HEAVIEST
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, GOOD, PLAIN, WARN, Banner, Card, Cell, Picture, Table
from pgrunbook.errors import Broken
from pgrunbook.history import verify_folder
from pgrunbook.history.state import leave_out
from pgrunbook.procedures import measured_views, query_views, undo_data_views
from pgrunbook.procedures import promise as promises
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.rehearse import drift, schema_only
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import BOXES, Box, Validate
from pgrunbook.session.session import Session
from pgrunbook.sql import secrets
from pgrunbook.sql.classify import Type


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    here = heres.begin("validate", Validate, given)
    here.facts["problems"] = []
    return here


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target, and the run that it is compared with. Raises Unreachable."""
    promise = promises.promising_run(here)
    here.facts["promise"] = promise
    card = here.meet_the_target()
    run = promise.run_id if promise else Cell("no run on this target made a plan", WARN)
    return Card(card.title, [*card.facts, ("compared with", run)], card.tone)


@heres.step
def schema_as_promised(here: Session) -> Table:
    """Compare the schema with the one that the rehearsal ended in; show differences by object."""
    promise = here.facts["promise"]
    history = histories.read(here.conn, here.target)
    applied = [entry.name for entry in history.applied()]
    here.facts.update(history_folder=history.folder, history_table=history.qualified_table, applied=applied)
    now = snapshot(here.conn, leave_out=leave_out(history))
    here.run.keep_masked(drift.VALIDATED, now.to_json())
    here.journal("schema-validated", fingerprint=now.fingerprint, version=history.version())
    path = promises.promised(here, "schema-promised.json")
    headings = ["object", "name", "change", "promised", "found"]
    if path is None:
        here.journal("schema-not-compared", fingerprint=now.fingerprint)
        return Table(
            headings,
            [],
            empty="Not compared: there was no rehearsal, and so no promised schema.",
        )
    promised = Snapshot.from_json(regular_file.read(path))
    unlike: list[tuple[str, str]] = next((e["unlike"] for e in promises.events(promise, "proven-equal")), [])
    found = drift.without_contracted(here.target, schema_only.unexpected(promised, now, unlike))
    left = [m.name for m in history.pending()]
    planned = promises.plan_of(promise)
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
    """Show invalid indexes, constraints not validated, sequences behind, what was not reapplied, and broken promises.

    These are rows that reference nothing, keys that stand twice, rows against a constraint that is NOT VALID. What
    was there before is no problem, nor what the migrations leave so on purpose.
    """
    found = health.leftovers(here.conn)
    before, meant = promises.known_before(here), promises.left_on_purpose(here)
    rows: list[tuple[object, ...]] = []
    for left in found:
        why = "was there before" if left.name in before else ""
        if (left.kind, left.name, left.where) in meant:
            why = f"the migration leaves it so; {left.advice}"
        rows.append((Cell(left.kind, WARN if why else BAD), left.name, left.where, why or left.advice))
        if not why:
            here.facts["problems"].append(f"{left.kind}: {left.name}")
    breaches = integrity.breaches(here.conn, check_timeout_ms=here.parameters.check_timeout_s * 1000)
    for breach in breaches:
        known = promises.measured(here).breaches.get(breach.key, 0)
        rows.append(measured_views.breach(breach, known))
        if measured_views.is_new(breach, known):
            here.facts["problems"].append(f"{breach.kind}: {breach.rows:,} by {breach.name} of {breach.table}")
    captured = undo_data.still_captured(here.conn, here.facts["applied"])
    nobodys = undo_data.gone_to_nobody(here.conn, here.facts["applied"], "down")
    rows += [undo_data_views.not_reapplied(kept, holds) for kept, holds in captured]
    rows += [undo_data_views.gone_to_nobody(kept, holds) for kept, holds in nobodys]
    here.journal("leftovers", found=[f"{left.kind}: {left.name}" for left in found],
                 captured={kept.kept_as: holds for kept, holds in (*captured, *nobodys)},
                 breaches={breach.key: breach.rows for breach in breaches})  # fmt: skip
    return here.keep_table("nothing-left-behind", Table(
        ["what", "name", "of", "what to do"],
        rows,
        empty="Nothing: indexes valid, constraints validated and kept, sequences ahead.",
    ))  # fmt: skip


@heres.step
def data_as_promised(here: Session) -> Table:
    """Compare the rows of each table, and their checksum where prepare took one, with those before.

    A table that no data statement explains is a problem where nobody else writes meanwhile.
    """
    before = promises.measured(here)
    plan = promises.plan_of(here.facts["promise"]) if here.facts["promise"] else None
    touched = {
        o.rpartition(".")[2] for _, s in (plan.steps() if plan else []) if s.type is Type.DATA for o in s.objects
    } | promises.written_on_the_branch(here)
    kept_sums = {name: was for name, was in before.sums.items() if measured_views.bare(name) not in touched}
    again = measurements.sums_again(here.conn, kept_sums)
    known = {name: summed.rows for name, summed in again.items()}
    counts = health.row_counts(here.conn, leave_out=here.facts["history_table"], known=known)
    compared = measured_views.compared(before, counts, again, touched)
    unexplained = [table.name for table in compared if table.unexplained]
    if not here.parameters.others_write:
        here.facts["problems"] += [f"the rows of {name} changed, and no data statement says so" for name in unexplained]
    here.journal("rows-compared", summed=sorted(kept_sums), unexplained=unexplained)
    return here.keep_table("data-as-promised", measured_views.rows(compared))


@heres.step
def assertions_hold(here: Session) -> Table:
    """Run the operator's assertions, ``verify/*.sql`` beside the migrations: none of them may return a row."""
    given = verify_folder.assertions(here.facts["history_folder"])
    results = []
    with progress.doing("checking assertions") as stage:
        for place, one in enumerate(given, 1):
            stage.how_far(f"{one.name}, {place} of {len(given)}")
            results.append(assertions.check(here.conn, one, timeout_ms=here.parameters.check_timeout_s * 1000))
    for result in results:
        if not result.holds:
            here.facts["problems"].append(f'assertion "{result.name}": {measured_views.told(result)}')
        if result.first:
            file = "assertion-" + re.sub(r"\W+", "-", result.name.removesuffix(".sql"))
            here.keep_table(file, Table(result.columns, result.first))
    here.facts["assertions"] = len(results)
    here.journal("assertions-checked", rows={r.name: r.rows for r in results}, why={r.name: r.why for r in results})
    return here.keep_table("assertions", measured_views.assertions(results))


@heres.step
def as_estimated(here: Session) -> Table:
    """Show for each step the time and the rows expected, the basis of the estimate, and what it took and changed."""
    promise = here.facts["promise"]
    plan = promises.plan_of(promise) if promise else None
    took = {(e["migration"], e["step"]): e for e in promises.events(promise, "step-ran")} if promise else {}
    trial = promises.trial(here)
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
def statistics_at_hand(here: Session) -> Table:
    """Show tables of which the planner knows nothing; with ``analyze`` their statistics are made now.

    Locks: ShareUpdateExclusiveLock on one table after the other, with ``analyze``.
    """
    missing = query_plans.without_statistics(here.conn)
    refused = {}
    if here.parameters.analyze:
        refused = query_plans.analyze(here.conn, list(missing), lock_timeout_ms=here.target.lock_timeout_ms)
    rows = []
    for table, columns in missing.items():
        advice: object = Cell(f"ANALYZE {table};", WARN)
        if here.parameters.analyze:
            advice = Cell(f"not analyzed: {refused[table]}", WARN) if table in refused else Cell("analyzed now", GOOD)
        rows.append((table, ", ".join(columns), advice))
    here.journal("statistics", missing=sorted(missing), analyzed=sorted(missing.keys() - refused.keys())
                 if here.parameters.analyze else [])  # fmt: skip
    headings = ["table", "columns without statistics", "what to do"]
    title = "The planner guesses until autovacuum gets there; queries may be slow meanwhile." if rows else ""
    return here.keep_table("statistics", Table(headings, rows, title=title, empty="The planner knows every table."))


@heres.step
def queries_as_fast(here: Session) -> Card | Picture:
    """Time the critical queries again, else ask for those that took most time; show plans and times, before and now.

    A query that takes more than ``max_slowdown`` times as long, and more than 50 ms, is a problem.
    """
    before, given = promises.measured(here), here.target.critical_queries
    with progress.doing("timing the critical queries"):
        now = {n: query_plans.measured(here.conn, q, time_writes=here.target.time_writes) for n, q in given.items()}
    found = [query_views.of_critical(name, before, timing) for name, timing in now.items()]
    why = ""
    if not given:
        heavy, why = query_plans.heaviest(here.conn, most=HEAVIEST, ids=list(before.heaviest) or None)
        found = [query_views.of_heavy(was, heavy[key]) for key, was in before.heaviest.items() if key in heavy]
    limit = here.parameters.max_slowdown
    here.facts["problems"] += [problem for query in found for problem in query.problems(limit)]
    here.journal("queries-timed", ms={q.name: q.now_ms for q in found}, before={q.name: q.before_ms for q in found},
                 other_plans=[q.name for q in found if q.has_other_plan])  # fmt: skip
    if not found:
        told = [("timed", "none: the target names no critical_queries")]
        return Card("Critical queries", [*told, ("pg_stat_statements", why or "was not asked before the change")])
    here.facts["queries"] = {query.name: (query.before_ms, query.now_ms) for query in found}
    here.show(here.keep_table("queries-as-fast", query_views.table(found, limit)))
    return query_views.bars(here.facts["queries"], limit)


@heres.step
def sizes_as_measured(here: Session) -> Table | Picture:
    """Show the size of each table and its indexes, before and now; return a picture where one changed."""
    before, now = promises.measured(here).sizes, measurements.sizes(here.conn)
    table = here.keep_table("sizes", query_views.sizes(before, now))
    changed = query_views.resized(before, now)
    if not changed:
        return table
    here.show(table)
    return query_views.size_bars(before, now, changed)


@heres.step
def checklist(here: Session) -> Table:
    """Show the guide's seven boxes: what this run proves of each, or that it is open, and who took it on."""
    promise = here.facts["promise"]
    proofs = _proofs(here, promise) if promise else {}
    rows = []
    for box in BOXES:
        proof, who = proofs.get(box, ""), here.parameters.took_on.get(box, "")
        rows.append((box, Cell("evidence", GOOD) if proof else Cell("open", WARN), proof, who or (
            "" if proof else Cell("nobody: name who, in took_on", WARN))))  # fmt: skip
    here.journal("checklist", open=[row[0] for row in rows if not row[2]], took_on=here.parameters.took_on)
    return here.keep_table("checklist", Table(["box", "", "what proves it", "who took it on"], rows))


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
    promised = promises.promised(here, "schema-promised.json")
    state = "The database is as promised." if promised else "No problem was found; but there was no promise to check."
    return here.verdict(state, undo_data_views.triggers(here.conn), then="nothing: the release is done")


def _then(here: Session) -> str:
    if runs.takes_back(applied=here.run.has_applied()):
        return f"; then {runs.after_failure(applied=True)}."
    return f", or take back what was applied: {_way_back(here)}"


def _way_back(here: Session) -> str:
    promise = here.facts["promise"]
    of_run = f" -p of_run={promise.run_id}" if promise else ""
    return f"pgrunbook run rollback --target {here.target.name}{of_run}"


def _rows_of(ran: int | None, rehearsed: int | None) -> tuple[str, Cell]:
    """Return how many rows a step changed in the rehearsal and on the target, which stands out where it differs."""
    if ran is None:
        return "-", Cell("-")
    differs = rehearsed is not None and ran != rehearsed
    return measured_views.number(rehearsed), Cell(measured_views.number(ran), WARN if differs else PLAIN)


def _proofs(here: Session, promise: Run) -> dict[Box, str]:
    """Return what this run proves of each box of the guide's checklist, "" for nothing."""
    plan = promises.plan_of(promise)
    seen = {event["event"]: event for event in promises.events(promise)}
    proven = seen.get("ways-back", {}).get("proven", [])
    one_way = [c.migration for c in plan.changes if c.migration not in proven] if plan else []
    back = f"there and back: {', '.join(proven)}" + (f"; no way back: {', '.join(one_way)}" if one_way else "")
    written = [s.type for change in plan.changes for s in change.statements] if plan else []
    impact = ", ".join(f"{written.count(t)} {t}" for t in Type if t in written)
    timed = here.facts.get("queries")
    approved = next((e["approved"] for e in promises.events(promise) if e.get("approved")), "")
    return {
        "schema changes reviewed by team": f"the plan was approved by its digest, {approved[:16]}" if approved else "",
        "migration tested in development branch": plan.rehearsed if plan and "proven-equal" in seen else "",
        "rollback script prepared and tested": back if proven else "",
        "performance impact assessed": "critical queries timed before and after" if timed else "",
        "customer impact evaluated": f"statements: {impact}" if impact else "",
    }
