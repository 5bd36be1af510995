"""Safe forms: statements that reach the same end as a dangerous one without blocking others."""
