"""The rehearsal: a plan executed on a branch and observed."""
