"""What the cells of a notebook share: the run, the target, parameters and accepted gates."""
