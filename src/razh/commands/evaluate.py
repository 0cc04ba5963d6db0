"""`razh evaluate`: exact retrieval figures of codes, from `razh` or from anywhere else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from razh.retrieval.backends import BACKENDS, choose_backend
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Evaluation, evaluate
from razh.retrieval.reading import FORMS, ReadCodes, class_list, code_warnings, read_codes
from razh.retrieval.report import group_curves, left_out, notes, table
from razh.retrieval.tasks import WORDS
from razh.support.bounds import Bits, Finite, Radius, Rank, within
from razh.support.files import given_path, write_bytes, write_json
from razh.support.terminal import Parser, Status, UsageError, console, suggest

__all__ = ["main", "read_input"]

FOREIGN = {"query_index": None, "database_index": None, "form": "auto", "bits": None, "threshold": 0.0}

_EPILOG = """\
A codes file (.npz) holds query_codes, database_codes (packed bytes), query_labels, database_labels and bits, and
optionally query_index, database_index, unseen_classes, validation_classes, class_names, fingerprint, protocol.

Other files are named one by one: .npy, .npz:key, .mat:variable, .csv, .txt. Codes may be 0/1, -1/+1, real numbers
(1 where >= threshold) or packed bytes; labels class ids, names, one-hot or multi-hot rows. What was detected is said.

examples:
  razh evaluate codes.npz --json figures.json --figure curve.png
  razh evaluate --query-codes q.npy --database-codes d.npy --query-labels ql.npy --database-labels dl.npy
  razh evaluate --query-codes c.mat:B_test --database-codes c.mat:B_base --query-labels c.mat:L_test \\
                --database-labels c.mat:L_base --unseen-classes 150-199 --cutoff 1000 5000
"""


def main(argv: list[str]) -> int:
    """Run `razh evaluate`: print the table, and write JSON, a figure or a codes file on demand.

    Args:
        argv: arguments after `razh evaluate`.

    Returns:
        0 once everything is written.

    Raises:
        FileNotFoundError: an input file is missing.
        ValueError: the input does not fit together, or an option is out of range.
        OSError: an output file cannot be written.
    """
    options = _parser().parse_args(argv)
    if options.per_query and not options.json:
        raise ValueError("--per-query needs --json: the AP of every query is written there")
    out = console()
    read = read_input(options)
    codes = read.codes
    choose_backend(options.backend)
    out.print(*read.notes, sep="\n", style="dim")
    for warning in read.warnings:
        out.print(f"warning: {warning}", style="yellow")
    result = evaluate(
        codes,
        options.cutoff,
        options.precision_at,
        options.radius,
        options.backend,
        prefix="",
        row_order=options.row_order,
    )
    title = f"{options.codes or options.query_codes}: {codes.bits} bits, {len(codes.query_codes):,} queries, "
    out.print(table(result.metrics, f"{title}{len(codes.database_codes):,} database items"), soft_wrap=False)
    for line in _remarks(result, options.cutoff):
        out.print(line, style="dim")
    _write(options, codes, result, read)
    for name, file in (("distance_figure", "distances.png"), ("json", "figures.json")):
        if not getattr(options, name):
            suggest("evaluate", *argv, f"--{name}={file}")
            break
    return Status.DONE


def read_input(options: argparse.Namespace) -> ReadCodes:
    """Return the codes that the options name, with what was understood and what looks wrong.

    Raises:
        FileNotFoundError: a file is missing.
        UsageError: neither a codes file nor the four arrays are named.
        ValueError: they do not fit together.
    """
    names = ("query_codes", "database_codes", "query_labels", "database_labels")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    if options.codes and not given:
        _check_alone(options)
        codes = Codes.load(options.codes)
        if options.unseen_classes is not None:
            unseen = class_list(options.unseen_classes, codes.class_names)
            held_out = codes.validation_classes and tuple(c for c in codes.validation_classes if c not in unseen)
            codes = replace(codes, unseen_classes=unseen, validation_classes=held_out)
        said = (
            f"codes file: packed bytes, {codes.bits} bits; labels: {'multi-hot' if codes.multi_label else 'class ids'}"
        )
        return ReadCodes(codes, (said,), tuple(code_warnings(codes)))
    if options.codes or len(given) < len(names):
        missing = ", ".join(f"--{name.replace('_', '-')}" for name in names if name not in given)
        raise UsageError(f"name one codes file, or all four arrays (missing: {missing or 'none, but a file as well'})")
    return read_codes(
        **given,
        query_index=options.query_index,
        database_index=options.database_index,
        unseen_classes=options.unseen_classes,
        form=options.form,
        bits=options.bits,
        threshold=options.threshold,
    )


def _check_alone(options: argparse.Namespace) -> None:
    """Refuse options beside a codes file that say what it says itself."""
    for name, default in FOREIGN.items():
        if getattr(options, name) != default:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} goes with --query-codes; {options.codes} says it itself, leave it out")


def _remarks(result: Evaluation, cutoffs: Sequence[int]) -> list[str]:
    """Return what a reader of the table should know."""
    remarks = [*notes(result.metrics), *left_out(cutoffs, result.sizes["database"])]
    for name, task in result.tasks.items():
        if name == "seen" and "trained" in result.tasks:  # said of its two parts
            continue
        label = f"queries of {WORDS[name]}" if name else "queries"
        if task.without_relevant:
            remarks.append(f"{task.without_relevant} {label} have no relevant database item and count 0")
        if task.self_matches:
            remarks.append(f"{task.self_matches} {label} were left out of their own ranking")
    return remarks


def _write(options: argparse.Namespace, codes: Codes, result: Evaluation, read: ReadCodes) -> None:
    if options.json:
        content = result.as_dict(codes.class_names, per_query=options.per_query)
        write_json(options.json, {"notes": read.notes, "warnings": read.warnings, **content})
    # matplotlib takes a while to import
    from razh.figures.plots import distance_figure, in_format, precision_recall_figure

    if options.figure:
        figure = precision_recall_figure(group_curves(result), f"{codes.bits} bits")
        write_bytes(options.figure, in_format(figure, options.figure.name))
    if options.distance_figure:
        task = next(iter(result.tasks.values()))
        figure = distance_figure(task.counts[:, 1], task.counts[:, 0], f"{codes.bits} bits")
        write_bytes(options.distance_figure, in_format(figure, options.distance_figure.name))
    if options.save:
        codes.save(options.save)


def _parser() -> Parser:
    parser = Parser("evaluate", "Exact, tie-aware retrieval figures of binary codes.", _EPILOG)
    parser.add_argument("codes", nargs="?", metavar="CODES.npz", help="a codes file, as `razh test` writes it")
    foreign = parser.add_argument_group("codes made elsewhere")
    for name in ("query-codes", "database-codes", "query-labels", "database-labels"):
        foreign.add_argument(f"--{name}", metavar="FILE")
    for name in ("query-index", "database-index"):
        foreign.add_argument(
            f"--{name}", metavar="FILE", help="image numbers or names; images in both never match themselves"
        )
    foreign.add_argument(
        "--unseen-classes",
        metavar="IDS|NAMES|FILE",
        help="e.g. 150-199, or zebra,okapi; figures of unseen and of seen classes apart (also with CODES.npz)",
    )
    foreign.add_argument("--form", choices=FORMS, default="auto", help="what the codes are; default: detect")
    foreign.add_argument(
        "--bits", type=int, action=within(Bits), help="code length, for packed codes that are not whole bytes"
    )
    foreign.add_argument(
        "--threshold", type=float, action=within(Finite), default=0.0,
        help="of real numbers; 0 for logits, 0.5 for probabilities",
    )  # fmt: skip
    measure = parser.add_argument_group("what to measure")
    measure.add_argument(
        "--cutoff", type=int, action=within(Rank), nargs="*", default=[5000], metavar="R",
        help="ranks of mAP@R (5000); none from the database's size on: it is mAP there",
    )  # fmt: skip
    measure.add_argument(
        "--precision-at", type=int, action=within(Rank), nargs="*", default=[100], metavar="K",
        help="ranks of precision, recall and NDCG (100; precision also 1, 10)",
    )  # fmt: skip
    measure.add_argument(
        "--radius", type=int, action=within(Radius), default=2, help="Hamming radius of precision and recall (2)"
    )
    measure.add_argument(
        "--row-order", action="store_true", help="also map_row: ties in database order, as in older papers"
    )
    measure.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="how distances are counted; never changes a figure (numba where it is installed)",
    )
    output = parser.add_argument_group("what to write")
    output.add_argument("--json", type=given_path, metavar="FILE", help="all figures, per class, and the curves")
    output.add_argument("--per-query", action="store_true", help="with --json: the AP of every query as well")
    output.add_argument("--figure", type=given_path, metavar="FILE", help="precision–recall curve, .png, .pdf or .svg")
    output.add_argument(
        "--distance-figure", type=given_path, metavar="FILE", help="distances of same-class and other-class pairs"
    )
    output.add_argument(
        "--save", type=given_path, metavar="FILE.npz", help="the codes as a codes file, e.g. for `razh compare`"
    )
    return parser
