"""Branches: isolated copies of a database, the embedded server they live on, and recovery."""
