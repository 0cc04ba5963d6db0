"""`python -m razh` and the `razh` console script."""

import sys

from razh.cli import main as run


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
