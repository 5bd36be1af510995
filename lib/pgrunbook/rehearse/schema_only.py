"""The rehearsal on empty branches: the schema of the target, without its rows; used by prepare.

It chooses the safe forms, and finds out which schema the plan ends in, which statements the server would refuse,
whether the safe plan ends in the same schema as the plain SQL, and whether each migration can be taken back. It
cannot say what depends on rows (times, locks, values).

1. On one branch the plain statements are executed, one by one. Before each one its safe form is chosen, its
   inverse is read from the catalog, and the capture of what it would destroy is planned.
2. On a second branch the plan is executed, as migrate would, each migration up, down and up again. After down the
   schema must be the one before; after the second up that of the plain statements, but for declared differences.
   Where it is not, the plain statements run once more: what differs between two runs of these is no difference.
3. Where a way back fails, the second branch is made anew, and that migration goes up only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise

import psycopg
from psycopg.pq import TransactionStatus

from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.branches import in_memory
from pgrunbook.branches.schema_branch import SchemaCopy, copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, health, schema_versions
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import Difference, diff
from pgrunbook.display import progress
from pgrunbook.draft import down, missing_rows, refills, release
from pgrunbook.draft.build import up
from pgrunbook.draft.down import DownDraft, NoWayError
from pgrunbook.draft.expected_differences import DeclaredOf, followed, is_declared, is_of_schema, named
from pgrunbook.draft.up import Drafter
from pgrunbook.errors import Refused, StatementFailed
from pgrunbook.history import History, Migration
from pgrunbook.history.state import leave_out
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.plan import Change, Step, WayBack
from pgrunbook.plan.way_back import Proof
from pgrunbook.record.journal import Journal
from pgrunbook.rehearse import copy_records
from pgrunbook.rehearse.branch_run import _limit, branch_hint, execute, journal, why
from pgrunbook.rehearse.volatile_texts import VolatileTexts


@dataclass(frozen=True)
class Rehearsal:
    """The result of a rehearsal on empty branches: the schema ``before``, and one after each change, in order.

    ``changes`` are the rehearsed changes, with safe forms where they were asked for, and with the proof of each way
    back; ``backs`` has the ways back by migration, of two the down script first. ``declared`` are the differences that
    these make by nature. ``leaves`` are what the plain SQL itself leaves behind (a constraint that it does not
    validate ...): kind, name and table of each. ``need_rows`` names the statements that an empty branch refuses, with
    its words. ``unlike`` names the objects that the branch could not copy exactly (another server version writes them
    differently); they are left out of every comparison with the target. ``is_exact`` says that the branch is of the
    target's version and there are none: only then has the target the same fingerprints.
    """

    before: Snapshot
    after: tuple[Snapshot, ...]
    unlike: tuple[tuple[str, str], ...]
    changes: tuple[Change, ...] = ()
    declared: tuple[Difference, ...] = ()
    backs: Mapping[str, Mapping[WayBack, DownDraft]] = field(default_factory=dict)
    is_exact: bool = True
    leaves: tuple[tuple[str, str, str], ...] = ()
    need_rows: tuple[str, ...] = ()

    @property
    def end(self) -> Snapshot:
        """The schema after the last change."""
        return self.after[-1] if self.after else self.before

    def with_volatile(self, objects: Sequence[tuple[str, str]]) -> Rehearsal:
        """Return it with objects whose texts differ each time: the target will have others than the branch."""
        unlike = tuple(dict.fromkeys([*self.unlike, *objects]))
        return replace(self, unlike=unlike, is_exact=self.is_exact and not objects)

    def schema_changes(self) -> list[list[Difference]]:
        """Return for each change the differences that it makes in the schema."""
        return [diff(one, other) for one, other in pairwise([self.before, *self.after])]


@in_memory.else_on_disk
def rehearse(
    target: Target,
    history: History,
    migrations: Sequence[Migration],
    read: Callable[[], Snapshot],
    conn: Connection,
    *,
    off: Mapping[str, str],
    keep: bool = True,
    prefer_down_scripts: bool = False,
) -> Rehearsal:
    """Choose the safe form of each statement, prove that all end in the same schema, and prove each way back.

    ``read`` gives the target's schema, and is called while that is dumped. ``conn`` leads to the target, whose row
    counts say what is large; ``off`` maps a statement's place to the reason for
    which its safe form is switched off. Without ``keep``, statements that destroy have no way back. A migration with a
    down script is taken back both ways, by the script alone where these are preferred.

    Raises StatementFailed for a statement that the server refuses even without rows, Refused when the safe plan
    ends in another schema, Unreachable when no empty branch can be made.
    Locks: pg_dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s.
    """
    parsed = {m.name: m.statements() for m in migrations}
    ours = bool(undo_data.to_reapply(conn, list(parsed)))
    drafter = Drafter(target, conn, migrations, parsed, off=off, keep=keep, prefer_down_scripts=prefer_down_scripts)
    here: list[Snapshot] = []
    with copy_schema(target, ours=ours, keep=True, meanwhile=lambda: here.append(read())) as schema:
        with progress.doing("executing the SQL as it is written, without rows"):
            plain = _plain(schema, history, up(target, migrations), here[-1], drafter.step)
        changes = release.with_locks([drafter.changes[m.name] for m in migrations], conn)
        proofs = _Proofs(schema, target, history, conn, {m.name: m for m in migrations}, plain)
        proofs.prefers_scripts = prefer_down_scripts
        with progress.doing("executing the plan up, down and up again, without rows"):
            after, declared = proofs.of(changes)
    backs = {c.migration: found for c in changes if (found := proofs.found(c))}
    settled = tuple(map(proofs.settled, changes))
    done = replace(plain, after=after, changes=settled, declared=declared, backs=backs)
    return done.with_volatile(proofs.volatile_objects)


def equal_schema(how: WayBack) -> str:
    """Return what is said of a way back that empty branches have proven."""
    return f"{how}: up, down and up again on an empty branch, the schema is equal each time"


def unexpected(promised: Snapshot, found: Snapshot, unlike: Sequence[tuple[str, str]]) -> list[Difference]:
    """Return where a schema differs from the promised one, without what could not be compared.

    What differs between major versions by nature is no difference.
    """
    passed_over = {tuple(pair) for pair in unlike}
    return [d for d in diff(*schema_versions.comparable(promised, found)) if (d.kind, d.name) not in passed_over]


# Called before each step of a change, and at its end without a step; says what to execute for it, "" for nothing.
_Hook = Callable[[Connection, Change, Step | None], str]


def as_written(
    schema: SchemaCopy, history: History, changes: Sequence[Change], hook: _Hook
) -> tuple[Snapshot, list[str]]:
    """Execute changes on a branch; return its schema, and what needs rows there. Raises StatementFailed."""
    with schema.branch() as branch, connect(branch, purpose="rehearses") as conn:
        _limit(conn)
        for statement in histories.prepare_table(histories.read(conn, branch)):
            conn.execute(statement)
        need_rows = [one for change in changes for one in _apply(conn, change, hook)]
        return snapshot(conn, leave_out=leave_out(history)), need_rows


def _plain(schema: SchemaCopy, history: History, changes: Sequence[Change], here: Snapshot, hook: _Hook) -> Rehearsal:
    left = leave_out(history)
    with schema.branch() as branch, connect(branch, purpose="rehearses") as conn:
        _limit(conn)
        before, there = snapshot(conn, leave_out=left), set(health.leftovers(conn))
        unlike = tuple((d.kind, d.name) for d in diff(*schema_versions.comparable(here, before)))
        if statements := histories.prepare_table(history):
            for statement in statements:
                conn.execute(statement)
            before = snapshot(conn, leave_out=left)
        after, need_rows = _after(conn, changes, hook, left)
        leaves = tuple((one.kind, one.name, one.where) for one in health.leftovers(conn) if one not in there)
    is_exact = not unlike and schema_versions.are_of_one(here, before)
    found = Rehearsal(before, tuple(after), unlike, tuple(changes), is_exact=is_exact, leaves=leaves)
    return replace(found, need_rows=tuple(need_rows))


def _after(
    conn: Connection, changes: Sequence[Change], hook: _Hook, left: Sequence[str]
) -> tuple[list[Snapshot], list[str]]:
    """Execute changes as they are written; return the schema after each, and the statements that need rows."""
    found, passed_over = [], []
    for change in changes:
        passed_over += _apply(conn, change, hook)
        found.append(snapshot(conn, leave_out=left))
    return found, passed_over


class _Proofs:
    """Executes the plan on a branch as migrate would, each migration up, down and up again."""

    def __init__(
        self,
        schema: SchemaCopy,
        target: Target,
        history: History,
        rows_conn: Connection,
        migrations: Mapping[str, Migration],
        plain: Rehearsal,
    ) -> None:
        self.schema, self.target, self.rows_conn = schema, target, rows_conn
        self.migrations, self.plain, self.left = migrations, plain, leave_out(history)
        self.prefers_scripts = False
        self.tried: dict[tuple[str, WayBack], DownDraft | str] = {}
        self.volatile: list[VolatileTexts] = []
        self.moved: list[DeclaredOf] = []

    def of(self, changes: Sequence[Change]) -> tuple[tuple[Snapshot, ...], tuple[Difference, ...]]:
        """Prove all; return the schema after each change, and the declared differences.

        Raises Refused where a schema differs from that of the plain statements.
        """
        while True:
            after: list[Snapshot] = []
            declared: dict[Difference, None] = {}
            self.moved, is_asked = [], False
            with self.schema.branch() as branch, connect(branch, purpose="rehearses") as conn, journal() as log:
                if self.schema.has_ours:
                    copy_records.copy(self.rows_conn, conn, [copy_records.KEPT])
                for number, change in enumerate(changes):
                    so_far = changes[: number + 1]
                    execute(branch, conn, histories.read(conn, branch), change, log, is_empty=True)
                    before = after[-1] if after else self.plain.before
                    if not all(
                        self._there_and_back(branch, conn, so_far, how, before, log) for how in self._untried(change)
                    ):
                        break  # the branch is in between: again from the start, without this way back
                    after.append(snapshot(conn, leave_out=self.left))
                    told = self._declared(conn, so_far, after[-1])
                    if told is None:
                        is_asked = True
                        break  # again from the start, when it is known what differs each time
                    declared.update(dict.fromkeys(told))
                else:
                    return tuple(after), tuple(declared)
            if is_asked:
                self._ask_what_is_volatile(changes)

    @property
    def volatile_objects(self) -> tuple[tuple[str, str], ...]:
        """The objects whose texts differ each time, where that was asked."""
        return tuple(dict.fromkeys(place for volatile in self.volatile for place in volatile.objects))

    def _ask_what_is_volatile(self, changes: Sequence[Change]) -> None:
        """Execute the plain statements once more, and note what differs between the two runs after each change."""
        plain = [refills.accepted(change, changes) for change in self.plain.changes]
        with self.schema.branch() as branch, connect(branch, purpose="rehearses") as conn:
            _limit(conn)
            for statement in histories.prepare_table(histories.read(conn, branch)):
                conn.execute(statement)
            again, _ = _after(conn, plain, lambda _, __, step: step.sql if step is not None else "", self.left)
        self.volatile = [VolatileTexts(*pair) for pair in zip(self.plain.after, again, strict=True)]

    def _declared(self, conn: Connection, changes: Sequence[Change], found: Snapshot) -> list[Difference] | None:
        """Return the declared differences; None where others are found, and nobody has asked what is volatile."""
        differences = diff(self.plain.after[len(changes) - 1], found)
        by_form = [declared for change in changes for one in change.statements for declared in one.differs]
        told = [*by_form, *named(conn, self.moved)]
        if (other := [d for d in differences if not is_declared(d, told)]) and not self.volatile:
            return None
        if other:
            volatile = self.volatile[len(changes) - 1]
            volatile.refuse_names(changes[-1].migration)
            differences, other = volatile.without(differences), volatile.without(other)
        if other:
            raise Refused(
                f"the safe plan of {changes[-1].migration} ends in another schema than its SQL",
                detail="; ".join(d.line() for d in other[:8]),
                state="Nothing changed in the target: this was found on a branch.",
                hint="Switch the safe form off for the statement (safe_forms_off), and report this.",
            )
        return differences

    def found(self, change: Change) -> dict[WayBack, DownDraft]:
        """Return the ways back of a migration that lead back."""
        tried = ((how, self.tried[change.migration, how]) for how in self._ways(change))
        return {how: planned for how, planned in tried if isinstance(planned, DownDraft)}

    def settled(self, change: Change) -> Change:
        """Return a change with the way back that is taken as far as the schema tells, and its proof.

        Of two, the computed one is taken where it captures: rows decide whether the script brings as much back.
        """
        found, ways = self.found(change), self._ways(change)
        reasons = {how: reason for how in ways if isinstance(reason := self.tried[change.migration, how], str)}
        if not found:
            says = "; ".join(_of(how, reason) for how, reason in reasons.items())
            return change.to_go_back(ways[0], Proof(says=says))
        captures = any(one.back and one.back.keeps for one in change.statements)
        how = list(found)[-1 if captures else 0]
        others = tuple(not_led_back(other, reason) for other, reason in reasons.items())
        return change.to_go_back(
            how, Proof(proven=True, says=equal_schema(how), differs=found[how].differs, others=others)
        )

    def _ways(self, change: Change) -> tuple[WayBack, ...]:
        if self.migrations[change.migration].down_sql is None:
            return ("computed",)
        return ("down script",) if self.prefers_scripts else ("down script", "computed")

    def _untried(self, change: Change) -> Iterator[WayBack]:
        return (how for how in self._ways(change) if (change.migration, how) not in self.tried)

    def _there_and_back(
        self, branch: Target, conn: Connection, changes: Sequence[Change], how: WayBack, before: Snapshot, log: Journal
    ) -> bool:
        """Take the last of the applied migrations down and up again; return whether the branch is where it was."""
        change, key = changes[-1], (changes[-1].migration, how)
        try:
            planned = self._planned(conn, change, how)
        except NoWayError as reason:
            self.tried[key] = str(reason)
            return True
        try:
            execute(branch, conn, histories.read(conn, branch), planned.change, log, direction="down", is_empty=True)
            found = diff(before, snapshot(conn, leave_out=self.left))
            differs = tuple(_needed([*planned.differs, *_of_forms(changes)], found))
            if other := [d.line() for d in found if not is_declared(d, differs)]:
                raise NoWayError(f"it ends in another schema: {'; '.join(other[:5])}")
            self.moved += followed(conn, differs)
            execute(branch, conn, histories.read(conn, branch), change, log, again=True, is_empty=True)
        except (NoWayError, StatementFailed) as exc:
            self.tried[key] = why(exc) if isinstance(exc, StatementFailed) else str(exc)
            return False
        self.tried[key] = replace(planned, differs=differs)
        return True

    def _planned(self, conn: Connection, change: Change, how: WayBack) -> DownDraft:
        migration = self.migrations[change.migration]
        if how == "down script":
            return down.scripted(conn, self.target, migration, rows_conn=self.rows_conn)
        takes = down.taken(change.statements, change)
        return down.computed(conn, self.target, change.migration, change.file_sha256, takes, rows_conn=self.rows_conn)


def _needed(declared: Sequence[Declared], found: Sequence[Difference]) -> Iterator[Declared]:
    """Yield what was declared, of differences of the schema only those that are there."""
    for each in dict.fromkeys(declared):
        if not is_of_schema(each) or any(is_declared(difference, [each]) for difference in found):
            yield each


def _of_forms(changes: Sequence[Change]) -> Iterator[Declared]:
    """Yield differences by safe forms that may stay when the last change is taken back; of those before it, orders."""
    found = ((change, each) for change in changes for one in change.statements for each in one.differs)
    return (
        each for change, each in found if each.kind == "column order" or (change is changes[-1] and is_of_schema(each))
    )


def not_led_back(how: WayBack, reason: str) -> str:
    """Return what is said of a way back that is not taken, because it does not lead back."""
    return f"{'its down script' if how == 'down script' else 'the computed way'} does not lead back: {reason}"


def _of(how: str, reason: str) -> str:
    return f"{how}: {reason}" if how == "down script" else reason


def _apply(conn: Connection, change: Change, hook: _Hook) -> list[str]:
    left_out: list[str] = []
    passed_over: list[str] = []
    stage = progress.current()
    for segment in change.segments():
        with conn.transaction() if segment.kind == "together" else nullcontext():
            for step in segment.steps:
                stage.how_far(f"{change.migration}, step {step.number} of {len(change.steps)}, {step.kind}")
                if text := hook(conn, change, step):
                    needs = _run(conn, change, step, text, left_out)
                    passed_over += [f"{change.statements[step.statement - 1].key}: {needs}"] if needs else []
                else:
                    left_out.append(change.statements[step.statement - 1].key)
    hook(conn, change, None)
    if conn.info.transaction_status == TransactionStatus.IDLE:
        connection.reset(conn)
        _limit(conn)
    else:  # its settings end with the transaction that the caller aborts; the way back must not see them
        connection.reset(conn)
    return passed_over


def _run(conn: Connection, change: Change, step: Step, text: str, left_out: Sequence[str]) -> str:
    """Execute a step; return the error of one that needs rows, which is passed over, "" of any other."""
    try:
        return missing_rows.execute(conn, text, step.policy)
    except psycopg.Error as exc:
        told = exc.diag.message_primary or " ".join(str(exc).split())
        raise StatementFailed(
            f"step {step.number} of {change.migration} ({step.kind}; {change.where(step)}) would fail: {told}",
            detail=exc.diag.message_detail or "It failed on an empty branch that has the target's schema.",
            state="Nothing changed in the target: it failed in a rehearsal.",
            hint=branch_hint(conn, f"{told} {exc.diag.message_detail or ''}", left_out)
            or exc.diag.message_hint
            or "Correct the migration. Where it needs rows to succeed, prepare with rehearse = False.",
        ) from exc
