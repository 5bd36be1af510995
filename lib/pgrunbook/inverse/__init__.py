"""The inverse of a statement: what takes it back, computed from the catalog right before it runs."""
