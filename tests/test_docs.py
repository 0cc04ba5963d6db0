"""The documents keep their word: links lead somewhere, options and targets exist, and nothing is too long to read."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml

from razh.cli.main import OTHER_COMMANDS, main
from razh.cli.trainer_help import TRAINER, class_options
from razh.run import recipe

ROOT = Path(__file__).parents[1]
NOW = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [*NOW, ROOT / "CHANGELOG.md"]  # which names options of the past, too
CODE = re.compile(r"^```.*?^```|^ {4}.*?$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--([A-Za-z][\w.-]*\w)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)([^`\n]*)")
VARIABLE = re.compile(r"\b([A-Z_]+)=")
OF_LAUNCHERS = {  # torchrun, srun and sbatch
    *("nnodes", "nproc_per_node", "node_rank", "master_addr", "master_port", "kill_on_bad_exit"),
    *("nodes", "ntasks_per_node", "gpus_per_node", "cpus_per_task", "time", "requeue", "signal"),
}


def text_of(document):
    return document.read_text(encoding="utf-8")


def code_in(document):
    return "\n".join(CODE.findall(text_of(document)))


def options_in(text):
    return {name.replace("-", "_") for name in OPTION.findall(text)}


def anchors(document):
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(document, link):
    """Return whether a relative link leads nowhere."""
    name, _, anchor = link.partition("#")
    target = (document.parent / name).resolve() if name else document
    return not target.exists() or bool(anchor and anchor not in anchors(target))


def help_of(*words):
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return shown.getvalue()


def options_of(kind, group):
    """Return the options of all classes that the configurations of `experiments/` name for a group."""
    files = (recipe.config_file(kind, name) for name in recipe.available(kind))
    paths = {yaml.safe_load(text_of(file))[group]["class_path"] for file in files}
    return {f"{group}.{name}" for path in paths for name in class_options(path)}


@pytest.fixture(scope="module")
def known():
    """Return all options, with underscores: those in the help of commands, of methods and data, and in benchmarks/."""
    commands = ((), ("train",), ("test",), *((command,) for command in OTHER_COMMANDS))
    shown = [help_of(*words) for words in commands]
    shown += [text_of(script) for script in (ROOT / "benchmarks").glob("*.py")]
    trainer = {f"trainer.{name}" for name in class_options(TRAINER)}
    return options_in("\n".join(shown)) | options_of("method", "model") | options_of("dataset", "data") | trainer


def test_every_link_leads_somewhere():
    links = [(path, link) for path in DOCUMENTS for link in LINK.findall(CODE.sub("", text_of(path)))]
    local = [(path, link) for path, link in links if "://" not in link]
    assert len(local) > 20
    assert not [f"{path.name}: {link}" for path, link in local if problem(path, link)]


def test_every_document_is_linked_to():
    linked = {(path.parent / link.partition("#")[0]).resolve() for path in NOW for link in LINK.findall(text_of(path))}
    assert not [str(path.relative_to(ROOT)) for path in NOW[1:] if path not in linked]


@pytest.mark.parametrize("document", NOW, ids=lambda path: path.name)
def test_every_option_exists(document, known):
    assert not options_in(code_in(document)) - known - OF_LAUNCHERS


@pytest.mark.parametrize("kind", ["method", "backbone", "dataset", "sweep", "benchmark"])
def test_every_configuration_that_is_named_exists(kind):
    shown = [code_in(path) for path in NOW] + [help_of(command) for command in OTHER_COMMANDS]
    named = {name for text in shown for name in re.findall(rf"(?:--{kind}|\b{kind.upper()})=([a-z][\w-]*)", text)}
    assert named or kind in ("sweep", "benchmark")
    assert named - {"foo", "regress"} <= {*recipe.available(kind)}  # these two are how to extend


def test_every_target_of_make_and_every_variable_exists():
    makefile = text_of(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) +\?=", makefile, re.MULTILINE))
    found = [match for path in NOW for match in MAKE.findall(code_in(path))]
    assert len(found) > 10
    assert {target for target, _ in found} <= targets
    assert {name for _, rest in found for name in VARIABLE.findall(rest)} <= variables


def test_the_documents_are_short_enough_to_be_read():
    words = [word for path in NOW[1:] for word in text_of(path).split() if any(map(str.isalnum, word))]
    assert len(words) <= 15_000
    assert len(text_of(NOW[0]).splitlines()) <= 120


def test_the_site_has_every_page():
    def pages(part):
        for value in part.values() if isinstance(part, dict) else part:
            yield from [value] if isinstance(value, str) else pages(value)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    there = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
    assert sorted(pages(nav)) == there
