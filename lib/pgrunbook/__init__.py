"""Runbooks as Jupyter notebooks, for changing a PostgreSQL database safely."""

__version__ = "0.2.0"
