"""Write the JSON Schemas that the package keeps, as the models say them now; run by ``make notebooks``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pgrunbook.app import json_schema

SCHEMAS = Path(json_schema.__file__).parent / "schemas"


def main() -> None:
    """Write every schema."""
    for name in get_args(json_schema.Name):
        (SCHEMAS / f"{name}.schema.json").write_text(json_schema.made(name), encoding="utf-8")


if __name__ == "__main__":
    main()
