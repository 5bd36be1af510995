"""What tests of renames share: a rename in its safe form, executed step by step on a target."""

from __future__ import annotations

from collections.abc import Callable

from conftest import connect
from pgrunbook.config.targets import Target
from pgrunbook.database import step_log
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms import rename_column
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import statements


def rename(
    target: Target, statement: str, *, is_back: bool = False, before: Callable[[SafeStep], object] = lambda _: None
) -> Expansion:
    """Execute a rename in its safe form; ``before`` is called before each step."""
    with connect(target, purpose="test") as conn:
        step_log.create(conn)
        expander = Expander(conn, batch_rows=50, is_back=is_back)
        (written,) = statements.parse(statement, "0001_rename.sql", "0001_rename")
        found = expander.expand(written)
        assert found.form == (rename_column.BACK if is_back else rename_column.FORM), found.gate
        for number, step in enumerate(found.steps):
            before(step)
            if step.batches is not None:
                run_batches(conn, step.batches, resume_from=f"{statement} {number}")
            else:
                conn.execute(step.sql.encode())
        conn.execute("DELETE FROM pgrunbook.batch")
    return found
