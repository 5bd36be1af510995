"""The effects of a statement: what it locks, reads, rewrites and loses, and the catalog after it."""
