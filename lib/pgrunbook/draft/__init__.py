"""The making of a plan: the steps for each statement, up and down."""
