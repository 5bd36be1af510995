"""What a statement locks, reads, rewrites and loses, and the catalog after it."""
