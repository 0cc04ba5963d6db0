"""Short options to configuration files: `--dataset=cub --bits=64` before LightningCLI reads the command line.

`--dataset`, `--method` and `--backbone` name files under `experiments/`; they are merged left to right (base, data,
method, backbone), and what follows on the command line overrides them. The other short options stand for one key each.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from razh.support.terminal import UsageError, did_you_mean, spelled
from razh.support.yaml_text import as_list

ALIASES = {
    "--bits": "--model.bits",
    "--seed": "--seed_everything",
    "--data_root": "--data.root",
    "--weights": "--model.backbone.checkpoint",
    "--ranking": "--evaluation.ranking",
}
PROFILE = ("--profile", "--trainer.profiler=razh.run.profiler.RunProfiler")
NAMES = ("--data.unseen_classes", "--data.init_args.unseen_classes")
DEFAULTS = {"dataset": "synthetic", "method": "razh"}
FOLDERS = {"dataset": "data", "method": "method", "backbone": "backbone"}


def experiments_folder() -> Path:
    """Return the folder of configuration files: the repository's, or the copy inside an installed package."""
    here = Path(__file__).resolve().parents[1]  # the package
    for folder in (here.parents[1] / "experiments", here / "experiments"):
        if (folder / "base.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no experiments/base.yaml beside {here}; install razh again, or work in its repository")


def available(kind: str) -> list[str]:
    """Return the names that `--dataset`, `--method` or `--backbone` takes."""
    return sorted(path.stem for path in (experiments_folder() / FOLDERS.get(kind, kind)).glob("*.yaml"))


def config_file(kind: str, name: str) -> Path:
    """Return the configuration file of a name.

    Raises:
        ValueError: no such file; the message lists those there are.
    """
    names = available(kind)
    if name not in names:  # a name is no path: `../x` is not looked for
        hint = did_you_mean(name, names, quote="'")
        raise ValueError(f"{kind}={name!r} is unknown; {hint}choose from {', '.join(names)}")
    return experiments_folder() / FOLDERS.get(kind, kind) / f"{name}.yaml"


def expand(arguments: list[str]) -> list[str]:
    """Return a command line for LightningCLI, with the files that the short options stand for in front.

    A command line that names files by `--config` and nothing by short options is left as it is, so that
    `--config runs/…/config.yaml` repeats a run exactly.

    Raises:
        UsageError: a short option has no value.
        ValueError: a short option names no file, or another one than a file that `--config` names, which would win.
    """
    chosen: dict[str, str] = {}
    rest: list[str] = []
    pending = iter(arguments)
    for argument in map(spelled, pending):
        key, has_value, value = argument.partition("=")
        kind = key[2:] if key.startswith("--") and key[2:] in FOLDERS else None
        if (kind or key in ALIASES or key in NAMES) and not has_value:
            value = _next_value(key, pending)
        if kind:
            chosen[kind] = value
        elif key in NAMES:
            rest.append(f"{key}={as_list(value)}")
        elif key in ALIASES:
            rest.append(f"{ALIASES[key]}={value}")
        else:
            rest.append(PROFILE[1] if argument == PROFILE[0] else argument)
    rest = [f"{a[:-4]}null" if a.startswith("--") and a.endswith("=None") else a for a in rest]  # W&B's agent writes so
    files_given = config_files(rest)
    if not chosen and files_given:
        return rest
    _refuse_contradictions(chosen, files_given)
    chosen = DEFAULTS | chosen
    if not chosen.get("backbone"):
        data = config_file("dataset", chosen["dataset"]).read_text(encoding="utf-8")
        chosen["backbone"] = yaml.safe_load(data)["backbone"]
    files = [experiments_folder() / "base.yaml", *(config_file(kind, chosen[kind]) for kind in FOLDERS)]
    names = [f"--{kind}={chosen[kind]}" for kind in FOLDERS]
    return [*(f"--config={path}" for path in files), *names, *rest]


def _next_value(key: str, pending: Iterator[str]) -> str:
    value = next(pending, None)
    if value is None:
        raise UsageError(f"{key} has no value; write {key}=VALUE")
    return value


def config_files(arguments: list[str]) -> list[str]:
    """Return the files that a command line names by `--config`."""
    found = []
    pending = iter(arguments)
    for argument in pending:
        key, has_value, value = argument.partition("=")
        if key in ("--config", "-c"):
            found.append(value if has_value else next(pending, ""))
    return found


def _refuse_contradictions(chosen: Mapping[str, str], files: list[str]) -> None:
    for file in files:
        # Those of ours are in a command line that was expanded before: ranks are started with it.
        if not Path(file).is_file() or experiments_folder().resolve() in Path(file).resolve().parents:
            continue
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue  # the parser says so
        for kind, name in chosen.items():
            there = content.get(kind) if isinstance(content, dict) else None
            if name and there not in (None, name):
                raise ValueError(f"--{kind}={name} contradicts {kind}: {there} of {file}; leave one of them out")
