"""Safe forms: statements that reach the end of a dangerous one without blocking others."""
