"""`python -m razh` and the `razh` console script."""

import atexit
import gc
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    atexit.register(gc.freeze)  # the end of the interpreter looks for garbage in all of torch, which takes a second
    try:
        from razh.cli.main import main as run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command line can say so
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the current folder: a `yaml.py` among somebody's files would be imported
    main()
