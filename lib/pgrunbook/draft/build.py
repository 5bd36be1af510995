"""Changes and steps of a plan, built from statements and their expansions; for prepare, migrate and rollback."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from pgrunbook.config.targets import Target
from pgrunbook.database.activity import Identity
from pgrunbook.database.schema import Snapshot
from pgrunbook.draft import nontransactional
from pgrunbook.history import History, Migration
from pgrunbook.plan.plan import Base, Change, Step, WayBack, WrittenStatement
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.sql import classify, runs, statements
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.places import Place, numbered
from pgrunbook.sql.secrets import fingerprint
from pgrunbook.sql.statements import Statement

# A statement that runs alone takes longer on a larger table. One that waits without blocking others
# (CONCURRENTLY, plain VACUUM) may wait as long; any other (VACUUM FULL) would build a lock queue.
LONG_TIMEOUT_MS = 3_600_000


def up(target: Target, migrations: Sequence[Migration]) -> tuple[Change, ...]:
    """Return the changes that apply migrations as written, in order."""
    return tuple(as_written(m.name, m.fingerprint, way_back(m), m.statements(), target) for m in migrations)


def way_back(migration: Migration) -> Literal["down script", "computed"]:
    """Return how a migration is taken back."""
    return "down script" if migration.down_sql is not None else "computed"


def as_written(migration: str, file_sha256: str, back: WayBack, written: Sequence[Statement], target: Target) -> Change:
    """Return a change whose statements are executed as written in the file, those of a run together."""
    plain: list[Expansion] = []
    for run in runs.runs(written):
        first = run[0]
        step = SafeStep(runs.joined(run), "", first.policy, own_transaction=False, quick=False, statements=len(run))
        plain += [Expansion(first, "", "", (step,)), *(Expansion(one, "", "", ()) for one in run[1:])]
    return expanded(migration, file_sha256, back, plain, target)


def expanded(
    migration: str, file_sha256: str, back: WayBack, expansions: Sequence[Expansion], target: Target
) -> Change:
    """Return a change whose statements are executed as their expansions say."""
    found = [
        _step(target, expansion, number, step)
        for number, expansion in enumerate(expansions, 1)
        for step in expansion.steps
    ]
    places = numbered(migration, [expansion.statement.line for expansion in expansions])
    return Change(
        migration=migration,
        file_sha256=file_sha256,
        way_back=back,
        statements=tuple(_written(*one, number) for number, one in enumerate(zip(expansions, places, strict=True), 1)),
        steps=tuple(step.model_copy(update={"number": number}) for number, step in enumerate(found, 1)),
    )


def base(who: Identity, schema: Snapshot, history: History) -> Base:
    """Return the state for which a plan is made: the server, its schema and its history."""
    return Base(
        system_identifier=who.system_identifier,
        database=who.database,
        server_version_num=who.server_version_num,
        schema_fingerprint=schema.fingerprint,
        history_fingerprint=history.fingerprint(),
        version=history.version(),
    )


def _written(expansion: Expansion, place: Place, number: int) -> WrittenStatement:
    s = expansion.statement
    return WrittenStatement(
        number=number, sql=s.sql, sha256=s.sha256, key=str(place), file=s.file, line=s.line, kind=s.kind,
        type=s.type, form=expansion.form, explains=expansion.explains, cleanup=expansion.cleanup,
        differs=expansion.differs, gate=expansion.gate, off=expansion.off,
        same_as=expansion.same_as,
    )  # fmt: skip


def _first(expansion: Expansion, step: SafeStep) -> Statement:
    """Return the statement that names a step; one that captures for a statement, or replaces it so, has its name."""
    s = expansion.statement
    if step.batches is None and (s.sql in step.sql or (step.keeps and len(expansion.steps) == 1)):
        return s
    first = statements.parse(step.sql, s.file)[0]
    return dataclasses.replace(first, kind="KEEP", objects=s.objects) if step.keeps and not step.batches else first


def _step(target: Target, expansion: Expansion, statement: int, step: SafeStep) -> Step:
    s = expansion.statement
    first = _first(expansion, step)
    is_alone = step.policy is Policy.ALONE
    waits_long = is_alone and classify.wait_is_harmless(first.kind)
    takes_long = is_alone or (bool(expansion.form) and not step.quick and step.batches is None)
    as_it_is = is_alone and not expansion.form
    return Step(
        number=1, statement=statement, sql=step.sql, sha256=fingerprint(step.sql),
        file=s.file, line=s.line, kind=first.kind, type=s.type, policy=step.policy,
        objects=first.objects or s.objects, form=expansion.form, says=step.says,
        own_transaction=step.own_transaction, quick=step.quick,
        done=nontransactional.done(step.sql) if as_it_is else step.done,
        leftovers=nontransactional.leftovers(step.sql) if as_it_is else step.leftovers,
        batches=step.batches, keeps=step.keeps, gives_back=step.gives_back, gives_rows=step.gives_rows,
        statements=step.statements, fires_triggers=step.fires_triggers, follows=step.follows,
        lock_timeout_ms=LONG_TIMEOUT_MS if waits_long else target.lock_timeout_ms,
        statement_timeout_ms=LONG_TIMEOUT_MS if takes_long else target.statement_timeout_ms,
    )  # fmt: skip
