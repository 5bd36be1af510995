"""A difference by nature: what a safe form or a way back ends in cannot be equal there, and that is said before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeclaredKind = Literal[
    "column order", "locality", "validity", "until contract", "sequence type", "partition index", "values",
    "recomputed", "elsewhere",
]  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """A difference by nature: its kind, the object that differs, and why, which is for people only.

    "column order": the columns of a table, a type or a statistics object come in another order. "locality": what a
    child table had only inherited is its own, too. "validity": a constraint that was NOT VALID is valid.
    "until contract": a column, or what hangs on it, lives beside another one until contract drops it.
    "sequence type": a sequence has a wider type, and the bounds of that.
    "partition index": an index of a partition has its name, its options and its comment still.
    "recomputed": the rows of a materialized view are computed again.
    "values": each row has another value in a column, which ``object`` names. "elsewhere": what no schema shows.
    ``object`` is spelt as in SQL; for locality and validity it is the relation, "" for any; for what goes with
    contract, and for partition indexes and comments on them, it is the name that a snapshot gives it.
    """

    kind: DeclaredKind
    object: str
    why: str
