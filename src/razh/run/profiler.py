"""Where the time of a run goes, in a table that fits a terminal."""

import re

from lightning.pytorch.profilers import SimpleProfiler


class RunProfiler(SimpleProfiler):
    """Lightning's simple profiler with a short summary: the longest actions, by their bare names.

    Actions contain each other (`run_training_epoch` contains the batches), so shares do not add up to 100 %.
    """

    def __init__(self, dirpath: str | None = None, filename: str | None = None, rows: int = 20) -> None:
        """Build the profiler.

        Args:
            dirpath: folder of the summary; the terminal, if no filename is given.
            filename: of the summary.
            rows: how many actions are shown.
        """
        super().__init__(dirpath=dirpath, filename=filename)
        self.rows = rows

    def summary(self) -> str:
        """Return the table: seconds together, share of the longest, calls, milliseconds a call."""
        found = sorted(
            ((sum(times), len(times), name) for name, times in self.recorded_durations.items()), reverse=True
        )
        whole = max((seconds for seconds, _, _ in found), default=0.0)
        lines = ["where the time went:", f"{'action':<56} {'seconds':>9} {'share':>6} {'calls':>7} {'ms a call':>10}"]
        for seconds, calls, name in found[: self.rows]:
            share = seconds / whole if whole else 0.0
            short = re.sub(r"^\[\w+\]|\{.*\}", "", name)[:56]
            lines.append(f"{short:<56} {seconds:9.2f} {share:6.1%} {calls:7d} {1000 * seconds / calls:10.2f}")
        return "\n".join(lines)
