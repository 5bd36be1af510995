"""What the cells of a notebook find out for those after them; a cell that was left out is named, not a KeyError."""

from __future__ import annotations

from typing import Any, Never

from pgrunbook.errors import Refused

_ROLLBACK = {
    **dict.fromkeys(("history", "version_before", "plan", "loses"), "what-goes-back"),
    "restore_point": "take-restore-point", "results": "take-back", "version_after": "schema-as-before",
}  # fmt: skip
# The cell that finds out each fact, by procedure.
CELLS: dict[str, dict[str, str]] = {
    "prepare": {
        "history": "what-is-pending",
        **dict.fromkeys(("schema", "changes", "rehearsed", "ahead"), "make-it-safe"),
        **dict.fromkeys(("plan", "gates"), "freeze-the-plan"),
    },
    "migrate": {
        **dict.fromkeys(("history", "plan", "version_before"), "is-it-still-so"),
        "restore_point": "take-restore-point", "results": "execute-plan", "version_after": "where-are-we",
    },
    "rollback": _ROLLBACK,
    "purge": dict.fromkeys(("found", "goes"), "what-is-captured"),
    "troubleshoot": {"found": "what-is-wrong", "seen": "what-is-wrong", "done": "set-up"},
    "monitor": dict.fromkeys(("samples", "concerns", "given"), "watch"),
    "validate": {
        "problems": "set-up", "promise": "meet-the-target",
        **dict.fromkeys(("history_folder", "history_table", "applied"), "schema-as-promised"),
        "queries": "queries-as-fast",
    },
    "restore": {
        "alive": "meet-the-target", **dict.fromkeys(("made", "points"), "what-can-be-restored"),
        "point": "choose-the-point", **dict.fromkeys(("restored", "restored_target"), "restore-to-branch"),
        "salvage": "what-to-salvage",
    },
    "contract": {**dict.fromkeys(("found", "accepted"), "what-is-still-double"), "proven": "do-they-agree"},
    "backfill": {
        **dict.fromkeys(("made", "order", "capture", "end"), "plan-the-batches"), "looked_at": "look-at-the-rows",
        **dict.fromkeys(("filled", "throttle"), "fill-the-rows"), "in_sync": "keep-in-sync", "proven": "prove-it",
    },
    "rollout": dict.fromkeys(("rollout", "table"), "plan-the-stages"),
    "swap": {"work": "what-hangs"},
    "drill": {"alive": "meet-the-target", "restored": "what-was-restored"},
}  # fmt: skip


class CellFacts(dict[str, Any]):
    """The facts of one notebook by name. Reading one that no cell has found out raises Refused."""

    def __init__(self, procedure: str = "") -> None:
        super().__init__()
        self._procedure = procedure

    def __missing__(self, name: str) -> Never:
        cell = CELLS.get(self._procedure, {}).get(name, "set-up")
        raise Refused(
            f'cell "{cell}" has to be run before this one',
            detail=f"It finds out what this cell needs ({name.replace('_', ' ')}), and was not run to its end since "
            "the kernel started.",
            state="This cell changed nothing.",
            hint=f'Run cell "{cell}", then this cell again; after a restart of the kernel, all cells from the top.',
        )
