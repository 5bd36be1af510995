"""The table of a staged rollout: its key, its flag column, and the conditions that say which rows a stage is about.

A row is in a share by a hash of its key, which every server and every program computes alike: the first 32 bits of
sha256 of ``salt:key`` (the parts of a key with ``:`` between them) are below ``share / 100 * 2^32``. So whoever is in
10 % is in 50 % too, and the application can ask whether a key is in without reading the flag.

Whatever a text of ours compares is of a type whose operators are in pg_catalog, and named there: the texts run with
the names of the target, for the triggers of the application.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.plan.rollout import DeclaredRollout, RolloutStage
from pgrunbook.plan.step import RANGE

ROWS = sql.Identifier("pgrunbook", "rollout_row")


@dataclass(frozen=True)
class RolloutTable:
    """A table with the flag of a rollout; ``has_flag`` is whether the column is there.

    ``of`` is the table whose rows are rolled out, where the flag has a table of its own: a row is missing there until a
    stage needs it.
    """

    rollout: DeclaredRollout
    schema: str
    name: str
    oid: int
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    flag_type: str
    has_flag: bool
    default: str | None
    of: RolloutTable | None = None

    @property
    def identifier(self) -> sql.Identifier:
        """Its name for composed SQL."""
        return sql.Identifier(self.schema, self.name)

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.schema}.{self.name}"

    @property
    def flag(self) -> sql.Identifier:
        """The flag column of the table, which texts call t."""
        return sql.Identifier("t", self.rollout.column)

    @property
    def on(self) -> sql.Composable:
        """The value after."""
        return self._value(self.rollout.on)

    @property
    def off(self) -> sql.Composable:
        """The value before."""
        return self._value(self.rollout.off)

    def _value(self, text: str) -> sql.Composable:
        return sql.SQL("CAST({} AS {})").format(sql.Literal(text), sql.SQL(self.flag_type))

    def is_value(self, value: sql.Composable) -> sql.Composable:
        """The condition that the flag has a value."""
        return sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(self.flag, value)

    @property
    def row_key(self) -> sql.Composable:
        """The key of a row as one text, by which pgrunbook.rollout_row names it."""
        return sql.SQL("CAST(pg_catalog.json_build_array({}) AS pg_catalog.text)").format(self._parts)

    @property
    def _parts(self) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL("CAST({} AS pg_catalog.text)").format(sql.Identifier("t", column)) for column in self.key
        )

    def member(self, stage: RolloutStage, keys: Sequence[Sequence[str]] | None = None) -> sql.Composable:
        """The condition that a row is in a stage, or among these keys of its list."""
        if stage.all:
            return sql.SQL("true")
        if stage.keys is not None:
            return self._listed(stage.texts if keys is None else keys)
        hashed = sql.SQL(
            "CAST(CAST('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256("
            "pg_catalog.convert_to(pg_catalog.concat_ws(':', {}, {}), 'UTF8')), 'hex'), 1, 8) AS pg_catalog.bit(32))"
            " AS pg_catalog.int8)"
        ).format(sql.Literal(self.rollout.seed), self._parts)
        return sql.SQL("{} OPERATOR(pg_catalog.<) {}::pg_catalog.int8").format(hashed, sql.Literal(stage.bound))

    def _listed(self, keys: Sequence[Sequence[str]]) -> sql.Composable:
        if len(self.key) == 1:
            values = sql.SQL(", ").join(sql.Literal(key[0]) for key in keys)
            return sql.SQL("{} OPERATOR(pg_catalog.=) ANY (CAST(ARRAY[{}] AS {}[]))").format(
                sql.Identifier("t", self.key[0]), values, sql.SQL(self.key_types[0])
            )
        rows = [
            sql.SQL(" AND ").join(
                sql.SQL("{} OPERATOR(pg_catalog.=) CAST({} AS {})").format(
                    sql.Identifier("t", column), sql.Literal(part), sql.SQL(type_)
                )
                for column, part, type_ in zip(self.key, key, self.key_types, strict=True)
            )
            for key in keys
        ]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(sql.SQL("({})").format(row) for row in rows))

    @property
    def is_decided(self) -> sql.Composable:
        """The condition that a row of ours in pgrunbook.rollout_row, r, says: it was given the flag, or it was changed.

        Where such a row does not have the flag, somebody has taken it away: nobody gets it twice.
        """
        return sql.SQL(
            "r.rollout OPERATOR(pg_catalog.=) {} AND r.row_key OPERATOR(pg_catalog.=) {}"
            " AND r.state OPERATOR(pg_catalog.=) ANY (ARRAY['on', 'changed'])"
        ).format(sql.Literal(self.rollout.name), self.row_key)

    def write(self, stage: RolloutStage, number: int, keys: Sequence[Sequence[str]] | None = None) -> sql.Composable:
        """The statement that gives rows of a stage the flag, and notes each; it has the word for a range, or ``keys``.

        A row that has another value than that before is left, and so is one whose flag somebody has taken away.
        """
        return sql.SQL(
            "WITH changed AS (UPDATE {table} AS t SET {column} = {on} WHERE {range} AND {member} AND {is_off}"
            " AND NOT EXISTS (SELECT FROM {rows} AS r WHERE {is_decided})"
            " RETURNING {row_key} AS row_key, {is_on} AS is_on)"
            " INSERT INTO {rows} AS n (rollout, row_key, stage, state, set_at)"
            " SELECT {name}, c.row_key, {number}, 'on', pg_catalog.clock_timestamp() FROM changed AS c WHERE c.is_on"
            " ON CONFLICT (rollout, row_key)"
            " DO UPDATE SET stage = excluded.stage, state = 'on', set_at = excluded.set_at"
        ).format(
            table=self.identifier,
            column=sql.Identifier(self.rollout.column),
            on=self.on,
            range=sql.SQL(RANGE if keys is None else "true"),
            member=self.member(stage, keys),
            is_off=self.is_value(self.off),
            is_on=self.is_value(self.on),
            is_decided=self.is_decided,
            rows=ROWS,
            row_key=self.row_key,
            name=sql.Literal(self.rollout.name),
            number=sql.Literal(number),
        )

    def add_rows(self, stage: RolloutStage, keys: Sequence[Sequence[str]] | None = None) -> sql.Composable:
        """The statement that adds the rows of a stage which are missing beside the table ``of``, with the default."""
        of = self.of or self
        return sql.SQL(
            "INSERT INTO {} ({}) SELECT {} FROM {} AS t WHERE {} AND {} AND {} ON CONFLICT DO NOTHING"
        ).format(
            self.identifier, sql.SQL(", ").join(map(sql.Identifier, self.key)),
            sql.SQL(", ").join(sql.Identifier("t", column) for column in of.key), of.identifier,
            sql.SQL(RANGE if keys is None else "true"), of.member(stage, keys), self.is_missing,
        )  # fmt: skip

    @property
    def is_missing(self) -> sql.Composable:
        """The condition that a row of the table ``of``, t, has none here."""
        of = self.of or self
        pairs = sql.SQL(" AND ").join(
            sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(sql.Identifier("f", mine), sql.Identifier("t", its))
            for mine, its in zip(self.key, of.key, strict=True)
        )
        return sql.SQL("NOT EXISTS (SELECT FROM {} AS f WHERE {})").format(self.identifier, pairs)

    def take_back(self, keys: Sequence[str]) -> sql.Composable:
        """The statement that takes the flag of these rows away where they still have it; it returns their keys."""
        return sql.SQL(
            "UPDATE {} AS t SET {} = {} FROM ({}) AS d WHERE {} AND {} RETURNING {}"
        ).format(
            self.identifier, sql.Identifier(self.rollout.column), self.off, self._named(keys), self._matches,
            self.is_value(self.on), self.row_key,
        )  # fmt: skip

    def still_there(self, keys: Sequence[str]) -> sql.Composable:
        """The query for those of these rows that exist, by their keys."""
        return sql.SQL("SELECT {} FROM {} AS t, ({}) AS d WHERE {}").format(
            self.row_key, self.identifier, self._named(keys), self._matches
        )

    def missing(self, keys: Sequence[Sequence[str]]) -> sql.Composable:
        """The query for the places, from 0, of those keys that no row has."""
        rows = sql.SQL(", ").join(
            sql.SQL("({}, {})").format(
                sql.Literal(place),
                sql.SQL(", ").join(
                    sql.SQL("CAST({} AS {})").format(sql.Literal(part), sql.SQL(type_))
                    for part, type_ in zip(key, self.key_types, strict=True)
                ),
            )
            for place, key in enumerate(keys)
        )
        names = sql.SQL(", ").join(sql.Identifier(f"k{place}") for place in range(len(self.key)))
        return sql.SQL(
            "SELECT d.place FROM (VALUES {}) AS d (place, {}) WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})"
            " ORDER BY d.place"
        ).format(rows, names, self.identifier, self._matches)

    def _named(self, keys: Sequence[str]) -> sql.Composable:
        parts = [
            sql.SQL("CAST(CAST(k.row_key AS pg_catalog.json) OPERATOR(pg_catalog.->>) {} AS {}) AS {}").format(
                sql.Literal(place), sql.SQL(type_), sql.Identifier(f"k{place}")
            )
            for place, type_ in enumerate(self.key_types)
        ]
        return sql.SQL("SELECT {} FROM pg_catalog.unnest(CAST({} AS pg_catalog.text[])) AS k (row_key)").format(
            sql.SQL(", ").join(parts), sql.Literal(list(keys))
        )

    @property
    def _matches(self) -> sql.Composable:
        return sql.SQL(" AND ").join(
            sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(
                sql.Identifier("t", column), sql.Identifier("d", f"k{place}")
            )
            for place, column in enumerate(self.key)
        )
