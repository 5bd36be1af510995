"""Rows of today that violate what a rollback would restore.

They are asked for on the target itself, before a branch exists and where none may be made: ``with_data = False``, more
bytes than ``most_mb``, or a rollback that an outage does not let wait for a copy. A try on a branch, which follows
where there is one, decides about what is unknown here; but its server names one row and stops, so that an operator
who has hundreds to change would try hundreds of times. What is beside ``effects.catalog_after``, the only simulator
of a catalog, is what columns hold by then, in the terms of today's rows.
"""
