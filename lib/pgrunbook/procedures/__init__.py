"""The procedures: one module per notebook, whose public functions are the notebook's steps."""
