"""A stand-in for `razh train` and `razh fit` that needs no training: it leaves what a run leaves behind, in no time.

It copies results from $FAKE_RESULTS/METHOD-BITS-SEED, notes every start in $FAKE_STARTS, sleeps $FAKE_SLEEP seconds
(from seed $FAKE_SLEEPER on), and fails for the method in $FAKE_FAIL, or is killed for $FAKE_KILL.
Only the standard library is imported.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def leave_result(folder, method, bits, seed):
    """Put codes.npz and metrics.json of a run into a folder, metrics.json last and whole."""
    made = Path(os.environ["FAKE_RESULTS"]) / f"{method}-{bits}-{seed}"
    shutil.copy(made / "codes.npz", folder / "codes.npz")
    shutil.copy(made / "metrics.json", folder / ".part")
    os.replace(folder / ".part", folder / "metrics.json")


def leave_fit(folder, options):
    """Write metrics.csv of a fit whose validation mAP is highest at a learning rate of 0.004."""
    best = 0.6 - abs(float(options.get("model.lr", 1e-3)) - 4e-3) * 10
    (folder / "metrics.csv").write_text(f"epoch,val/map\n0,{best - 0.1}\n1,{best}\n2,{best - 0.05}\n")
    (folder / "status.json").write_text('{"state": "finished"}')


def run(arguments):
    """Be the program of a `Runner`."""
    sys.exit(main(arguments))


def main(arguments):
    command, options = arguments[0], dict(a[2:].split("=", 1) for a in arguments[1:])
    folder = Path(options["run_dir"])
    if os.environ.get("FAKE_STARTS"):
        with open(os.environ["FAKE_STARTS"], "a") as file:
            file.write(f"{command} {folder} {os.getpid()}\n")
    sys.stdout.write(f"threads {os.environ['OMP_NUM_THREADS']} gpus {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    if options["method"] == os.environ.get("FAKE_FAIL"):
        sys.stderr.write("some words\nerror: this cannot work\n")
        return 1
    if options["method"] == os.environ.get("FAKE_KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    if int(options["seed"]) >= int(os.environ.get("FAKE_SLEEPER", 0)):
        time.sleep(float(os.environ.get("FAKE_SLEEP", 0)))
    if command == "train":
        leave_result(folder, options["method"], options["bits"], options["seed"])
    else:
        leave_fit(folder, options)
    return 0
