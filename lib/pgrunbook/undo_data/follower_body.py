"""The body of the trigger function by which what was captured follows its rows; see :mod:`followers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.database.row_tracker import is_ours
from pgrunbook.undo_data.row_notes import (
    AHEAD,
    ARRIVED,
    FILE,
    GONE,
    LEAVING,
    LOST,
    PART,
    UNKNOWN,
    WATCHED,
    WRITTEN,
    comes_to,
    is_copy,
    is_of_then,
    is_watched,
    named_now,
    next_name,
    watches,
)
from pgrunbook.undo_data.tables import SCHEMA, CapturedColumn, CapturedTable, key_name

HEAD = """
#variable_conflict use_variable
DECLARE
    is_named boolean := """
# That a column, by the numbers of its table and its own, has the name of then, by its length with a dot before.
IS_NAMED = "pg_catalog.right((pg_catalog.pg_identify_object(1259, %s, %s)).identity, %s) = %L"
# What follows the condition of each column of the key.
_BODY = """;
    {variables};
    goes boolean := TG_OP = 'DELETE';
    is_ours boolean;
    is_copied boolean := false;
    this pg_catalog.text;
    leaves pg_catalog.text;
    comes pg_catalog.text;
    went pg_catalog.oid;
    leaving pg_catalog.tid[];
    there pg_catalog.text[];
    notes pg_catalog.text[];
    named pg_catalog.text[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE k.{gone} IS NULL{is_emptied};
        RETURN NULL;
    END IF;
    BEGIN
        IF is_named IS NOT TRUE THEN
            RAISE undefined_column;
        END IF;
        {old_read};
        IF TG_OP {reads_new} THEN
            {new_read};
        END IF;
    EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch OR data_exception THEN
        -- The key has another name or type by now; in a copy of the database, columns have other numbers.
        BEGIN
            notes := {noted};
            is_copied := {is_copy};
            IF is_copied THEN
                named := {names};
                IF EXISTS (
                    SELECT
                    FROM pg_catalog.unnest(named) AS n (name)
                    WHERE NOT EXISTS (SELECT
                                      FROM pg_catalog.pg_attribute AS a
                                      WHERE a.attrelid = TG_RELID AND a.attname = n.name)
                ) THEN
                    RAISE undefined_column;
                END IF;
            ELSE
                named := ARRAY({named_now});
            END IF;
            IF pg_catalog.cardinality(named) < {count} THEN
                RAISE undefined_column;
            END IF;
            {old_read_by_text};
            IF TG_OP {reads_new} THEN
                {new_read_by_text};
            END IF;
        EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch OR data_exception THEN
            INSERT INTO {side} ({gone})
            SELECT {lost} WHERE NOT EXISTS (SELECT FROM {side} AS k WHERE k.{gone} = {lost});
            RETURN NEW;
        END;
    END;
    {inserts}{watches}IF TG_OP = 'UPDATE' AND CAST(ROW({old}) AS pg_catalog.record)
        OPERATOR(pg_catalog.*=) CAST(ROW({new}) AS pg_catalog.record) THEN
        RETURN NEW;
    END IF;
    {behind}IF TG_OP = 'UPDATE' AND TG_WHEN = 'AFTER' AND EXISTS (
        SELECT FROM {side} AS k
        WHERE {at_new} AND k.{gone} IS NULL AND k.xmin::pg_catalog.text = NEW.xmin::pg_catalog.text
          AND k.cmin::pg_catalog.text = NEW.cmin::pg_catalog.text
    ) THEN
        RETURN NEW;  -- This statement is the one that captures.
    END IF;
    IF TG_WHEN = 'AFTER' THEN
        {runs_ahead}
    END IF;
    {moves}
    RETURN NEW;
END
"""
# In a copy of the database, partitions have other numbers: nobody knows which rows were in which.
_IS_EMPTIED = " AND (k.{} IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(TG_RELID) AS p) OR {})"
# A trigger of the application, which fires for one row of a statement, may change another one before we see what the
# statement did to that one.
_AHEAD = """IF TG_OP = 'UPDATE' THEN
            this := pg_catalog.concat({ahead}, pg_catalog.pg_current_xact_id(), ' ', TG_RELID, NEW.ctid);
            IF EXISTS (SELECT FROM {side} AS k WHERE k.{gone} = this) THEN
                DELETE FROM {side} AS k WHERE k.{gone} = this RETURNING {keys_of_k} INTO {new};
                goes := new_1 IS NULL;
            END IF;
        END IF;
        IF pg_catalog.pg_trigger_depth() > 1 THEN
            INSERT INTO {side} ({keys_alone}, {gone})
            SELECT {new}, pg_catalog.concat({ahead}, pg_catalog.pg_current_xact_id(), ' ', TG_RELID, OLD.ctid)
            WHERE {old_is_ours} AND NOT EXISTS (SELECT FROM {side} AS k WHERE {at_old} AND k.{gone} IS NULL);
        END IF;"""
# What was captured of rows of a partition that was detached meanwhile: nobody knows which rows these are, but for those
# that were not written since the capture.
_UNWATCHED = """UPDATE {side} AS k SET {gone} = {unknown}
    WHERE {at_old} AND k.{gone} IS NULL AND NOT {is_watched} AND NOT {is_of_then};
    """
_WATCHES = """IF TG_OP = 'UPDATE' THEN
        IF CAST(ROW({old_value}) AS pg_catalog.record)
            OPERATOR(pg_catalog.*<>) CAST(ROW({new_value}) AS pg_catalog.record) THEN
            UPDATE {side} AS k SET {gone} = {written} WHERE {at_old} AND k.{gone} IS NULL;
        END IF;
    END IF;
    """
# No index watches the key: another row may come to it. A row that changes its partition is no other.
_INSERTS = """IF TG_OP = 'INSERT' THEN
        UPDATE {side} AS k SET {gone} = {unknown}
        WHERE {at_new} AND k.{gone} IS NULL
          AND (k.{arrived} IS NULL
               OR pg_catalog.split_part(k.{arrived}, ' ', 1) <> pg_catalog.pg_current_xact_id()::pg_catalog.text);
        RETURN NULL;
    END IF;
    """
# Whoever does not see the trigger does not see what was captured either.
_BEHIND = """
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = TG_RELID AND g.tgname = TG_NAME) THEN
        RAISE serialization_failure USING MESSAGE = 'could not serialize access due to concurrent update',
            DETAIL = 'The snapshot of this transaction is older than the capture of a column of this table.';
    END IF;
    """
# A row that changes its partition: noted before, moved when it is deleted there.
_BETWEEN = """IF TG_WHEN = 'BEFORE' THEN
        UPDATE {side} AS k SET {next} = {new_row}, {leaving} = leaves WHERE {mine};
        RETURN NEW;
    END IF;
    IF goes THEN
        SELECT {next_of_k} INTO {new} FROM {side} AS k WHERE {mine} AND k.{leaving} = leaves;
        IF FOUND THEN
            BEGIN
                there := ARRAY(
                    SELECT pg_catalog.concat(t.tableoid, t.ctid) FROM {table} AS t WHERE {has_come} AND {come_is_ours});
                goes := pg_catalog.cardinality(there) = 0;
                comes := there[1];
                went := pg_catalog.split_part(comes, '(', 1);
            EXCEPTION WHEN OTHERS THEN
                goes := false;  -- The key has another name or type by now.
            END;
        END IF;
    END IF;
    """
_LEAVES = "leaves := pg_catalog.concat(pg_catalog.pg_current_xact_id(), ' ', TG_RELID, OLD.ctid);\n    "
_IN_ORDER = """{between}IF goes THEN
        UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE {at_old} AND k.{gone} IS NULL;
        RETURN NULL;
    END IF;
    -- The new key may be equal to the old one and look different: -0 and 0, 1.0 and 1.00.
    UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id()
    WHERE {at_new} AND k.{gone} IS NULL AND NOT ({at_old});
    UPDATE {side} AS k SET {keys} = {new_row}, {arrived} = pg_catalog.pg_current_xact_id(){comes_to}
    WHERE {at_old} AND k.{gone} IS NULL;"""
_DEFERRED = """is_ours := {old_is_ours};
    this := pg_catalog.pg_current_xact_id()::pg_catalog.text || ' ';
    IF TG_OP = 'UPDATE' AND TG_WHEN = 'AFTER' THEN
        this := this || NEW.cmin::pg_catalog.text || ' ';
        comes := pg_catalog.concat(TG_RELID, NEW.ctid);
    END IF;
    leaving := ARRAY(SELECT k.ctid FROM {side} AS k WHERE {at_old} AND k.{gone} IS NULL AND {is_noted});
    IF pg_catalog.cardinality(leaving) = 0 THEN
        leaving := ARRAY(
            SELECT k.ctid
            FROM {side} AS k
            WHERE {at_old} AND k.{gone} IS NULL
              AND (k.{arrived} IS NULL
                   OR NOT pg_catalog.starts_with(k.{arrived}, pg_catalog.split_part(this, ' ', 1) || ' ')
                   OR (is_ours
                       AND (goes OR TG_WHEN = 'BEFORE' OR NOT pg_catalog.starts_with(k.{arrived}, this)))));
        IF pg_catalog.cardinality(leaving) > 1 OR EXISTS (
            SELECT
            FROM {side} AS k
            WHERE k.ctid = ANY (leaving)
              AND pg_catalog.starts_with(k.{arrived}, pg_catalog.split_part(this, ' ', 1) || ' ')
        ) THEN
            IF EXISTS (SELECT FROM {side} AS k WHERE k.ctid = ANY (leaving) AND {is_version}) THEN
                leaving := ARRAY(SELECT k.ctid FROM {side} AS k WHERE k.ctid = ANY (leaving) AND {is_version});
            ELSE
                UPDATE {side} AS k SET {gone} = {unknown} WHERE k.ctid = ANY (leaving);
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    {between}IF goes THEN
        UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE k.ctid = ANY (leaving);
    ELSE
        UPDATE {side} AS k
        SET {keys} = {new_row},
            {arrived} = pg_catalog.concat(this, CASE TG_OP WHEN 'DELETE' THEN '- ' END, comes){comes_to}
        WHERE k.ctid = ANY (leaving);
    END IF;"""
_IS_VERSION = (
    "pg_catalog.starts_with(k.{arrived}, pg_catalog.split_part(this, ' ', 1) || ' ')"
    " AND pg_catalog.split_part(k.{arrived}, ' ', 3) = pg_catalog.concat(TG_RELID, OLD.ctid)"
)


@dataclass(frozen=True)
class FollowerBody:
    """What the function needs to know of the side table ``kept_as`` and of the table; see :class:`Followers`."""

    kept_as: str
    table: CapturedTable
    is_old_seen: bool
    watched: CapturedColumn | None

    @property
    def key(self) -> tuple[CapturedColumn, ...]:
        """The columns of the key."""
        return self.table.named(self.table.key)

    def whole(self) -> sql.Composable:
        """Return the body."""
        variables = {row: [sql.SQL(f"{row}_{n}") for n in range(1, len(self.key) + 1)] for row in ("old", "new")}
        side, keys = sql.Identifier(SCHEMA, self.kept_as), [sql.Identifier(key_name(n)) for n in range(len(self.key))]
        both = [*variables["old"], *variables["new"]]
        at_old = has_key(variables["old"])
        if self.table.is_partitioned:
            at_old = sql.SQL("{} AND (k.{} = TG_RELID OR is_copied)").format(at_old, sql.Identifier(PART))
        parts: dict[str, sql.Composable] = {
            "side": side, "names": sql.SQL("CAST({} AS pg_catalog.text[])").format(sql.Literal(list(self.table.key))),
            "noted": watches(self.kept_as), "is_copy": is_copy(sql.SQL("notes")),
            "named_now": named_now(sql.SQL("notes")),
            "is_emptied": sql.SQL(_IS_EMPTIED if self.table.is_partitioned else "").format(
                sql.Identifier(PART), is_copy(watches(self.kept_as))
            ),
            "gone": sql.Identifier(GONE), "arrived": sql.Identifier(ARRIVED),
            "table": self.table.name.identifier(), "lost": sql.Literal(LOST),
            "unknown": sql.Literal(UNKNOWN), "written": sql.Literal(WRITTEN),
            "ahead": sql.Literal(AHEAD), "keys_alone": sql.SQL(", ").join(keys),
            "keys_of_k": sql.SQL(", ").join(sql.SQL("k.{}").format(key) for key in keys),
            "count": sql.Literal(len(self.key)), "keys": sql.SQL("({})").format(sql.SQL(", ").join(keys)),
            "old": sql.SQL(", ").join(variables["old"]), "new": sql.SQL(", ").join(variables["new"]),
            "new_row": sql.SQL("ROW({})").format(sql.SQL(", ").join(variables["new"])),
            "at_old": at_old, "at_new": has_key(variables["new"]),
            "old_is_ours": is_ours(sql.SQL("OLD.xmin")),
            "is_version": sql.SQL(_IS_VERSION).format(arrived=sql.Identifier(ARRIVED)),
            "variables": sql.SQL(";\n    ").join(
                sql.SQL("{} {}").format(variable, column.side_type)
                for variable, column in zip(both, (*self.key, *self.key), strict=True)
            ),
        }  # fmt: skip
        for row, names in variables.items():
            parts[f"{row}_read"] = _assigned(names, [c.captured(sql.Identifier(row, c.name)) for c in self.key])
            numbered = enumerate(zip(names, self.key, strict=True), 1)
            by_text = [_read_by_name(row, n, name, column) for n, (name, column) in numbered]
            parts[f"{row}_read_by_text"] = sql.SQL(";\n            ").join(by_text)
        if self.watched is not None:
            parts["old_value"], parts["new_value"] = (sql.Identifier(row, self.watched.name) for row in ("old", "new"))
        return sql.SQL(_BODY).format(
            behind=sql.SQL(_BEHIND if self.is_old_seen else ""), moves=self._moves(variables["new"], parts),
            runs_ahead=sql.SQL(_AHEAD).format(**parts),
            reads_new=sql.SQL("<> 'DELETE'" if self.table.is_key_former else "= 'UPDATE'"),
            inserts=sql.SQL(_INSERTS if self.table.is_key_former else "").format(**parts),
            watches=sql.SQL(_WATCHES if self.watched is not None else "").format(**parts), **parts,
        )  # fmt: skip

    def _moves(self, new: Sequence[sql.SQL], parts: dict[str, sql.Composable]) -> sql.Composable:
        """Return what moves the rows of the side table, or notes them as gone."""
        is_deferrable = self.table.is_key_deferrable
        moves = sql.SQL(_DEFERRED if is_deferrable else _IN_ORDER)
        if not self.table.is_partitioned:
            return moves.format(between=sql.SQL(""), is_noted=sql.SQL("false"), comes_to=sql.SQL(""), **parts)
        here = sql.SQL("CASE WHEN TG_OP = 'UPDATE' THEN TG_RELID ELSE went END")
        comes = sql.SQL(", {}").format(comes_to(here, sql.SQL("TG_NAME")))
        names = [sql.Identifier(next_name(n)) for n in range(len(self.key))]
        has_come = [
            sql.SQL("{} {} {}").format(sql.Identifier("t", column.name), sql.SQL(operator), column.reverted(value))
            for column, operator, value in zip(self.key, self.table.operators, new, strict=True)
        ]
        mine = sql.SQL("k.ctid = ANY (leaving)" if is_deferrable else "{at_old} AND k.{gone} IS NULL").format(**parts)
        noted = sql.SQL(_BETWEEN).format(
            mine=mine, leaving=sql.Identifier(LEAVING), next=sql.SQL("({})").format(sql.SQL(", ").join(names)),
            next_of_k=sql.SQL(", ").join(sql.SQL("k.{}").format(name) for name in names),
            has_come=sql.SQL(" AND ").join(has_come), come_is_ours=is_ours(sql.SQL("t.xmin")), **parts,
        )  # fmt: skip
        is_noted = sql.SQL("TG_WHEN = 'AFTER' AND k.{} = leaves").format(sql.Identifier(LEAVING))
        unwatched = sql.SQL(_UNWATCHED).format(
            is_watched=is_watched(self.kept_as, "k", {WATCHED, FILE}),
            is_of_then=is_of_then(self.kept_as, "k", (), sql.SQL("OLD.xmin")),
            **parts,
        )
        return sql.SQL(_LEAVES) + unwatched + moves.format(between=noted, is_noted=is_noted, comes_to=comes, **parts)


def has_key(values: Sequence[sql.Composable]) -> sql.Composable:
    """Return the condition that a row of the side table (alias k) has this key."""
    pairs = [sql.SQL("k.{} = {}").format(sql.Identifier(key_name(n)), value) for n, value in enumerate(values)]
    return sql.SQL(" AND ").join(pairs)


def _read_by_name(row: str, number: int, variable: sql.Composable, column: CapturedColumn) -> sql.Composable:
    """Return the assignment of a key's column that has another name now; JSON has other texts for arrays and rows."""
    if column.is_of_application:
        read = "EXECUTE pg_catalog.format('SELECT pg_catalog.concat(($1).%I)', named[{}]) INTO {} USING {}"
        return sql.SQL(read).format(sql.Literal(number), variable, sql.SQL(row))
    read = "{} := CAST(pg_catalog.to_jsonb({}) ->> named[{}] AS {})"
    return sql.SQL(read).format(variable, sql.SQL(row), sql.Literal(number), column.side_type)


def _assigned(names: Sequence[sql.Composable], values: Sequence[sql.Composable]) -> sql.Composable:
    pairs = zip(names, values, strict=True)
    return sql.SQL(";\n            ").join(sql.SQL("{} := {}").format(name, value) for name, value in pairs)
