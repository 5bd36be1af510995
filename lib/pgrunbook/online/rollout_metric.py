"""The metric of a staged rollout: one number that a query of the operator gives, asked without a right to write."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgrunbook.database import assertions
from pgrunbook.database.assertions import Assertion
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Broken
from pgrunbook.plan.rollout import RolloutMetric


@dataclass(frozen=True)
class Measure:
    """What the metric was: its value, and whether that is where it has to be."""

    value: float
    is_ok: bool


def measure(conn: Connection, metric: RolloutMetric, *, what: str) -> Measure:
    """Ask the metric, in a transaction that is read only and aborted; ``what`` names its stage in an error.

    Raises Broken where it gives no number: an error, no row, two rows, NULL, another type, more time than it has. That
    says nothing of the feature, so nothing is taken back for it.
    Locks: AccessShareLock on what it reads.
    """
    told = assertions.check(conn, Assertion("metric", metric.query), timeout_ms=int(metric.timeout_s * 1000))
    why = told.why
    if not why and (told.rows != 1 or len(told.columns) != 1):
        why = f"it gives {told.rows} rows of {len(told.columns)} columns, and a metric is one number"
    value = math.nan
    if not why:
        try:
            value = float(told.first[0][0])
        except ValueError:
            why = f"it gives {told.first[0][0]}, and a metric is one number"
    if not why and math.isnan(value):
        why = "it gives no number (NaN)"
    if why:
        raise Broken(
            f"could not measure {what}",
            detail=f"{why}.",
            state="Its stage stays as it is; nobody knows whether the metric holds.",
            hint="Correct the query in the rollout's file, then run it again; or take the stage back: -p do=step-back",
        )
    return Measure(value, metric.is_ok(value))
