"""The draft of a release, statement by statement on a branch: safe form, way back, undo data; for prepare."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pglast import ast

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.draft import release
from pgrunbook.draft.refills import REFILL, Refills
from pgrunbook.history import Migration
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.plan.plan import Change, Step
from pgrunbook.plan.step import Expansion, Keep
from pgrunbook.plan.way_back import Back, Undo, of_undo
from pgrunbook.safe_forms import enum_form, gates
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import subcommand, tree
from pgrunbook.undo_data import FormerKeys, Site
from pgrunbook.undo_data.tables import table

NOT_KEPT = "It cannot be undone, because what it destroys is not captured: keep = False."
UNSEEN = "It cannot be undone, because it reaches outside of the database: no branch can show its way back."
SCRIPTED = "It cannot be undone alone, because nothing is captured: its down script is preferred."


class Drafter:
    """Called before each statement is executed on a branch, and at the end of each migration; fills ``changes``.

    ``conn`` leads to the target, whose rows decide what is large. Where down scripts are preferred, nothing is captured
    for a migration that has one; its computed inverses are for a migration that stops half way.
    """

    def __init__(
        self,
        target: Target,
        conn: Connection,
        migrations: Sequence[Migration],
        parsed: Mapping[str, Sequence[Statement]],
        *,
        off: Mapping[str, str],
        keep: bool,
        prefer_down_scripts: bool = False,
    ) -> None:
        self._prefers_scripts = prefer_down_scripts
        self._target, self._conn, self._parsed, self._off, self._keep = target, conn, parsed, off, keep
        self._refills = Refills(target, conn, migrations)
        self._migrations = {migration.name: migration for migration in migrations}
        self.changes: dict[str, Change] = {}
        self._branch: Connection | None = None
        self._before: frozenset[int] | None = None
        self._began_with: dict[int, Relation] = {}
        self._backs: dict[int, Back] = {}
        self._columns: set[tuple[int, str]] = set()
        self._former_keys = FormerKeys()

    def step(self, branch: Connection, change: Change, step: Step | None) -> str:
        """Draft the statement that is executed next; without a step, the migration is at its end.

        Returns what is to be executed on the branch: "" where it reaches outside of the database.
        """
        if self._branch is None:
            self._branch = branch
            self._planner = Expander(
                branch, off=self._off, batch_rows=self._target.batch_rows, rows_conn=self._conn, applied=True,
                release=[statement for name in self._migrations for statement in self._parsed[name]],
            )  # fmt: skip
            self._inverter = Inverter(branch)
            self._began_with = Facts(branch).tables()
        migration = self._migrations[change.migration]
        if step is None:
            for expansion in self._refills.end(branch, migration):
                self._planner.put(expansion, new=True)
            self._end(migration)
            return ""
        if self._before is None:
            self._before = Facts(branch).relation_oids()
        whole = self._parsed[migration.name]
        first = step.statement - 1
        run, rest = whole[first : first + step.statements], whole[first:]
        for expansion in self._refills.before(branch, migration, rest):
            self._planner.put(expansion, new=True)
        undo = self._with_former_keys(branch, self._without_own(branch, self._inverter.inverse(run[0])))
        expansion = self._refills.around(branch, migration, self._planner.expand(run[0]))
        self._planner.put(expansion)
        is_rehearsed = expansion.gate is None or expansion.gate.is_rehearsed
        if not is_rehearsed and (undo.steps or undo.of_rows):
            undo = Undo(run[0], (), because=UNSEEN)
        self._take(step.statement, migration, expansion, undo)
        self._planner.join(run)
        self._backs.update((step.statement + place, Back()) for place in range(1, len(run)))
        # What stands for rows that come back is not executed: they would meet its own.
        is_executed = expansion.steps or expansion.form == enum_form.PART
        return (expansion.same_as or step.sql) if is_rehearsed and is_executed else ""

    def _end(self, migration: Migration) -> None:
        """Make the change of a migration, each written statement with its way back; what comes back has none."""
        made = release.change(self._target, migration, self._planner.end_file())
        backs = iter(self._backs.get(number, Back()) for number in itertools.count(1))
        written = [
            one.model_copy(update={"back": Back() if one.kind == REFILL else next(backs)}) for one in made.statements
        ]
        self.changes[migration.name] = made.model_copy(update={"statements": tuple(written)})
        self._before, self._backs, self._columns, self._former_keys = None, {}, set(), FormerKeys()

    def _take(self, number: int, migration: Migration, expansion: Expansion, undo: Undo) -> None:
        """Record the way back of a statement, and replace its expansion by one that captures."""
        branch = self._branch
        assert branch is not None  # noqa: S101 - step() has set it
        if expansion.form == enum_form.PART:  # the way back of the whole is that of its first statement
            self._backs[number] = Back()
            return
        if expansion.back:
            self._backs[number] = Back(own=expansion.back, own_cleanup=expansion.back_cleanup, lossy=undo.lossy)
            return
        if undo.because or not undo.keeps:
            self._backs[number] = self._back(undo, undo.keeps)
            return
        if migration.down_sql is not None and self._prefers_scripts:
            self._backs[number] = Back(because=SCRIPTED)
            return
        site = Site(migration.name, migration.fingerprint, "up", number)
        rows = self._target.batch_rows
        kept = undo_data.with_capture(
            branch, expansion, undo, site, rows_conn=self._conn, batch_rows=rows, began_with=self._began_with
        )
        because = kept.because if self._keep else NOT_KEPT
        if because:
            self._backs[number] = Back(because=because)
            return
        self._planner.put(self._with_gate(kept.expansion))
        self._backs[number] = self._back(undo, kept.keeps)

    def _with_gate(self, expansion: Expansion) -> Expansion:
        """What is captured is not lost: the gate says how long it is kept."""
        if expansion.gate is None:
            return expansion
        return replace(expansion, gate=gates.captured(expansion.gate, self._target.keep_days))

    def _back(self, undo: Undo, keeps: Sequence[Keep]) -> Back:
        """Return a way back for the plan; a branch of another version may print it differently than the target."""
        found = of_undo(undo, keeps)
        branch = self._branch
        assert branch is not None  # noqa: S101 - step() has set it
        versions = {c.info.server_version // 10_000 for c in (branch, self._conn)}
        return found.model_copy(update={"look_again": True}) if len(versions) > 1 and not undo.because else found

    def _with_former_keys(self, branch: Connection, undo: Undo) -> Undo:
        """Return the way back with the old keys of tables that have lost theirs; note those of today before."""
        keeps = self._former_keys.named(branch, undo.keeps)
        self._former_keys.note(branch, tree(undo.statement.sql))
        by = dict(zip(undo.keeps, keeps, strict=True))
        steps = (replace(step, fills=tuple(by[keep] for keep in step.fills)) for step in undo.steps)
        return replace(undo, keeps=keeps, steps=tuple(steps))

    def _without_own(self, branch: Connection, undo: Undo) -> Undo:
        """Return the way back without rows of a table or column that the migration itself has created."""
        node = tree(undo.statement.sql)
        facts = Facts(branch)
        relation = facts.relation(node.relation) if isinstance(getattr(node, "relation", None), ast.RangeVar) else None
        if isinstance(node, ast.AlterTableStmt) and relation is not None:
            there = set(facts.columns(relation))
            added = {cmd.def_.colname for cmd in node.cmds if subcommand(cmd) == "AddColumn"}
            self._columns |= {(relation.oid, name) for name in added - there}
        if not undo.of_rows or undo.because or relation is None or self._before is None:
            return undo
        is_own = relation.oid not in self._before and len(undo.keeps) == 1
        if isinstance(node, ast.UpdateStmt):
            set_ = {(relation.oid, part.name) for part in node.targetList}
            is_own = is_own or (set_ <= self._columns and not table(branch, relation.oid).has_before_update)
        if not is_own:
            return undo
        return replace(undo, keeps=(), of_rows=False, differs=())
