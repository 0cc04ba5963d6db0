"""Imported once by the process that cells are forked from: most of a small cell's time is imports."""

import importlib

from razh.support.processes import importing

NEEDED = "razh.cli.lightning_cli"

with importing(NEEDED):
    importlib.import_module(NEEDED)
