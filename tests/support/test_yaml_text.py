import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from razh.run import recipe
from razh.support import yaml_text

NAMES = [
    "1e3",
    "no",
    "on",
    "010",
    "0x10",
    "null",
    "~",
    "None",
    "1_000",
    "2024-01-01",
    "1:30",
    "a: b",
    "#a",
    "'q'",
    "a, b",
]


@settings(max_examples=40, deadline=None)
@given(st.text("0123456789eE.+-_:xon~ '\"#,[]{}&*!|>%@`", max_size=8))
def test_every_text_comes_back(text):
    data = {"data": {"protocol": text, "unseen_classes": [text]}}
    assert yaml_text.load(yaml_text.dump(data)) == data


def test_numbers_stay_numbers():
    data = {"lr": 1e-5, "big": 1e16, "count": 8, "on": True, "none": None}
    assert yaml_text.load(yaml_text.dump(data)) == data


def test_names_in_a_file_are_read_as_they_are_written():
    text = "data:\n  init_args:\n    unseen_classes: [no, 010, 1e3, ~, 2024-01-01, 1:30, 'a, b']\n    augment: no\n"
    wanted = {"unseen_classes": ["no", "010", "1e3", "~", "2024-01-01", "1:30", "a, b"], "augment": False}
    assert yaml_text.load(text) == {"data": {"init_args": wanted}}
    assert yaml.safe_load(yaml_text.with_names("options: {data.unseen_classes: [off, 007]}")) == {
        "options": {"data.unseen_classes": ["off", "007"]}
    }


@pytest.mark.parametrize("name", NAMES)
def test_names_on_a_command_line_stay_text(name):
    quoted = f'"{name}"' if set(name) & set(",'") else name
    (option,) = [o for o in recipe.expand([f"--data.unseen_classes={quoted}"]) if "unseen" in o]
    assert yaml.safe_load(option.partition("=")[2]) == [name]
    assert recipe.expand(["--config=x.yaml", option])[-1] == option  # the ranks of a run are started with it
