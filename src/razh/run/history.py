"""What was logged in each epoch of a run."""

import csv
from pathlib import Path
from typing import Any

from razh.support.files import replacing

__all__ = ["History", "logged"]


def logged(path: Path, name: str) -> list[float]:
    """Return what the epochs in a run's `metrics.csv` have under a name; nothing if there is no such file."""
    return [float(row[name]) for row in History(path).rows if row.get(name)]


class History:
    """A row an epoch, kept here and in a CSV file, which is written anew after each."""

    def __init__(self, path: Path) -> None:
        """Take the rows of an earlier process of this run, if there are any."""
        self.path, self.rows = path, list[dict[str, Any]]()
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def keep(self, epochs: int) -> None:
        """Forget the rows of epochs that are about to be run again: all but the first so many."""
        self.rows = [row for row in self.rows if int(row["epoch"]) < epochs]
        self._write()

    def add(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch."""
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns or ["epoch", "step"])
            writer.writeheader()
            writer.writerows(self.rows)
