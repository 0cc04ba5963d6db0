"""Grids of runs: methods × bits × seeds × protocols, each cell a run in a process of its own; and their tables."""
