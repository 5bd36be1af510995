"""The folder of assertions beside the migrations: ``verify/*.sql``; no reader of migrations looks into it."""

from __future__ import annotations

from pathlib import Path

from pgrunbook.database.assertions import Assertion
from pgrunbook.history.files import VERIFY, read_text, sql_files


def assertions(folder: Path) -> list[Assertion]:
    """Return the assertions in ``verify``, in the migrations folder or next to it; [] where there is none.

    Some tools take every folder among their migrations for a migration (Prisma): there it stands next to it.

    Raises WrongInput for what is no file, or not UTF-8.
    """
    places = [place for place in (folder / VERIFY, folder.absolute().parent / VERIFY) if place.is_dir()]
    return [
        Assertion(path.relative_to(place.parent).as_posix(), read_text(path, place))
        for place in places
        for path in sql_files(place)
    ]
