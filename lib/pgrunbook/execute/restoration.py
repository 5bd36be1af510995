"""The restore that a permit allows: to a point, into a new server; used by notebooks/restore.ipynb."""

from __future__ import annotations

from collections.abc import Callable

from pgrunbook.branches import recovery
from pgrunbook.branches.recovery import Restored
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server
from pgrunbook.execute.permit import Permit


def restore(source: Server, point: Point, permit: Permit, *, name: str, told: Callable[[Restored], None]) -> Restored:
    """Restore the source's past into the new server ``name``, and let ``told`` note it; the source is only read.

    Raises Refused without a permit for the point, and what ``recovery.restore`` raises.
    """
    permit.check(str(point), None)
    return recovery.restore(source, point, name=name, told=told)
