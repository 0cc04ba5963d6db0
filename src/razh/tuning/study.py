"""Searches without a server: Optuna chooses, every trial is `razh fit` in a process of its own."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from razh.run.history import logged
from razh.support.files import replacing
from razh.support.processes import alive, cores, last_error
from razh.tuning.space import Parameter, SearchSpace, options
from razh.tuning.sweeps import Search

log = logging.getLogger(__name__)
STUDY = "study.db"
TABLE = "trials.csv"
DONE = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
FAILURES = 3  # this many in a row before any has succeeded: the fault is in what all trials share


class TrialFailedError(Exception):
    """A trial has no value; its text is the reason."""


@dataclass
class Tuner:
    """Runs trials of a search until a study has as many as were asked for.

    The study lives in `folder/study.db` (SQLite): the same call again goes on with it, and several processes may work
    on it at once. A trial's run is in `folder/trials/NUMBER`, what it printed in `NUMBER.log` beside it.

    Attributes:
        search: what is searched.
        fixed: options of `razh fit` that all trials have.
        folder: of the study.
        workers: trials at a time.
        seed: of the choices; not of the trials' own random numbers.
    """

    search: Search
    fixed: list[str]
    folder: Path
    workers: int = 1
    seed: int = 0
    _failures: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def study(self) -> optuna.Study:
        """Open the study, or make it.

        Raises:
            ValueError: the study there searches something else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        engine = {"connect_args": {"timeout": 120}}  # several processes write
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.folder / STUDY}", engine_kwargs=engine)
        study = optuna.create_study(
            study_name=self.folder.name,
            storage=storage,
            direction="maximize" if self.search.maximize else "minimize",
            load_if_exists=True,
        )
        space = {name: [p.distribution, p.facts] for name, p in self.search.space.parameters.items()}
        wanted = json.dumps({"metric": self.search.metric, "parameters": space, "options": self.fixed}, sort_keys=True)
        found = study.user_attrs.setdefault("search", None)
        if found is None:
            study.set_user_attr("search", wanted)
        elif found != wanted:
            raise ValueError(
                f"{self.folder / STUDY} holds a search of other parameters or options; pass another --study"
            )
        study.sampler = self._sampler(len(study.trials))
        return study

    def _sampler(self, drawn: int) -> Any:
        """Return what chooses; a study that goes on gets another seed, or it would draw the same again."""
        seed = self.seed + drawn
        if self.search.strategy == "grid":
            return optuna.samplers.GridSampler(grid(self.search.space), seed=self.seed)
        if self.search.strategy == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=self.workers > 1)

    def run(self, trials: int) -> optuna.Study:
        """Run trials until the study has that many, those of earlier calls included.

        Raises:
            ValueError: the first trials all failed.
        """
        study = self.study()
        self._give_up_lost(study)
        self.write_table(study)
        missing = trials - sum(trial.state in DONE for trial in study.trials)
        if missing <= 0:
            log.info("study %s has %d trials already; --trials asks for more", self.folder, len(study.trials))
            return study
        enough = optuna.study.MaxTrialsCallback(trials, states=DONE)  # other processes add to the same study
        try:
            study.optimize(
                self._trial,
                n_trials=missing,
                n_jobs=self.workers,
                catch=(TrialFailedError,),
                callbacks=[enough, self._report, self._stop_if_hopeless],
            )
        finally:  # told to stop, too
            self.write_table(study)
        if len(self._failures) >= FAILURES and not any(t.state is TrialState.COMPLETE for t in study.trials):
            raise ValueError(f"the first {len(self._failures)} trials failed, the last one of: {self._failures[-1]}")
        return study

    def _trial(self, trial: Trial) -> float:
        trial.set_user_attr("process", f"{platform.node()}:{os.getpid()}")
        values = {p.name: suggest(trial, p) for p in self.search.space.parameters.values()}
        trial.set_user_attr("values", values)
        words = [*self.search.fixed, *self.fixed, *options(values)]
        trial.set_user_attr("options", words)
        folder = self.folder / "trials" / f"{trial.number:04d}"
        folder.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "razh", "fit", "--trainer.enable_progress_bar=false", *words]
        threads = max(1, cores() // self.workers)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        for name in ("RAZH_RUN_DIR", "RAZH_RESUME", "WANDB_SWEEP_ID", "WANDB_RUN_ID"):
            environment.pop(name, None)  # a trial is a run of its own
        begun = time.perf_counter()
        with folder.with_suffix(".log").open("w", encoding="utf-8") as output:
            done = subprocess.run(
                [*command, f"--run_dir={folder}"], env=environment, stdout=output, stderr=output, check=False
            )
        trial.set_user_attr("seconds", round(time.perf_counter() - begun, 1))
        try:
            if done.returncode:
                told = last_error(folder.with_suffix(".log"))
                raise TrialFailedError(f"{told} (status {done.returncode})" if told else f"status {done.returncode}")
            return best(folder / "metrics.csv", self.search.metric, self.search.maximize)
        except TrialFailedError as failure:
            trial.set_user_attr("reason", str(failure))
            with self._lock:
                self._failures.append(str(failure))
            raise

    def _report(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Say how a trial went."""
        text = " ".join(f"{name}={value}" for name, value in chosen(trial).items())
        if trial.state is TrialState.COMPLETE:
            log.info("trial %d: %s=%.4f  %s", trial.number, self.search.metric, trial.value, text)
        else:
            log.warning("trial %d failed: %s  %s", trial.number, trial.user_attrs.get("reason", "stopped"), text)
        self.write_table(study)

    def _stop_if_hopeless(self, study: optuna.Study, _: FrozenTrial) -> None:
        if len(self._failures) >= FAILURES and not any(t.state is TrialState.COMPLETE for t in study.trials):
            study.stop()

    def _give_up_lost(self, study: optuna.Study) -> None:
        """Mark trials as failed whose process on this machine is no more: it was killed."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, _, process = str(trial.user_attrs.get("process", "")).rpartition(":")
            if host == platform.node() and process.isdigit() and not alive(int(process)):
                study.tell(trial.number, state=TrialState.FAIL)
                log.warning("trial %d was cut off; it counts as failed", trial.number)

    def write_table(self, study: optuna.Study) -> None:
        """Write `trials.csv`: a row a trial that has come to its end, as nobody could correct others after a kill."""
        with self._lock, replacing(self.folder / TABLE) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["trial", "state", self.search.metric, "seconds", "reason", *self.search.space.names])
            for trial in study.get_trials(deepcopy=False, states=DONE):
                about = trial.user_attrs
                why = about.get("reason", "stopped" if trial.state is TrialState.FAIL else "")
                params = [chosen(trial).get(name, "") for name in self.search.space.names]
                value = "" if trial.value is None else trial.value
                row = [trial.number, trial.state.name.lower(), value, about.get("seconds", ""), why]
                writer.writerow([*row, *params])


def suggest(trial: Trial, parameter: Parameter) -> Any:
    """Let Optuna choose a parameter's value."""
    name, facts = parameter.name, parameter.facts
    if parameter.choices is not None:
        return json.loads(trial.suggest_categorical(name, [json.dumps(choice) for choice in parameter.choices]))
    if parameter.distribution == "int_uniform":
        return trial.suggest_int(name, facts["min"], facts["max"])
    if "normal" in parameter.distribution:
        return parameter.at(trial.suggest_float(name, 0.0, 1.0))  # the quantile: Optuna knows no bell curve
    low, high = parameter.bounds
    return parameter.stepped(trial.suggest_float(name, low, high, log=parameter.logarithmic))


def chosen(trial: FrozenTrial) -> dict[str, Any]:
    """Return what a trial chose, as its run was given it: not as `suggest` names it to Optuna."""
    if "values" in trial.user_attrs:
        return dict(trial.user_attrs["values"])
    return {name: json.loads(value) if isinstance(value, str) else value for name, value in trial.params.items()}


def grid(space: SearchSpace) -> dict[str, list[Any]]:
    """Return every parameter's choices, as `suggest` names them to Optuna."""
    found: dict[str, list[Any]] = {}
    for parameter in space.parameters.values():
        if parameter.choices is not None:
            found[parameter.name] = [json.dumps(choice) for choice in parameter.choices]
        else:
            found[parameter.name] = list(range(parameter.facts["min"], parameter.facts["max"] + 1))
    return found


def best(path: Path, metric: str, maximize: bool) -> float:
    """Return the best epoch's value in a run's `metrics.csv`.

    Raises:
        TrialFailedError: there is none, or none that is finite.
    """
    values = logged(path, metric)
    if not values:
        raise TrialFailedError(f"no {metric} in {path}; has the split validation classes?")
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        raise TrialFailedError(f"{metric} is {values[-1]} in {path}")
    return max(finite) if maximize else min(finite)
