"""Exit statuses, parsers, code pages, closed pipes, and how quickly help is there."""

import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from razh.cli import main as cli
from razh.cli.main import OTHER_COMMANDS, TRAINER_COMMANDS, main
from razh.run import preemption
from razh.support import terminal
from razh.support.terminal import Parser, Status, counted, told_apart

ROOT = Path(__file__).resolve().parents[2]


def parser_of(command):
    module = importlib.import_module(f"razh.commands.{'benchmark' if command == 'ablate' else command}")
    return module._parser(command, "default") if command in ("benchmark", "ablate") else module._parser()


def test_no_help_imports_what_takes_seconds():
    code = f"""
import contextlib, io, sys
from razh.cli.main import main
for command in [[], *[[name] for name in {[*TRAINER_COMMANDS, *OTHER_COMMANDS]}]]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        main([*command, "--help"])
    assert "usage: razh " in shown.getvalue(), command
heavy = {{"torch", "lightning", "timm", "scipy", "matplotlib", "numba", "faiss", "jsonargparse", "wandb", "optuna"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_no_command_takes_abbreviations_and_all_take_both_spellings(command):
    parser = parser_of(command)
    assert isinstance(parser, Parser)
    assert not parser.allow_abbrev
    for action in parser._actions:
        action.required = False
    options = [name for name in parser._option_string_actions if name.startswith("--")]
    for name in options:
        kind = parser._option_string_actions[name]
        if kind.nargs == 0 or kind.type is int or kind.choices:
            continue
        for spelling in (f"--{name[2:].replace('_', '-')}", f"--{name[2:].replace('-', '_')}"):
            found, rest = parser.parse_known_args([f"{spelling}=1"])
            assert not rest
            assert getattr(found, kind.dest) is not None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ""),
        (["trian"], "command trian is unknown; did you mean train?"),
        (["encode"], "the following arguments are required: images, --checkpoint; `razh encode --help`"),
        (["encode", "x", "--checkpoint=y", "--worker=2"], "option --worker is unknown; did you mean --workers?"),
        (["encode", "x", "--checkpoint=y", "--workers=two"], "argument --workers: invalid int value: 'two'"),
        (
            ["search", "c.npz"],
            "there is no QUERY; give a path in the archive or an image, --describe, --text or --duplicates",
        ),
        (["evaluate"], "name one codes file, or all four arrays"),
        (["evaluate", "c.npz", "--backed=numpy"], "option --backed is unknown; did you mean --backend?"),
        (["evaluate", "c.npz", "--route=numpy"], "option --route is unknown; it is --backend now"),
        (["compare", "a.npz"], "required: SECOND.npz"),
        (["audit", "--query=a"], "required: --database"),
        (["inspect", "a", "b"], "argument b is unknown"),
        (["data"], "required: name"),
        (["reproduce"], "required: run"),
        (["report", "--wirte=x"], "did you mean --write?"),
        (["benchmark", "smoke", "--job=2"], "option --job=2 is unknown"),
        (["ablate", "smoke", "--jobs=x"], "argument --jobs: invalid int value"),
        (["tune"], "required: search"),
        (["sweep"], "no sweep is named"),
        (["train", "--bits"], "--bits has no value; write --bits=VALUE"),
        (["train", "--model.shuffled_attributes=true"], "it is model.permuted_attributes now"),
        (["train", "--measures.own_threshold=0.5"], "it is measures.positive_threshold now"),
        (["train", "--model.bitz=8"], "option model.bitz is unknown; did you mean model.bits?"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_and_status_two(arguments, told, capsys):
    assert main(arguments) == Status.USAGE == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == bool(told)


def test_every_status_is_in_the_menu_and_each_help(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for status in Status:
        assert re.search(rf"\b{status.value}\b", shown), status
    for command, status in (("encode", 3), ("audit", 4), ("reproduce", 5)):
        assert re.search(rf"exit status:[^$]*\b{status}\b", parser_of(command).format_help())


def raising(error):
    def command(_):
        raise error

    return command


def exits_behind(kind):
    try:
        raise kind
    except BaseException:
        sys.exit(1)  # as Lightning and Rich do


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (raising(KeyboardInterrupt()), 130),
        (lambda _: exits_behind(KeyboardInterrupt), 130),
        (lambda _: exits_behind(BrokenPipeError), 141),
        (raising(ValueError("no")), 1),
        (raising(BrokenPipeError("of another process")), 1),
    ],
)
def test_statuses_of_what_stops_a_command(command, status, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_dispatch", command)
    assert main(["x"]) == status
    assert capsys.readouterr().err.count("\n") <= 1


def test_a_signal_that_a_run_has_heeded_keeps_its_status(monkeypatch):
    monkeypatch.setattr(cli, "_dispatch", raising(preemption.Stopped(15)))
    with pytest.raises(SystemExit) as stop:
        main(["x"])
    assert stop.value.code == 143


def test_a_reader_that_has_gone_ends_a_command_without_a_word():
    code = "import sys; from razh.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = f"'{sys.executable}' -c '{code}' train --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("encoding", ["cp932", "latin-1", "cp1252", "cp1251", "ascii", "utf-8"])
def test_no_code_page_ends_a_command(encoding, monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="")
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["train", "--help"]) == 0
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    terminal.console().print("• ≥ × → … 漢 \udcff")
    shown.flush()
    text = shown.buffer.getvalue().decode(encoding)
    assert ("methods × bits" in text) or ("methods x bits" in text)
    assert "\\udcff" in text
    if encoding == "ascii":
        assert "* >= x -> ... \\u6f22" in text


def test_tables_have_frames_that_a_code_page_has(monkeypatch):
    from razh.retrieval.report import table

    shown = io.TextIOWrapper(io.BytesIO(), encoding="cp932", newline="")
    monkeypatch.setattr(sys, "stdout", shown)
    terminal.prepare_streams()
    terminal.console().print(table({"map": 0.5}, "– • title"), soft_wrap=False)
    shown.flush()
    assert b"\\u" not in shown.buffer.getvalue()


def test_the_next_command_is_quoted_and_goes_to_stderr(capsys):
    cli._log_to_terminal(debug=False)
    terminal.suggest("search", Path("my codes.npz"), "cats/it's.jpg")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("next: ")
    assert told.err.endswith("""razh search 'my codes.npz' 'cats/it'"'"'s.jpg'\n""")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("runs/itq/codes.npz", "runs/razh/codes.npz"), ("itq", "razh")),
        (("a/codes.npz", "b/c/codes.npz"), ("a", "b/c")),
        (("itq.npz", "razh.npz"), ("itq", "razh")),
        (("runs/cub/itq/64/seed0/codes.npz", "runs/cub/razh/64/seed1/codes.npz"), ("itq/64/seed0", "razh/64/seed1")),
        (("a.npz", "a.mat"), ("a.npz", "a.mat")),
        (("x/a.npz", "x/a.npz"), ("x/a.npz (1)", "x/a.npz (2)")),
        (("codes.npz", "other/codes.npz"), ("codes", "other/codes")),
    ],
)
def test_two_paths_are_called_by_what_differs(paths, names):
    assert told_apart(*paths) == names


def test_counts_agree_with_their_nouns():
    assert [counted(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert counted(2, "query", "queries") == "2 queries"


def test_advice_names_packages_that_exist_with_the_bounds_of_the_extras():
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    advised = []
    for file in [*(ROOT / "src/razh").rglob("*.py"), *(ROOT / "datamodules").glob("*.py")]:
        if file.name == "bootstrap.py":  # it runs in a checkout alone
            continue
        text = file.read_text(encoding="utf-8")
        assert "razh[" not in text, file
        advised += re.findall(r'pip install "([^"]+)"', text)
    assert len(advised) >= 5
    for requirement in advised:
        assert f'"{requirement}' in declared, requirement
