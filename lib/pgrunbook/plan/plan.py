"""The plan: the frozen, digested list of what will be executed, and the state it was made for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from pgrunbook.config import regular_file
from pgrunbook.errors import WrongInput
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import Batches, Gate, Keep
from pgrunbook.plan.way_back import Back, Frozen, Proof, SqlText
from pgrunbook.sql import outside, places, runs
from pgrunbook.sql.classify import Policy, Type
from pgrunbook.sql.places import NamedPlace
from pgrunbook.sql.secrets import fingerprint, key_of

Direction = Literal["up", "down"]
WayBack = Literal["down script", "computed", "the migration itself"]
# The key of the gate of a plan that no rehearsal has proved.
REHEARSAL = "rehearsal"
# The prefix of the gate's key for a migration without a proven way back.
WAY_BACK = "way-back:"
_CHANGES_ROWS = frozenset({"CALL", "DELETE", "DO", "INSERT", "MERGE", "SELECT", "UPDATE"})
# The kinds of statements that leave the schema as it is, whatever they reach outside of the database.
_LEAVES_SCHEMA = frozenset({
    "ALTER SUBSCRIPTION", "ALTER SYSTEM", "COPY", "CREATE SUBSCRIPTION", "CREATE TABLESPACE", "DELETE",
    "DROP SUBSCRIPTION", "DROP TABLESPACE", "INSERT", "LOAD", "MERGE", "SELECT", "TRUNCATE", "UPDATE",
})  # fmt: skip
NEW_PLAN = "Make a new plan: open notebooks/prepare.ipynb, or start a new run."
UNPROVEN_HOW = "Rehearse it on a branch, or accept that nothing is promised about its result."


class LockOn(Frozen):
    """A lock that a step takes on an object that others can see: its name as SQL needs it, the mode as in pg_locks."""

    object: str
    mode: str


class Estimate(Frozen):
    """What a step is expected to take, and what that was measured on.

    ``lock_ms`` is how long it holds a lock that readers or writers wait for. The figures of a step that reads rows
    are scaled up to the target's number of rows.
    """

    duration_ms: float
    lock_ms: float
    wal_bytes: int
    basis: str


class Step(Frozen):
    """What is sent to the server at once, and how: a statement as written, or a part of its safe form.

    ``statement`` is the number of the written statement that it stands for. ``sql`` may hold several statements.
    ``done`` and ``leftovers`` are the queries of :class:`SafeStep` for a step that runs alone. ``batches`` makes a
    step a loop of transactions. ``keeps``, ``gives_back``, ``gives_rows``, ``statements``, ``fires_triggers`` and
    ``follows`` are those of :class:`SafeStep`: a step of a run stands for its first statement, the others have none.
    """

    number: int
    statement: int
    sql: SqlText
    sha256: str
    file: str
    line: int
    kind: str
    type: Type
    policy: Policy
    objects: tuple[str, ...]
    form: str = ""
    says: str = ""
    own_transaction: bool = False
    quick: bool = False
    done: str | None = None
    leftovers: str | None = None
    batches: Batches | None = None
    keeps: tuple[Keep, ...] = ()
    gives_back: tuple[str, ...] = ()
    gives_rows: tuple[int, ...] = ()
    statements: int = 1
    fires_triggers: bool = True
    follows: tuple[str, ...] = ()
    locks: tuple[LockOn, ...] = ()
    lock_timeout_ms: int
    statement_timeout_ms: int
    estimate: Estimate | None = None

    @property
    def is_loop(self) -> bool:
        """Whether it is executed as a loop of transactions, which continues where it was interrupted."""
        return self.batches is not None or bool(self.gives_rows)

    @property
    def may_need_rows(self) -> bool:
        """Whether it changes rows in a transaction with others, and may fail where there are none."""
        return self.kind in _CHANGES_ROWS and self.policy is Policy.TOGETHER and not self.is_loop


class WrittenStatement(Frozen):
    """A statement as it stands in the file, what is executed in its place (:class:`Expansion`), and its way back.

    ``key`` is what an operator names it by: its place, ``MIGRATION:LINE``.
    """

    number: int
    sql: SqlText
    sha256: str
    key: str
    file: str
    line: int
    kind: str
    type: Type
    form: str = ""
    explains: str = ""
    cleanup: tuple[str, ...] = ()
    differs: tuple[Declared, ...] = ()
    gate: Gate | None = None
    off: str = ""
    back: Back | None = None
    same_as: str = ""

    @property
    def is_rehearsed(self) -> bool:
        """Whether a branch executes it; no branch executes what reaches outside of the database."""
        return self.gate is None or self.gate.is_rehearsed

    @property
    def named(self) -> NamedPlace:
        """What an operator may name it by."""
        return NamedPlace(self.key, self.file, places.parsed(self.key))


class HiddenText(Frozen):
    """A secret of a change that ``mask`` stands for: the field that holds it, where in its text, and the HMAC of it."""

    field: str
    at: int
    mask: str
    hmac: str


class Segment(NamedTuple):
    """Steps that are committed together; a step that runs alone or in batches is a segment of its own."""

    kind: Literal["together", "alone", "batches"]
    steps: tuple[Step, ...]


class Change(Frozen):
    """One migration in one direction: its steps, and the schema before and after it where a rehearsal has read it.

    ``ends`` says what the last transaction does with the history row: it writes or deletes it ("history row"), or
    leaves it, where a rollback takes back an unfinished migration ("begun") or only some statements ("part").
    ``takes_back`` are the statements of the migration that a rollback takes back. ``kept_bytes_estimate`` is the
    size of the undo data that it captures, -1 where that is not known. ``secrets`` are what its masked texts hide.
    """

    migration: str
    file_sha256: str
    way_back: WayBack
    proof: Proof = Proof()
    ends: Literal["history row", "begun", "part"] = "history row"
    takes_back: tuple[int, ...] = ()
    kept_bytes_estimate: int = 0
    statements: tuple[WrittenStatement, ...] = ()
    steps: tuple[Step, ...]
    schema_before: str | None = None
    schema_after: str | None = None
    secrets: tuple[HiddenText, ...] = ()

    def segments(self) -> list[Segment]:
        """Return the steps by transaction; the last one, which may be empty, also changes the history row."""
        found: list[Segment] = []
        joins = False
        for step in self.steps:
            kind: Literal["together", "alone", "batches"] = "together"
            if step.is_loop or step.policy is Policy.ALONE:
                kind = "batches" if step.is_loop else "alone"
            own = kind != "together" or step.own_transaction
            if joins and not own:
                found[-1] = Segment("together", (*found[-1].steps, step))
            else:
                found.append(Segment(kind, (step,)))
            joins = not own
        if not found or found[-1].kind != "together":
            found.append(Segment("together", ()))
        return found

    def rehearsed(self) -> Change:
        """Return the change as a branch executes it: without the steps of statements that reach outside."""
        left_out = {written.number for written in self.statements if not written.is_rehearsed}
        steps = tuple(
            step for step in self.steps if step.statement not in left_out and not outside.reaches(self.judged(step))
        )
        return self if steps == self.steps else self.model_copy(update={"steps": steps})

    def to_go_back(self, how: WayBack, proof: Proof) -> Change:
        """Return the change with its way back; of two that lead back, one is chosen."""
        by_script = how == "down script"
        written = tuple(
            one.model_copy(update={"back": one.back.model_copy(update={"by_script": by_script})}) if one.back else one
            for one in self.statements
        )
        return self.model_copy(update={"way_back": how, "proof": proof, "statements": written})

    def schema_unknown_by(self) -> list[str]:
        """Return the statements that no branch executes and that may change the schema, by place."""
        left_out = (written for written in self.statements if not written.is_rehearsed)
        return [written.key for written in left_out if written.kind not in _LEAVES_SCHEMA]

    def judged(self, step: Step) -> str:
        """Return the SQL by which a step is judged: of a run the first statement, for the others differ in values."""
        if step.statements == 1:
            return step.sql
        first = self.statements[step.statement - 1].sql
        return step.sql.partition(first)[0] + first if first in step.sql else first

    def where(self, step: Step) -> str:
        """Return where a step stands in the file: a line, or the first and the last one of a run."""
        last = self.statements[step.statement + step.statements - 2] if step.statements > 1 else step
        lines = f"line {step.line}" if last.line == step.line else f"one of lines {step.line} to {last.line}"
        return f"{step.file}, {lines}"

    def shown(self) -> list[tuple[str, WrittenStatement]]:
        """Return the statements that a person reads, each with its number: of a run the first, and all its numbers."""
        counts = {step.statement: step.statements for step in self.steps if step.statements > 1}
        found, after = [], 0
        for written in self.statements:
            count = counts.get(written.number, 1)
            if written.number > after:
                found.append((runs.numbers(written.number, count), written))
                after = written.number + count - 1
        return found

    def of_statement(self, number: int) -> list[Step]:
        """Return the steps that stand for one written statement."""
        return [step for step in self.steps if step.statement == number]


class Base(Frozen):
    """The state of the database that the plan was made for."""

    system_identifier: str
    database: str
    server_version_num: int
    schema_fingerprint: str
    history_fingerprint: str
    version: str | None


class OpenGate(NamedTuple):
    """A gate that a person has to accept before the plan is executed; ``key`` names it."""

    key: str
    migration: str
    gate: Gate


class Plan(Frozen):
    """What will be executed on which target, from which state.

    ``unproven`` says why no rehearsal on a branch has proved the plan, "" where one has. ``restore_point`` says
    whether its run makes a restore point before it is executed.
    """

    format: Literal[6] = 6
    direction: Direction
    target: str
    base: Base
    attempts: int
    rehearsed: str
    unproven: str = ""
    restore_point: bool = True
    changes: tuple[Change, ...]

    def gates(self) -> list[OpenGate]:
        """Return every gate of the plan: statements without a safe form, no way back, and a missing proof.

        A rollback decides about what it loses in a cell of its own; a gate of its plan is only what no branch executes.
        """
        found = [
            OpenGate(written.key, change.migration, written.gate)
            for change in self.changes
            for written in change.statements
            if written.gate is not None and (self.direction == "up" or not written.is_rehearsed)
        ]
        if self.direction == "up" and not self.unproven:
            found += [
                OpenGate(f"{WAY_BACK}{c.migration}", c.migration, c.proof.gate(restore_point=self.restore_point))
                for c in self.changes
                if not c.proof.proven
            ]
        if self.unproven and self.changes:
            found.insert(0, OpenGate(REHEARSAL, "", Gate("not-proven", self.unproven, "troubleshoot", UNPROVEN_HOW)))
        return found

    def named(self) -> list[NamedPlace]:
        """Return everything that an operator may name: each statement by its place, and the gates that have none."""
        there = [written.named for change in self.changes for written in change.statements]
        return [*there, *(NamedPlace(gate.key) for gate in self.gates())]

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON text, without measurements: the same for the same plan."""
        return _digest(self)

    def steps(self) -> list[tuple[Change, Step]]:
        """Return every step with its change, in the order of execution."""
        return [(change, step) for change in self.changes for step in change.steps]

    def text(self) -> str:
        """Return the text of ``plan.json``: the digest and the plan."""
        return "".join(self.parts())

    def parts(self) -> Iterator[str]:
        """Yield the text of ``plan.json`` in parts: it may hold a file of many megabytes, several times."""
        yield from _READABLE.iterencode({"digest": self.digest, "plan": _sorted(_body(self))})
        yield "\n"


def read(path: Path) -> Plan:
    """Return the plan of a ``plan.json``.

    Raises WrongInput when it cannot be read, or when its digest is not that of its text.
    """
    try:
        raw: dict[str, Any] = regular_file.read_json(path, dict)
    except WrongInput as exc:
        raise _unreadable(path, exc.detail) from exc
    wrong = {"digest", "plan"} ^ raw.keys()
    if wrong:
        raise _unreadable(path, f"It has no {min(wrong)}." if min(wrong) not in raw else f"It has a {min(wrong)}.")
    digest = raw["digest"]
    try:
        plan = Plan.model_validate(raw["plan"])
    except (ValidationError, RecursionError) as exc:
        raise _unreadable(path, " ".join(str(exc).split())[:500]) from exc
    texts = [(step.sql, step.sha256) for _, step in plan.steps()]
    texts += [(written.sql, written.sha256) for change in plan.changes for written in change.statements]
    plain = [(text, sha256) for text, sha256 in texts if not key_of(sha256)]
    if plan.digest != digest or any(fingerprint(text) != sha256 for text, sha256 in plain):
        raise WrongInput(
            f"{path.name} is not the plan that was frozen",
            detail=f"Its text has digest {plan.digest}, but it names {digest}: somebody changed it.",
            hint=NEW_PLAN,
        )
    return plan


def _unreadable(path: Path, detail: str) -> WrongInput:
    return WrongInput(f"could not read the plan {path.name}", detail=detail, hint=NEW_PLAN)


@lru_cache(maxsize=4)  # a plan is asked for it at each turn, and may hold a file of many megabytes
def _digest(plan: Plan) -> str:
    found = hashlib.sha256()
    for part in _CANONICAL.iterencode(_body(plan, measured=False)):  # in parts: a text of 20 MB stands there twice
        found.update(part.encode())
    return found.hexdigest()


def _body(plan: Plan, *, measured: bool = True) -> dict[str, Any]:
    body = plan.model_dump(mode="json")
    for change in () if measured else body["changes"]:
        del change["kept_bytes_estimate"]
        for step in change["steps"]:
            del step["estimate"]
    return body


def _sorted(value: Any) -> Any:
    """Return what JSON holds with the keys of each object in order."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(inner) for inner in value] if isinstance(value, list) else value


_READABLE = json.JSONEncoder(indent=1, ensure_ascii=False)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
