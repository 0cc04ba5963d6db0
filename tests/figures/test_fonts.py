import dataclasses
import logging
import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from razh.figures import canvas, fonts

ARC = "\u2312"  # in DejaVu Sans Mono, which comes with matplotlib, and not in DejaVu Sans
NOWHERE = "\U0010fffd"  # belongs to no script


@pytest.fixture(autouse=True)
def fresh() -> None:
    fonts.families.cache_clear()


def test_the_usual_font_does_for_names_that_it_has():
    assert fonts.families(frozenset("Häher ♂")) == ("sans-serif",)


def test_a_font_that_has_the_rest_stands_behind_the_usual_one():
    assert ARC not in map(chr, get_font(findfont(FontProperties(family=["sans-serif"]))).get_charmap())
    usual, other = fonts.families(frozenset("Ani" + ARC))
    assert usual == "sans-serif"
    assert ARC in map(chr, get_font(findfont(FontProperties(family=[other]))).get_charmap())


def test_one_font_that_has_all_is_preferred_to_two(monkeypatch):
    named = {font.name: font for font in fontManager.ttflist if fonts._plain(font)}
    have = {"STIXGeneral": "ab", "DejaVu Serif": "c", "DejaVu Sans Mono": "abc"}
    by_file = {named[name].fname: frozenset(characters) for name, characters in have.items()}
    monkeypatch.setattr(fonts, "_characters", lambda file: by_file.get(file, frozenset()))
    assert fonts.families(frozenset("abc")) == ("sans-serif", "DejaVu Sans Mono")


def test_a_font_that_is_gone_has_nothing(monkeypatch, tmp_path: Path):
    gone = dataclasses.replace(fontManager.ttflist[0], fname=str(tmp_path / "gone.ttf"), style="normal", weight=400)
    monkeypatch.setattr(fontManager, "ttflist", [gone, *fontManager.ttflist])
    assert len(fonts.families(frozenset(ARC))) == 2


def test_characters_that_no_font_has_are_warned_of_once(caplog, tmp_path: Path):
    figure = Figure()
    figure.text(0.1, 0.5, f"a{NOWHERE}")
    figure.text(0.1, 0.2, f"{NOWHERE}a")
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "a.png").write_bytes(canvas.png(figure))
    assert len(caplog.records) == 1
    assert NOWHERE in caplog.text
    assert "install a font" in caplog.text
    assert (tmp_path / "a.png").is_file()


def test_figures_are_drawn_with_it(tmp_path: Path):
    figure = Figure()
    axes = figure.subplots()
    axes.set_yticks([0, 1], labels=["Ani", ARC])
    axes.set_title("Ani")
    (tmp_path / "a.png").write_bytes(canvas.png(figure))
    label = axes.get_yticklabels()[1]
    assert list(label.get_fontfamily()) == list(fonts.families(frozenset(ARC)))
