"""The browser: a whole release by hand in JupyterLab, with what goes wrong there; its record is that of automation."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from acting import in_transaction, run, wait_until
from browser import CHROMIUM, lab_at
from conftest import do, rows
from front_end import record, shown, states, top
from pgrunbook.config.targets import Target
from pgrunbook.record import executed_copy
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK, Run, Status
from pgrunbook.runner import runbook
from pgrunbook.seal import report, run_index, signing_key
from pgrunbook.session import acceptance, change_request

Project = Callable[..., Target]
FILES = {
    "0001_a.sql": "ALTER TABLE a ADD m int;\nALTER TABLE a RENAME n TO number",
    "0002_positive.sql": "ALTER TABLE a ADD CONSTRAINT positive CHECK (id > 0)",
}
TABLE = "CREATE TABLE a (id int PRIMARY KEY, n int); ALTER TABLE a REPLICA IDENTITY FULL"
BEFORE = f"{TABLE}; CREATE PUBLICATION sends FOR TABLE a"  # a gate for the rename

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(590),
    pytest.mark.skipif(
        CHROMIUM is None and "PGRUNBOOK_TEST_BROWSER" not in os.environ,
        reason="chromium is not installed (Debian's package chromium; .ci/run installs it)",
    ),
]


def test_a_release_by_hand_leaves_the_record_that_automation_leaves(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that is closed, an approval that lacks, a tab that is closed, a step that fails, a cell twice and out of
    order, a kernel that is restarted; the pages tell each.
    """
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(tmp_path / "signers"))
    for name in ("bob", "ann"):
        monkeypatch.setenv("PGRUNBOOK_KEY", str(tmp_path / name))
        signing_key.make(f"{name}@example.org")
    target = project(folder=FILES, lock_timeout_ms=300, attempts=100, protected=True)
    do(target, BEFORE)
    made = runbook.start("release", "demo", {"with_data": "false"})
    with lab_at(made.folder, tmp_path) as browser:
        tab = browser.open(f"{WORK}/01-prepare.ipynb")
        tab.run_all()
        tab.close()

        tab = browser.open(f"{WORK}/02-migrate.ipynb")
        tab.run("parameters", "injected-parameters", "set-up", "meet-the-target", "where-are-we", "is-it-still-so")
        assert states(record(made, "02-migrate.ipynb"))["is-it-still-so"] == "failed"  # a gate is closed
        says = browser.read(f"pgrunbook/runs/{made.run_id}")
        assert "Next: migrate: is-it-still-so" in says
        assert all(text in row_of(says, "is-it-still-so") for text in ("failed", "0001_a:2", "State: ", "Hint: "))
        acceptance.accept(made.run_id, [])
        tab.run("is-it-still-so", "take-restore-point")
        assert "this change is not approved" in shown(record(made, "02-migrate.ipynb"), "take-restore-point")
        assert "this change is not approved" in row_of(browser.read(f"pgrunbook/runs/{made.run_id}"), "take-restore-p")
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("PGRUNBOOK_KEY", str(tmp_path / "bob"))
            change_request.approve(change_request.to_approve(made.run_id), lasts=timedelta(hours=1), reason="")
        tab.run("take-restore-point")
        do(target, "INSERT INTO a VALUES (-1)")  # what the rehearsal without rows did not know
        with in_transaction(target, "LOCK TABLE a IN ACCESS SHARE MODE"):
            tab.ask("execute-plan")
            wait_until(lambda: "waiting for blockers" in executed_copy.log_of(made, "02-migrate.ipynb").read_text())
            tab.close()
        wait_until(lambda: fresh(made, "02-migrate.ipynb")["execute-plan"] == "failed")  # nobody listens any more
        says = row_of(browser.read(f"pgrunbook/runs/{made.run_id}"), "execute-plan")
        assert all(text in says for text in ("could not run step 2 of 0002_positive", "State: ", "Hint: "))

        do(target, "DELETE FROM a")
        tab = browser.open(f"{WORK}/02-migrate.ipynb")
        tab.run("execute-plan")
        tab.restart()
        tab.run(
            "parameters", "injected-parameters", "set-up", "execute-plan", "what-it-took", "where-are-we", "verdict"
        )
        tab.close()
        tab = browser.open(f"{WORK}/03-validate.ipynb")
        tab.run_all()
        assert browser.refuses("01-prepare.ipynb") == 423
        assert "done" in row_of(browser.read("pgrunbook/"), made.run_id)
        reported = browser.read(report.write(runs.load(made.folder)).as_uri())
        assert "done: release on demo" in reported
        assert all(text in reported for text in ("bob@example.org", "0001_a:2 by ", "signed with "))
        assert f"{made.run_id}\t" in browser.read(run_index.write(made.folder.parent).as_uri())
    assert (runs.load(made.folder).actual_status(), rows(target, "SELECT number, m FROM a")) == (Status.DONE, [])
    migrated = record(made, "02-migrate.ipynb")
    assert "This step is done: " in shown(migrated, "execute-plan")
    assert "<details><summary>Run 2, " in shown(migrated, "execute-plan")
    assert "<details><summary>Run 1, " in shown(migrated, "execute-plan")
    assert "could not run step 2 of 0002_positive" in shown(migrated, "execute-plan")
    assert "Cell `where-are-we`: Out of order: before it, is-it-still-so" in top(migrated)
    assert "The kernel was started 2 times." in top(migrated)

    do(target, "DROP SCHEMA pgrunbook CASCADE; DROP PUBLICATION sends; DROP TABLE a, schema_migrations")
    do(target, BEFORE)
    targets_toml = tmp_path / "targets.toml"
    targets_toml.write_text(targets_toml.read_text().replace("protected = true", "protected = true\napproval = false"))
    headless, code = run("release", accept="0001_a:2")
    assert code == 0
    for part in made.parts:
        by_hand, there = (record(one, part.notebook) for one in (made, headless))
        assert kinds(by_hand) == kinds(there), part.notebook


def kinds(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """Return each code cell with its state and the kinds of what it shows at its end."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = [[o for o in cell.outputs if o.output_type in ("execute_result", "error")][-1:] for cell in code]
    return [
        ("injected" if "injected-parameters" in cell.metadata.tags else cell.id, cell.metadata.papermill.status,
         sorted(found[0].get("data", {"error": ""})) if found else [])
        for cell, found in zip(code, last, strict=True)
    ]  # fmt: skip


def row_of(page: str, begins: str) -> str:
    """Return the row of a page that begins with a text, and the lines within it."""
    lines = page.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(begins))
    return "\n".join(
        [lines[first], *itertools.takewhile(lambda line: not re.match(r"\S+.*\t", line), lines[first + 1 :])]
    )


def fresh(made: Run, notebook: str) -> dict[str, str]:
    """Return how the cells of a record stand now."""
    executed_copy.refresh(made)
    return states(record(made, notebook))
