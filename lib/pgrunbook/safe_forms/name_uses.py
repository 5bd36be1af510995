"""Functions and views whose text uses a name that is about to change; for the gates of renames."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgrunbook.database.relations import Relation
from pgrunbook.display.prose import listed
from pgrunbook.safe_forms.form import Case

MOST_TOLD = 6


def told(case: Case, name: str, relation: Relation | None = None, column: str = "") -> str:
    """Return what a gate adds: the functions whose text has the name, and the views over it; "" where there is none.

    The text of a function is found by its words, so a function may use another object of that name. For a column the
    function also names its table, or is a trigger of it.
    """
    words = [name] if not column or relation is None else [name, relation.name]
    oid = None if relation is None else relation.oid
    functions = case.facts.rows(
        "functions_with_words", word=word(words[0]), other=word(words[-1]), table=oid if column else None
    )
    views = case.facts.rows("views_over", oid=oid, column=column) if oid is not None else []
    return "".join([_part("function", functions), _part("view", views)])


def _part(kind: str, rows: Iterable[dict[str, object]]) -> str:
    names = [str(row["name"]) for row in rows]
    if not names:
        return ""
    many = "s" if len(names) > 1 else ""
    verb = "uses" if len(names) == 1 else "use"
    how = f"{verb} it in {'its' if len(names) == 1 else 'their'} text" if kind == "function" else "keeps the old name"
    how = how if kind == "function" or len(names) == 1 else "keep the old name"
    return f"; {kind}{many} {listed(names, MOST_TOLD)} {how}"


def word(name: str) -> str:
    """Return the regular expression of a name as a word of its own."""
    return rf"(^|[^[:alnum:]_$]){re.escape(name)}($|[^[:alnum:]_$])"
