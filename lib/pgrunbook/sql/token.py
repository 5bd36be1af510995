"""A token of SQL, as the scanner of PostgreSQL gives it; the search for secrets reads these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pgrunbook.sql.literals import spelled


@dataclass(frozen=True)
class Token:
    """A token of the scanner; ``name`` is what it calls it, ``escape`` what UESCAPE behind it names."""

    name: str
    text: str
    start: int
    end: int
    escape: str = "\\"

    @property
    def is_string(self) -> bool:
        """Whether it is a string constant."""
        return self.name in ("SCONST", "USCONST")

    @property
    def is_comment(self) -> bool:
        """Whether it is a comment."""
        return self.name in ("SQL_COMMENT", "C_COMMENT")

    @property
    def is_quoted_name(self) -> bool:
        """Whether it is a name in quotes: what a message quotes looks so."""
        return self.name == "UIDENT" or self.text.startswith('"')

    @property
    def is_word(self) -> bool:
        """Whether it is a name or a keyword."""
        return self.name in ("IDENT", "UIDENT") or (self.text[:1].isalpha() or self.text[:1] == "_")

    @cached_property
    def low(self) -> str:
        """What it says in lower case: a name without its quotes, a string constant without its own."""
        if self.is_string or self.is_quoted_name:
            return spelled(self.text, self.escape).says.lower()
        return self.text.lower()
