"""Imported where processes are forked from: a command line that has been read once is read faster by all of them."""

import contextlib
import io

from razh.cli.main import main

with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["train", "--dataset=synthetic", "--method=razh", "--backbone=test-vit", "--print_config"])
