"""Imported where processes are forked from: a command line that has been read once is read faster by all of them."""

import contextlib
import importlib
import io

from razh.support.processes import importing

with importing("razh.cli.lightning_cli"):
    for name in ("tests.processes", "razh.cli.lightning_cli", "razh.datamodules.synthetic.data", "faiss"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        words = ["train", "--dataset=synthetic", "--method=razh", "--backbone=test-vit", "--print_config"]
        importlib.import_module("razh.cli.main").main(words)
