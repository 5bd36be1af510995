"""A Drizzle package's own ``db:generate``, which writes pending migrations; used by notebook prepare."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from pgrunbook.config.targets import Target
from pgrunbook.errors import StatementFailed, WrongInput
from pgrunbook.history import drizzle_config
from pgrunbook.history.files import sql_files_below

TIMEOUT_S = 300


def generate_migrations(target: Target) -> tuple[dict[str, str], dict[str, str]]:
    """Run the package's ``db:generate``; return the folder's .sql files before and after, name to text.

    Raises WrongInput without Drizzle package, node or installed packages, StatementFailed when drizzle-kit fails
    or asks a question.
    """
    package, folder = _package(target)
    before = _files(folder)
    try:
        done = subprocess.run(
            ["npm", "run", "--silent", "db:generate"], cwd=package, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise _failed(package, f"it did not finish within {TIMEOUT_S} s", "") from exc
    output = f"{done.stdout}\n{done.stderr}"
    if done.returncode:
        raise _failed(package, f"it exited with code {done.returncode}", output)
    # drizzle-kit exits with 0 when it cannot ask whether a column was renamed.
    if "Interactive prompts require a TTY" in output:
        raise _failed(package, "it asks whether something was renamed or created, and nobody can answer here", output)
    return before, _files(folder)


def _package(target: Target) -> tuple[Path, Path]:
    """Return the package and its migrations folder; the target names one of them."""
    named = target.migrations
    for package in (named, named.parent) if named else ():
        if any((package / name).is_file() for name in drizzle_config.NAMES):
            break
    else:
        raise WrongInput(
            f'target "{target.name}" has no Drizzle package to generate from',
            detail=f"There is no drizzle.config.ts in or above {named}.",
            hint="Set generate = False, or name the package's migrations folder in targets.toml.",
        )
    if "db:generate" not in _scripts(package / "package.json"):
        raise WrongInput(f"{package / 'package.json'} has no script db:generate", hint="Add it: drizzle-kit generate.")
    if shutil.which("npm") is None:
        raise WrongInput("cannot generate migrations without node", hint="Install node, or set generate = False.")
    if not (package / "node_modules").is_dir():
        raise WrongInput(f"the packages of {package} are not installed", hint=f"Run npm ci in {package}.")
    if named != package:
        return package, named or package
    return package, package / (drizzle_config.read_config(package).out or "drizzle")


def _scripts(file: Path) -> dict[str, str]:
    try:
        scripts: dict[str, str] = json.loads(file.read_text(encoding="utf-8")).get("scripts", {})
    except (OSError, ValueError, AttributeError) as exc:
        raise WrongInput(
            f"could not read {file}", detail=" ".join(str(exc).split()), hint="Correct it, or set generate = False."
        ) from exc
    return scripts


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8", errors="replace")
        for path in sql_files_below(folder)
    }


def _failed(package: Path, why: str, output: str) -> StatementFailed:
    text = " ".join(output.split())[-400:]
    return StatementFailed(
        f"could not generate migrations: {why}",
        detail=f"drizzle-kit printed: {text or 'nothing, as for most errors'}.",
        hint=f"Run npm run db:generate in {package} yourself, answer its questions, then prepare again.",
    )
