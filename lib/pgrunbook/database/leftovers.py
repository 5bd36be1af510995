"""What crashed changes left behind, ours and other people's: found, explained, with the statement that removes it.

What a living session works on is no leftover, and is told as such. Nothing is removed here: ``execute.removal`` does
that, one at a time, after it has looked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql

from pgrunbook.database import foreign_code, health, locks, queries, shadows, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.display.units import human
from pgrunbook.errors import Refused

Kind = Literal[
    "invalid index", "constraint not validated", "sequence behind its column", "sequence not checked",
    "partition half detached", "prepared transaction", "replication slot", "temporary table", "of another tool",
    "helper of a run",
]  # fmt: skip
_TOOLS = {
    "pg_repack": "Run DROP EXTENSION pg_repack CASCADE; CREATE EXTENSION pg_repack; that is its own way to clean up.",
    "pg_osc": "Where no pg-online-schema-change works, drop the trigger first, then its tables.",
    "pgroll": "Run pgroll rollback, or pgroll complete: a migration of it is not finished.",
    "reshape": "Run reshape abort, or reshape complete: a migration of it is not finished.",
    "gh-ost": "It is a copy, or the rows from before the swap: look at it before it is dropped.",
}
LONG_PREPARED_S = 60.0
FILL = "~pgrunbook_fill_"  # how the name of a backfill's trigger begins


@dataclass(frozen=True)
class Remnant:
    """Something left behind: ``statement`` removes it, "" where that is nobody's to do without knowing more.

    ``why`` says what it is and what it costs as long as it is there; ``loses`` what goes with it. ``busy`` names who
    works on it: then it is no leftover.
    """

    kind: Kind
    name: str
    where: str
    why: str
    loses: str = "nothing"
    statement: str = ""
    busy: str = ""

    @property
    def key(self) -> str:
        """What names it and nothing else: its kind and its name, and its table where names are of one table only."""
        of_table = self.kind in ("constraint not validated", "of another tool", "helper of a run") and self.where
        return f"{self.kind}: {self.name}" + (f" of {self.where}" if of_table else "")


def remnants(conn: Connection) -> list[Remnant]:
    """Return what is left behind in this database; [] when all is well. Locks: AccessShareLock, as ``health`` does."""
    return [
        *_indexes(conn),
        *_unvalidated(conn),
        *(
            Remnant(
                "partition half detached", row["name"], row["where_"],
                "DETACH PARTITION CONCURRENTLY was cut off: queries pass over its rows, and nobody can attach another",
                statement=f"ALTER TABLE {row['where_']} DETACH PARTITION {row['name']} FINALIZE",
            )
            for row in queries.rows(conn, "leftovers", "detaching")
        ),
        *_prepared(conn),
        *(
            Remnant(
                "replication slot", row["name"], row["where_"],
                f"nobody reads it, and it keeps {human(row['bytes'])} of WAL on the disk, more each hour",
                loses="its reader has to begin anew",
                statement=f"SELECT pg_catalog.pg_drop_replication_slot({_quoted(row['name'])})",
            )
            for row in queries.rows(conn, "leftovers", "slots")
        ),
        *(
            Remnant(
                "temporary table", row["name"], "", "its session is gone, and it keeps old transaction ids in use",
                statement=f"DROP TABLE {row['name']}",
            )
            for row in queries.rows(conn, "leftovers", "temporary")
        ),
        *(
            Remnant(
                "of another tool", f"{row['kind']} {row['name']}", row["where_"],
                f"{row['tool']} makes it for the time of its change. {_TOOLS[row['tool']]}",
                busy=f"process {row['worked_on_by']} works with it" if row["worked_on_by"] else "",
            )
            for row in queries.rows(conn, "leftovers", "of_tools")
        ),
        *helpers(conn),
    ]  # fmt: skip


def _indexes(conn: Connection) -> Iterator[Remnant]:
    for row in queries.rows(conn, "leftovers", "indexes"):
        yield Remnant(
            "invalid index", row["name"], row["where_"], _why(row), statement=_remedy(row),
            busy=f"process {row['built_by']} builds it" if row["built_by"]
            else f"process {row['worked_on_by']} works with it" if row["worked_on_by"] else "",
        )  # fmt: skip


def _why(row: Mapping[str, Any]) -> str:
    if row["is_partitioned"]:
        return "it is valid when each partition has its part: build what is missing CONCURRENTLY, and ATTACH it"
    size = f"every write keeps it up to date, and no query uses it ({human(row['bytes'])})"
    return f"a REINDEX CONCURRENTLY was cut off; {size}" if row["is_of_reindex"] else size


def _remedy(row: Mapping[str, Any]) -> str:
    """Return what mends an index without a lock that blocks others; one of a constraint is built anew."""
    if row["is_partitioned"]:
        return ""
    if row["is_of_constraint"] or row["is_part"] or (row["is_of_toast"] and not row["is_of_reindex"]):
        return f"REINDEX INDEX CONCURRENTLY {row['name']}"
    return f"DROP INDEX CONCURRENTLY {row['name']}"


def helpers(conn: Connection) -> Iterator[Remnant]:
    """Yield what a safe form of ours has left: a run takes its helpers away, unless it was cut off.

    What lives beside a column until contract is no leftover.
    """
    try:
        wanted = {one.name for one in shadows.objects(conn, shadows.read(conn))}
    except Refused:
        wanted = set()  # somebody else's schema has the name of ours, which is told as such: its registry counts not
    rows = [row for row in queries.rows(conn, "leftovers", "helpers") if row["full_name"] not in wanted]
    if not rows:
        return
    run = locks.run_in_progress(conn, able=True)
    half = next((one for way in ("up", "down") for one in step_log.unfinished(conn, way)), None)
    for row in rows:
        why, statement = "a safe form of a run that is over has left it: nothing needs it", row["statement"]
        if half is not None:
            why = (
                f"{half.migration} is half done and may need it: pgrunbook run --resume {half.run_id}, or roll it back"
            )
        elif FILL in row["name"]:
            why = (
                "a backfill has left it, or lets it stay (leave_in_sync): it fills columns of whatever is written; its"
                " run goes on with pgrunbook run --resume, or takes it away too with do=abandon and of_run, its run"
            )
        elif not statement:
            why = "a safe form has left it, with values of rows: compare it with the column it stands for, then drop it"
        yield Remnant(
            "helper of a run", f"{row['kind']} {row['name']}", row["table_name"], why,
            statement="" if half else statement, busy=f"{run} executes a run" if run else "",
        )  # fmt: skip


def _unvalidated(conn: Connection) -> Iterator[Remnant]:
    foreign = foreign_code.reached(conn)
    found = queries.rows(conn, "leftovers", "validations")
    of_others = {(row["name"], row["where_"]) for row in found if not foreign.isdisjoint(row["objects"])}
    for one in health.leftovers(conn):
        match one.kind:
            case "constraint not validated":
                why = "new rows obey it, old ones were never checked, and the planner does not rely on it"
                statement = one.advice.rstrip(";")
                if (one.name, one.where) in of_others:
                    why += "; to validate it runs code of another role with our rights: let the table's owner do it"
                    statement = ""
                yield Remnant("constraint not validated", one.name, one.where, why, statement=statement)
            case "sequence behind its column":
                statement, _, why = one.advice.partition("; ")
                yield Remnant("sequence behind its column", one.name, one.where, why.rstrip("."), statement=statement)
            case "sequence not checked":
                yield Remnant("sequence not checked", one.name, one.where, one.advice)


def _prepared(conn: Connection) -> Iterator[Remnant]:
    for row in queries.rows(conn, "leftovers", "prepared"):
        if row["age_s"] >= LONG_PREPARED_S:
            yield Remnant(
                "prepared transaction", row["name"], f"of {row['where_']}",
                f"it holds its locks for {row['age_s']:.0f} s, and keeps VACUUM from removing rows",
                loses="all that it has written; COMMIT PREPARED keeps it: its coordinator knows which",
                statement=f"ROLLBACK PREPARED {_quoted(row['name'])}",
            )  # fmt: skip


def _quoted(text: str) -> str:
    return sql.quote(text)
