"""The plan as data: changes, steps, and the way back of each statement."""
