"""Rows of today that violate what a way back would restore."""
