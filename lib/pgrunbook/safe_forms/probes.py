"""Queries in the steps of safe forms: whether a step is done, what it has left behind, what cleanup drops.

Each is complete, without parameters, so that a plan can hold it as text.
"""

from __future__ import annotations

from psycopg import sql

from pgrunbook.database.queries import load
from pgrunbook.database.relations import Relation
from pgrunbook.sql.deparse import name, text


def none_of(query: str) -> str:
    """Return the query for whether another query is false."""
    return f"SELECT NOT ({query})"


def is_index_valid(schema: str, index: str) -> str:
    """Return the query for whether an index exists and is valid."""
    return _filled("is_index_valid", index=name(schema, index))


def is_there(relation: str) -> str:
    """Return the query for whether a relation exists, by its name in SQL; an index valid or not."""
    return _filled("is_relation_there", relation=relation)


def is_partition(table: str) -> str:
    """Return the query for whether a table is a partition, by its name in SQL."""
    return _filled("is_partition", relation=table)


def drop_index(schema: str, index: str) -> str:
    """Return the query for the statement that drops an index, concurrently where it is not partitioned."""
    return _filled("drop_index", index=name(schema, index))


def drop_invalid_index(schema: str, index: str) -> str:
    """Return the query for the statement that drops what an interrupted build has left.

    Source: https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
    """
    return _filled("drop_invalid_index", index=name(schema, index))


def drop_constraint(table: Relation, constraint: str) -> str:
    """Return the query for the statement that drops a constraint of the table itself, not an inherited one."""
    return _filled("drop_constraint", relation=table.sql, name=constraint)


def drop_column(table: Relation, column: str) -> str:
    """Return the query for the statement that drops a column."""
    return _filled("drop_column", relation=table.sql, name=column)


def drop_type(type_: str) -> str:
    """Return the query for the statement that drops a type, by its name in SQL."""
    return _filled("drop_type", type=type_)


def drop_not_null(table: Relation, column: str) -> str:
    """Return the query for the statement that takes NOT NULL off a column again, once no key needs it."""
    return _filled("drop_not_null", relation=table.sql, name=column)


def rebuild_if_invalid(schema: str, index: str) -> str:
    """Return the query for the statement that rebuilds an index whose DROP was interrupted."""
    return _filled("rebuild_if_invalid", index=name(schema, index))


def drop_reindex_leftovers(table: Relation) -> str:
    """Return the query for the statements that drop what an interrupted rebuild has left.

    Source: https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY
    """
    return _filled("drop_reindex_leftovers", relation=table.sql)


def finalize_detach(parent: str, partition: str) -> str:
    """Return the query for the statement that finishes an interrupted DETACH PARTITION CONCURRENTLY.

    Source: https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DETACH-PARTITION
    """
    return _filled("finalize_detach", parent=parent, relation=partition)


def _filled(query: str, **values: str) -> str:
    template = sql.SQL(load("relations")[query])
    return text(template.format(**{key: sql.Literal(value) for key, value in values.items()}))
