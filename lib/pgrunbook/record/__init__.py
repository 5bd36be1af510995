"""The record of a run: its folder, its journal, and the engine that runs its notebooks."""
