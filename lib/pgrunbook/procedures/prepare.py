"""Prepare: know before you touch. The steps of notebooks/prepare.ipynb, in order."""

from __future__ import annotations

import difflib
import itertools
import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from pgrunbook import history as histories
from pgrunbook.branches import copy_ahead, installations
from pgrunbook.branches.server import Server
from pgrunbook.database import catalog_reader, health, measurements, readiness, step_log
from pgrunbook.database.readiness import Level, Limits
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.display import progress
from pgrunbook.display.lock_chart import Lanes
from pgrunbook.display.prose import listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Banner, Card, Cell, Table
from pgrunbook.draft import disk_space, plan_sql, release
from pgrunbook.draft.build import base
from pgrunbook.errors import Refused
from pgrunbook.execute import failures, preconditions
from pgrunbook.history import Entry, Migration, State, places, verify_folder
from pgrunbook.history.drizzle_kit import generate_migrations
from pgrunbook.history.state import leave_out
from pgrunbook.plan import plan as plans
from pgrunbook.plan.hidden import hidden
from pgrunbook.plan.plan import Change
from pgrunbook.procedures import measured_views, plan_views, rollback_views
from pgrunbook.rehearse import drift, schema_only, way_back_trial, with_data
from pgrunbook.review import safe_mode, server_parser
from pgrunbook.review.hazards import Timeouts, Transactions
from pgrunbook.review.hazards.design import design_rules
from pgrunbook.review.review import Finding, review
from pgrunbook.review.safe_mode import Refusal
from pgrunbook.review.statement_scenes import script
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Prepare
from pgrunbook.session.session import Session
from pgrunbook.sql import runs, secrets
from pgrunbook.sql.classify import Type
from pgrunbook.sql.statements import Statement, has_left_out
from pgrunbook.undo_data import plan_sizes

TYPE_TONE = {Type.COMPATIBLE: GOOD, Type.BREAKING: BAD, Type.DATA: WARN}
# The numbers of a run of statements, the first of it, and what was found about that.
Judged = tuple[str, Statement, Finding]
STATE_TONE = {State.APPLIED: QUIET, State.PENDING: GOOD, State.LEFTOVER: QUIET}


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("prepare", Prepare, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable, Refused for a replica."""
    return here.meet_the_target()


@heres.step
def generate(here: Session) -> Table:
    """With ``generate``, let drizzle-kit write the pending migrations of the Drizzle package, and show them.

    Raises WrongInput when there is no package or no node, StatementFailed when drizzle-kit fails.
    """
    if not here.parameters.generate:
        return Table(["file", "what"], [], empty="Not asked for (generate = False): the folder is used as it is.")
    with progress.doing("waiting for drizzle-kit"):
        before, after = generate_migrations(here.target)
    rows = [
        (
            name,
            Cell("changed" if name in before else "new", WARN, under=_diff(name, before.get(name, ""), text)),
        )
        for name, text in sorted(after.items())
        if before.get(name) != text
    ]
    here.journal("generated", files=[row[0] for row in rows])
    return Table(["file", "what"], rows, empty="drizzle-kit found nothing to generate.")


@heres.step
def is_it_safe_to_start(here: Session) -> Table:
    """Show one row per pre-check, and refuse when one of them says stop."""
    server = Server(here.target.server) if here.target.server else None
    found = readiness.checks(
        here.conn,
        here.identity,
        Limits(transaction_age_s=here.parameters.max_transaction_age_s),
        data_dir=server.data_dir if server else None,
        needs_restore_point=here.target.restore_points,
    )
    found.append(installations.check(here.target, here.conn, needed=here.parameters.rehearse))
    found.append(drift.check(here.target, here.conn))
    rows = [(c.name, c.found, c.limit, Cell(c.level, heres.stop_tone(c.level)), c.advice) for c in found]
    table = here.keep_table("is-it-safe-to-start", Table(["check", "found", "limit", "verdict", "what to do"], rows))
    here.journal("checked", checks={c.name: c.level for c in found})
    stops = [c for c in found if c.level is Level.STOP]
    if stops:
        here.show(table)
        raise Refused(
            f"it is not safe to start: {', '.join(c.name for c in stops)}",
            detail="; ".join(f"{c.name}: {c.found} (limit {c.limit})" for c in stops),
            hint=" ".join(c.advice for c in stops),
        )
    return table


@heres.step
def what_is_pending(here: Session) -> Table:
    """Show every migration and its state; refuse when the history and the folder do not fit together."""
    history = histories.read(here.conn, here.target)
    here.facts["history"] = history
    rows = [
        (e.name, Cell(e.state.replace("_", " "), STATE_TONE.get(e.state, BAD)), _applied_at(e), e.note or _left_out(e))
        for e in history.entries
    ]
    title = f"{history.regime} ({history.recognised_by}); table {history.qualified_table} ({history.how_found})"
    here.journal("history-read", kind=history.kind, table=history.qualified_table, version=history.version(),
                 pending=[m.name for m in history.pending(out_of_order=here.parameters.out_of_order)])  # fmt: skip
    table = here.keep_table("what-is-pending", Table(["migration", "state", "applied at", "note"], rows, title=title))
    problems = history.problems(out_of_order=here.parameters.out_of_order)
    if problems:
        here.show(table)
        raise Refused(
            f"the migrations folder and {history.qualified_table} do not fit together",
            detail=" ".join(f"{e.name} is {e.state.replace('_', ' ')}: {e.note}" for e in problems),
            hint="Nothing is applied until this is settled; the note of each migration says how.",
            section="history",
        )
    pending = {m.name: m.fingerprint for m in history.pending(out_of_order=here.parameters.out_of_order)}
    for name, begun in step_log.of_plan(here.conn, pending, "up").items():
        if not begun.whole and begun.run_id != here.run.run_id:
            here.show(table)
            raise failures.begun_elsewhere(name, begun)
    failures.refuse_unfinished(step_log.unfinished(here.conn, "up"), pending)
    if pending:
        preconditions.check_history_table(here.conn, history)
    return table


@heres.step
def what_will_it_do(here: Session) -> Table:
    """Show each pending statement as it is written: its type, whom it locks out, what it rewrites, its hazards.

    Raises Refused for what safe-migrations mode forbids, WrongInput for what cannot be parsed.
    """
    pending = here.facts["history"].pending(out_of_order=here.parameters.out_of_order)
    with progress.doing("judging the statements on this database"):
        found, refused = _judged(here, pending)
    rows = [
        (
            name,
            numbers,
            Cell(statement.kind, under=secrets.beginning(statement.sql)),
            Cell(statement.type, TYPE_TONE[statement.type]),
            plan_views.locked(finding),
            ", ".join(finding.effects.rewrites) or "nothing",
            plan_views.hazards(finding),
        )
        for name, pairs in found.items()
        for numbers, statement, finding in pairs
    ]
    headings = ["migration", "statement", "as it is written", "type", "locks out", "rewrites", "hazards"]
    hazards = {name: [h.id for _, _, f in pairs for h in f.hazards] for name, pairs in found.items()}
    here.journal("judged", hazards=hazards, refused=[refusal.object for refusal in refused])
    table = here.keep_table("what-will-it-do", Table(headings, rows, empty="Nothing is pending."))
    if refused:
        here.show(table)
        raise safe_mode.refused(refused, here.target.name, here.parameters.allow_loss)
    return table


@heres.step
def make_it_safe(here: Session) -> Table:
    """Choose the safe form of each statement, and prove on empty branches that it ends in the same schema.

    Raises StatementFailed for a statement that fails even without rows, Refused where the schemas differ.
    """
    history, given = here.facts["history"], here.parameters
    pending = history.pending(out_of_order=given.out_of_order)
    off = places.reasons(history, given.safe_forms_off)
    places.resolved(history, given.accept)
    if not given.rehearse or not pending:
        _read_schema(here)
        here.facts["changes"] = release.unproven(here.target, here.conn, pending, off)
        here.facts["rehearsed"] = "not rehearsed: rehearse = False" if pending else "nothing is pending"
        return plan_views.statements(here.facts["changes"], title="Not proven: rehearse = False." if pending else "")
    copied = (
        copy_ahead.begun(here.target, here.identity.size_bytes, most_bytes=given.most_mb * 1024 * 1024,
                         goes_on=heres.is_headless())
        if given.with_data else nullcontext()
    )  # fmt: skip
    with copied as here.facts["ahead"]:
        done = schema_only.rehearse(here.target, history, pending, lambda: _read_schema(here), here.conn, off=off,
                                   keep=given.keep, prefer_down_scripts=given.prefer_down_scripts)  # fmt: skip
        _check_room(here, done.changes)
    here.facts.update(rehearsal=done, changes=done.changes, rehearsed="on an empty branch with the target's schema")
    here.run.keep_masked("schema-promised.json", done.end.to_json())
    declared = [difference.line() for difference in done.declared]
    here.journal("proven-equal", fingerprint=done.end.fingerprint, unlike=done.unlike, declared=declared,
                 leaves=done.leaves)  # fmt: skip
    title = "Proven on empty branches: after each migration the schema is the one that the plain SQL ends in"
    title += f", but for what the safe forms declare: {'; '.join(declared)}." if declared else "."
    if done.unlike:
        title += f" Not compared: {', '.join(name for _, name in done.unlike)}."
    if done.need_rows:
        title += f" Needs rows, and was left out there: {'; '.join(done.need_rows)}."
    here.show(plan_views.schema_changes(done))
    return here.keep_table("make-it-safe", plan_views.statements(done.changes, title=title))


@heres.step
def rehearse(here: Session) -> Lanes | Card:
    """Execute the plain SQL and the plan on a branch with the target's rows; show whom each statement locked out.

    Raises Refused where no such branch may be made or the rows differ at the end, StatementFailed where one fails.
    """
    done, given = here.facts.get("rehearsal"), here.parameters
    if not done or not given.with_data or not done.changes:
        why = here.facts["rehearsed"] if not done or not done.changes else "not with rows: with_data = False"
        return Card("Rehearsal", [("result", Cell(why, WARN if done and done.changes else QUIET))], tone=WARN)
    pending = here.facts["history"].pending(out_of_order=given.out_of_order)
    ways = with_data.rehearse(
        here.target, pending, done, here.conn, most_bytes=given.most_mb * 1024 * 1024, per_second=given.load,
        asserted=verify_folder.assertions(here.facts["history"].folder), check_timeout_ms=given.check_timeout_s * 1000,
        ahead=here.facts["ahead"],
    )  # fmt: skip
    seen = ways.trial
    changes = way_back_trial.with_proofs(with_data.with_estimates(done.changes, ways), seen.ways_back)
    here.facts.update(changes=changes, rehearsed=f"with rows: {seen.branch}")
    here.run.keep("rehearsal.json", seen.text())
    here.journal("rehearsed", branch=seen.branch, made_s=seen.made_s, compared=seen.compared,
                 tables={t.table: [t.target_rows, t.branch_rows] for t in seen.tables})  # fmt: skip
    rows = [(t.table, f"{t.target_rows:,}", f"{t.branch_rows:,}") for t in seen.tables]
    title = f"Branch: {seen.branch}, made in {seen.made_s:.1f} s"
    here.show(Table(["table", "rows in the target", "rows on the branch"], rows, title=title))
    here.show(here.keep_table("rehearsed", plan_views.observed(seen)))
    if ways.asserted:
        here.show(here.keep_table("assertions-rehearsed", measured_views.assertions(ways.asserted)))
        here.facts["breaks"] = [found.name for found in ways.asserted if not found.holds]
        here.journal("assertions-rehearsed", rows={found.name: found.rows for found in ways.asserted},
                     why={found.name: found.why for found in ways.asserted})  # fmt: skip
    return plan_views.picture(seen)


@heres.step
def prove_the_way_back(here: Session) -> Table:
    """Show for each migration whether up, down and up again is proven, what is captured, and what differs."""
    if here.facts.get("rehearsal") is None:
        headings = ["migration", "way back proven"]
        return Table(headings, [], empty=f"Nothing to prove: {here.facts['rehearsed']}.")
    changes = here.facts["changes"] = plan_sizes.with_sizes(here.facts["changes"], here.conn)
    proofs = {c.migration: c.proof.told for c in changes}
    here.journal("ways-back", proven=[c.migration for c in changes if c.proof.proven], says=proofs)
    return here.keep_table("ways-back", rollback_views.ways_back(changes))


@heres.step
def measure_before(here: Session) -> Table:
    """Count and sum rows, time queries, find rows that break the schema, as it is now; validate compares with it."""
    given, steps = here.parameters, [step for change in here.facts["changes"] for step in change.steps]
    measured = measurements.take(
        here.conn, here.target.critical_queries, leave_out=here.facts["history"].qualified_table,
        checksum_bytes=given.checksum_mb * 1024 * 1024, check_timeout_ms=given.check_timeout_s * 1000,
        time_writes=here.target.time_writes, changed={measured_views.bare(o) for step in steps for o in step.objects},
    )  # fmt: skip
    left = [leftover.name for leftover in health.leftovers(here.conn)]
    here.run.keep("leftovers-before.json", json.dumps(left, ensure_ascii=False) + "\n")
    here.run.keep("measured-before.json", json.dumps(asdict(measured), indent=1, ensure_ascii=False) + "\n")
    return here.keep_table("measured-before", measured_views.before(measured))


@heres.step
def freeze_the_plan(here: Session) -> Card:
    """Freeze what will be executed into ``plan.json`` and ``plan.sql``, and show its digest."""
    history, done = here.facts["history"], here.facts.get("rehearsal")
    changes = here.facts["changes"]
    # A branch on another version writes some definitions differently: then its fingerprints do not count.
    if done and done.is_exact:
        told: list[str | None] = [done.before.fingerprint]
        for change, after in zip(changes, done.after, strict=True):
            told.append(None if told[-1] is None or change.schema_unknown_by() else after.fingerprint)
        changes = tuple(
            change.model_copy(update={"schema_before": a, "schema_after": b})
            for change, (a, b) in zip(changes, itertools.pairwise(told), strict=True)
        )
    plan = plans.Plan(
        direction="up",
        target=here.target.name,
        base=base(here.identity, here.facts["schema"], history),
        attempts=here.target.attempts,
        rehearsed=here.facts["rehearsed"],
        unproven="" if done else "it was not rehearsed: its end is not proven",
        restore_point=here.target.restore_points,
        changes=changes,
    )
    plan = here.facts["plan"] = hidden(plan)
    here.run.keep_masked("plan.json", plan.parts())
    here.run.keep_masked("plan.sql", plan_sql.parts(plan))
    here.journal("plan-frozen", digest=plan.digest, steps=len(plan.steps()), gates=[g.key for g in plan.gates()])
    accepted = places.resolved(history, here.parameters.accept)
    acceptance.note(here.run, plan, [*accepted, *([] if here.parameters.rehearse else [plans.REHEARSAL])])
    here.facts["gates"] = [gate.key for gate in acceptance.left(here.run, plan)]
    return plan_views.plan(plan, here.target, here.facts["gates"])


@heres.step
def verdict(here: Session) -> Banner:
    """Say what was found, and what to open next."""
    plan = here.facts["plan"]
    drift = _drift(here)
    left = here.facts["gates"]
    facts = [("plan", plan.digest[:16]), ("pending", len(plan.changes)), ("since the last run", drift)]
    if breaks := here.facts.get("breaks"):
        facts.append(("assertions", Cell(f"{listed(breaks)} did not hold on the branch: validate will say so", BAD)))
    state = "Nothing changed in the database; the plan is frozen."
    following = here.following() or f"pgrunbook run release --target {here.target.name}"
    if left:
        state += f" {len(left)} of its gates must be accepted before it is executed."
        facts += [(f"gate {key}", f"pgrunbook accept {here.run.run_id} {key}") for key in left]
    then = following if plan.changes else "nothing: no migration is pending"
    return here.verdict(state, facts, then=then, is_open=bool(left))


def _read_schema(here: Session) -> Snapshot:
    """Read the target's schema as it is now, and keep it as evidence."""
    here.facts["schema"] = now = snapshot(here.conn, leave_out=leave_out(here.facts["history"]))
    here.run.keep_masked("schema-before.json", now.to_json())
    return now


def _check_room(here: Session, changes: Sequence[Change]) -> None:
    """Check that the disk has room for what is built, where we can read its size. Raises Refused."""
    found = disk_space.needs(here.conn, changes)
    here.journal("room-needed", steps=[[need.migration, need.step.number, need.bytes] for need in found[:10]])
    if here.target.server is not None:
        disk_space.refuse_without(found, shutil.disk_usage(Server(here.target.server).data_dir).free)


def _judged(here: Session, pending: list[Migration]) -> tuple[dict[str, list[Judged]], list[Refusal]]:
    """Review the pending statements on this very database, of a run the first; each migration is a transaction."""
    grouped = [run for migration in pending for run in runs.runs(migration.statements())]
    firsts = [run[0] for run in grouped]
    server_parser.refuse_unknown(here.conn, firsts)
    read = script([(migration.name, migration.sql) for migration in pending])
    places_ = {first.place for first in firsts}
    read = replace(read, placed=tuple(one for one in read.placed if one.statement.place in places_), marks=())
    timeouts = Timeouts(here.target.lock_timeout_ms, here.target.statement_timeout_ms)
    catalog = catalog_reader.read(here.conn, read.statements)
    found: dict[str, list[Judged]] = {migration.name: [] for migration in pending}
    rules = design_rules(here.target)
    judged = review(read, catalog, transactions=Transactions.FILE, timeouts=timeouts, design_rules=rules)
    begun = dict.fromkeys(found, 1)
    for run, finding in zip(grouped, judged, strict=True):
        numbers = runs.numbers(begun[finding.file], len(run))
        found[finding.file].append((numbers, run[0], finding))
        begun[finding.file] += len(run)
    refused = []
    if here.target.safe_migrations:
        refused = safe_mode.refusals(read.statements, catalog, here.parameters.allow_loss)
    return found, refused


def _drift(here: Session) -> str:
    """Say whether the schema is still as the last run left it, where a run recorded it."""
    last = step_log.last_history_step(here.conn)
    recorded = last and last["schema_after"]
    if not recorded:
        return "not known: no run recorded the schema here"
    if recorded == here.facts["schema"].fingerprint:
        return "the schema is as the last run left it"
    return f"DRIFT: the schema is not as run {last['run_id'] if last else ''} left it"


def _applied_at(entry: Any) -> str:
    if entry.applied is None:
        return ""
    return f"{entry.applied.applied_at:%Y-%m-%d %H:%M}Z" if entry.applied.applied_at else "not recorded"


def _left_out(entry: Entry) -> str:
    """Say what of a pending file is not executed; a file that cannot be read is refused later, by its line."""
    if entry.state is not State.PENDING or entry.migration is None or not has_left_out(entry.migration.sql):
        return ""
    return "Its BEGIN and COMMIT are left out: a migration is one transaction anyway."


def _diff(name: str, before: str, after: str) -> str:
    return "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), "before", name, lineterm=""))
