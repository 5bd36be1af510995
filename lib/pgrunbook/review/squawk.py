"""The findings of squawk, as hazards beside our own (https://squawkhq.com/docs/rules)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.review.hazards import design
from pgrunbook.review.hazards.rule import Hazard, Severity
from pgrunbook.sql.values_lists import shortened

TIMEOUT_S = 60

# Rules that our own rules replace, judged on the database; what ours do not report is harmless there.
SAID_BETTER: Mapping[str, tuple[str, ...]] = {
    "adding-field-with-default": ("add-column-rewrites",),
    "adding-foreign-key-constraint": ("foreign-key-validates", "foreign-key-locks-both"),
    "adding-not-nullable-field": ("set-not-null-scans", "add-column-not-null"),
    "adding-primary-key-constraint": ("key-builds-index", "add-column-checks-rows"),
    "adding-required-field": ("add-column-not-null",),
    "adding-serial-primary-key-field": ("add-column-rewrites", "key-builds-index"),
    "ban-concurrent-index-creation-in-transaction": ("concurrently-in-transaction",),
    "ban-drop-column": ("drop-column",),
    "ban-drop-table": ("drop-table",),
    "ban-truncate-cascade": ("drop-cascade",),
    "changing-column-type": ("column-type-rewrites", "column-type-rebuilds-index"),
    "constraint-missing-not-valid": ("foreign-key-validates", "check-validates"),
    "disallowed-unique-constraint": ("key-builds-index",),
    "ban-alter-domain-with-add-constraint": ("domain-constraint",),
    "ban-drop-database": ("reaches-beyond",),
    "ban-disable-trigger": ("relied-upon-goes",),
    "ban-drop-default": ("drop-default",),
    "ban-drop-domain": ("drop-used-object",),
    "ban-drop-extension": ("drop-used-object",),
    "ban-drop-function": ("drop-used-object",),
    "ban-drop-generated-expression": ("relied-upon-goes",),
    "ban-drop-schema": ("drop-used-object",),
    "ban-drop-sequence": ("drop-used-object",),
    "ban-drop-type": ("drop-used-object",),
    "ban-drop-view": ("drop-used-object",),
    "ban-revoke": ("relied-upon-goes",),
    "renaming-object": ("reaches-beyond",),
    "require-concurrent-partition-detach": ("partition-detached",),
    "ban-drop-not-null": ("drop-not-null",),
    "ban-set-schema": ("rename-table",),
    "prefer-timestamp-tz": ("timestamp-without-zone",),
    "prefer-timestamptz": ("timestamp-without-zone",),
    "renaming-column": ("rename-column",),
    "renaming-table": ("rename-table",),
    "require-concurrent-index-creation": ("index-not-concurrent",),
    "require-concurrent-index-deletion": ("drop-index-not-concurrent",),
    "require-concurrent-reindex": ("reindex-not-concurrent",),
    "require-lock-timeout": ("lock-without-timeout",),
    "require-timeout-settings": ("lock-without-timeout",),
    "transaction-nesting": ("transaction-in-file",),
}
# Advice that is wrong for us: every statement that we send has a statement_timeout, a failed file is aborted as a
# whole, and IF NOT EXISTS hides an object that exists already.
LEFT_OUT = frozenset({"prefer-robust-stmts", "require-statement-timeout"})


@dataclass(frozen=True)
class SquawkFinding:
    """A hazard and where it begins in the file: a line and a column, both counted from 1."""

    hazard: Hazard
    column: int


def program() -> Path | None:
    """Return squawk's program: the one beside this Python, else the one on the PATH; None if there is none."""
    beside = Path(sys.executable).parent / "squawk"
    found = str(beside) if beside.is_file() else shutil.which("squawk")
    return Path(found) if found else None


def findings(
    files: Sequence[tuple[str, str]],
    *,
    major: int | None = None,
    in_transaction: bool = False,
    design_rules: Collection[str] = (),
) -> list[SquawkFinding]:
    """Return what squawk finds in pairs of name and SQL, without what our own rules judge better.

    Its rules of taste count only where they are switched on.

    Returns [] if squawk is not installed or does not answer; :func:`missing` tells the first case.
    """
    found = program()
    if found is None or not files:
        return []
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for number, (name, sql) in enumerate(files):
            path = Path(folder) / f"{number:05}.sql"
            path.write_text(shortened(sql).text, encoding="utf-8")
            names[path.name] = name
        command = [str(found), "--reporter", "json"]
        command += ["--pg-version", f"{major}.0"] if major else []
        command += ["--assume-in-transaction"] if in_transaction else []
        try:
            output = subprocess.run(
                [*command, *sorted(names)], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            ).stdout
            found_by_it = json.loads(output or "[]")
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return []
    return [
        _finding(item, names[Path(item["file"]).name])
        for item in found_by_it
        if _counts(item["rule_name"], design_rules)
    ]


def missing() -> str | None:
    """Return a note with the way to install squawk, None if it is installed."""
    if program() is not None:
        return None
    return "squawk is not installed: its rules were not checked (pip install squawk-cli)"


def _counts(rule: str, design_rules: Collection[str]) -> bool:
    if rule in design.SQUAWK:
        return f"squawk-{rule}" in design_rules
    return rule not in SAID_BETTER and rule not in LEFT_OUT


def _finding(item: dict[str, object], file: str) -> SquawkFinding:
    rule = str(item["rule_name"])
    severity = Severity.ERROR if item["level"] == "Error" else Severity.WARNING
    if rule.startswith("prefer-"):
        severity = Severity.NOTE
    hazard = Hazard(
        id=f"squawk-{rule}",
        severity=severity,
        condition=str(item["message"]),
        effect=str(item["message"]),
        way_out=f"-- {item['help'] or f'https://squawkhq.com/docs/{rule}'}",
        file=file,
        line=int(str(item["line"])) + 1,
    )
    return SquawkFinding(hazard, int(str(item["column"])) + 1)
