"""Runbooks as Jupyter notebooks, for changing a PostgreSQL database safely."""

__version__ = "0.4.0"
