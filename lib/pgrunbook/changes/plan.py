"""The plan: the frozen, digested list of what will be executed, and the state it was made for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pgrunbook.changes import kinds, statements
from pgrunbook.changes.statements import Policy, Type
from pgrunbook.database.activity import Identity
from pgrunbook.database.connection import RESET_SESSION
from pgrunbook.database.schema import Snapshot
from pgrunbook.errors import WrongInput
from pgrunbook.history import History, Migration
from pgrunbook.target import Target

Direction = Literal["up", "down"]
# A statement that runs alone takes as long as the table is big. One that also waits without making others
# wait (CONCURRENTLY, plain VACUUM) may wait as long; every other (VACUUM FULL) would hold up a queue.
LONG_TIMEOUT_MS = 3_600_000


class Frozen(BaseModel):
    """A part of the plan: unknown fields are refused, and nothing changes once it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(Frozen):
    """One statement to execute, and how."""

    number: int
    sql: str
    sha256: str
    file: str
    line: int
    kind: str
    type: Type
    policy: Policy
    objects: tuple[str, ...]
    lock_timeout_ms: int
    statement_timeout_ms: int


class Change(Frozen):
    """One migration in one direction: its steps, and the schema before and after it where a rehearsal told."""

    migration: str
    file_sha256: str
    way_back: Literal["down script", "none", "the migration itself"]
    steps: tuple[Step, ...]
    schema_before: str | None = None
    schema_after: str | None = None


class Base(Frozen):
    """The state of the database that the plan was made for."""

    system_identifier: str
    database: str
    server_version_num: int
    schema_fingerprint: str
    history_fingerprint: str
    version: str | None


class Plan(Frozen):
    """What will be executed on which target, from which state."""

    format: Literal[1] = 1
    direction: Direction
    target: str
    base: Base
    attempts: int
    rehearsed: str
    changes: tuple[Change, ...]

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON text: the same for the same plan, on every machine."""
        return hashlib.sha256(_canonical(self).encode()).hexdigest()

    def steps(self) -> list[tuple[Change, Step]]:
        """Return every step with its change, in the order of execution."""
        return [(change, step) for change in self.changes for step in change.steps]

    def sql(self) -> str:
        """Return what psql would run: readable, and the same steps under the same timeouts.

        The rows of schema pgrunbook and of the history table are named in comments only.
        """
        lines = [
            f"-- Plan {self.digest}",
            f"-- Target {self.target}, database {self.base.database}, from version {self.base.version or '(none)'}.",
            "\\set ON_ERROR_STOP on",
            "",
        ]
        for change in self.changes:
            lines += [f"-- {self.direction}: {change.migration}", *_psql(change, self.direction), ""]
        return "\n".join(lines)

    def text(self) -> str:
        """Return the text of ``plan.json``: the digest and the plan."""
        body = json.loads(_canonical(self))
        return json.dumps({"digest": self.digest, "plan": body}, indent=1, ensure_ascii=False) + "\n"


def build_steps(sql: str, file: str, target: Target) -> tuple[Step, ...]:
    """Return the steps of a file, each under the target's timeouts. Raises WrongInput as parse does."""
    return tuple(
        Step(
            number=number,
            sql=s.sql,
            sha256=s.sha256,
            file=file,
            line=s.line,
            kind=s.kind,
            type=s.type,
            policy=s.policy,
            objects=s.objects,
            lock_timeout_ms=LONG_TIMEOUT_MS
            if s.policy is Policy.ALONE and kinds.waits_without_harm(s.kind)
            else target.lock_timeout_ms,
            statement_timeout_ms=LONG_TIMEOUT_MS if s.policy is Policy.ALONE else target.statement_timeout_ms,
        )
        for number, s in enumerate(statements.parse(sql, file), 1)
    )


def up(target: Target, migrations: Sequence[Migration]) -> tuple[Change, ...]:
    """Return the changes that apply migrations, in order."""
    return tuple(
        Change(
            migration=m.name,
            file_sha256=m.hash,
            way_back="down script" if m.down_sql is not None else "none",
            steps=build_steps(m.sql, m.path.name, target),
        )
        for m in migrations
    )


def down(target: Target, migrations: Sequence[Migration]) -> tuple[Change, ...]:
    """Return the changes that take migrations back by their down scripts, in the order given.

    Every migration must have a down script; the caller refuses those that have none.
    """
    return tuple(
        Change(
            migration=m.name,
            file_sha256=m.hash,
            way_back="the migration itself",
            steps=build_steps(m.down_sql or "", m.down_path.name if m.down_path else m.name, target),
        )
        for m in migrations
    )


def base(who: Identity, schema: Snapshot, history: History) -> Base:
    """Return the state that a plan is made for: the server, its schema and its history."""
    return Base(
        system_identifier=who.system_identifier,
        database=who.database,
        server_version_num=who.server_version_num,
        schema_fingerprint=schema.fingerprint,
        history_fingerprint=history.fingerprint(),
        version=history.version(),
    )


def read(path: Path) -> Plan:
    """Return the plan of a ``plan.json``.

    Raises WrongInput when it cannot be read, or when its digest is not that of its text.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan.model_validate(raw["plan"])
        digest = raw["digest"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as exc:
        raise WrongInput(f"could not read the plan {path.name}", detail=" ".join(str(exc).split())[:500]) from exc
    if plan.digest != digest:
        raise WrongInput(
            f"{path.name} is not the plan that was frozen",
            detail=f"Its text has digest {plan.digest}, and it says {digest}: it was changed afterwards.",
            hint="Make a new plan: open notebooks/prepare.ipynb, or start a new run.",
        )
    return plan


def _canonical(plan: Plan) -> str:
    return json.dumps(plan.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _psql(change: Change, direction: Direction) -> list[str]:
    lines: list[str] = []
    inside = False
    for step in change.steps:
        alone = step.policy is Policy.ALONE
        if inside and alone:
            lines.append("COMMIT;")
        if not inside and not alone:
            lines.append("BEGIN;")
        inside = not alone
        local = "" if alone else "LOCAL "
        lines += [
            f"SET {local}lock_timeout = {step.lock_timeout_ms};",
            f"SET {local}statement_timeout = {step.statement_timeout_ms};",
            f"{step.sql};",
        ]
    if not inside:
        lines.append("BEGIN;")
    row = "inserted into" if direction == "up" else "deleted from"
    end = "; ".join(RESET_SESSION) + ";  -- what it set does not reach the next one"
    return [*lines, f"-- here the row of {change.migration} is {row} the history table", "COMMIT;", end]
