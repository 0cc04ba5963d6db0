import inspect

import pytest
import yaml
from lightning.pytorch import Trainer

from razh.benchmark.grid import grid_file, read_grid
from razh.cli.parse_errors import parameters
from razh.run.recipe import available, config_file

SMALL = {"methods": ["itq", "ce"], "bits": [16, 32], "seeds": [0, 1]}


@pytest.fixture
def write(tmp_path):
    def make(**content):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **content}))
        return path

    return make


def test_cells_are_the_product_of_the_axes_with_whole_tables_first(write):
    grid = read_grid(write(protocols=["ps", "unseen-20%"]))
    cells = list(grid.cells())
    assert len(cells) == len({cell.key for cell in cells}) == 2 * 2 * 2 * 2
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8
    assert cells[0].key == ("itq", "ps", 16, 0)
    assert {cell.dataset for cell in cells} == {"synthetic"}
    assert {cell.backbone for cell in cells} == {"tiny"}


def test_options_go_from_common_to_protocol_to_method(write):
    path = write(
        options={"model.lr": 1.0, "trainer.max_epochs": 1},
        protocols=[{"name": "other classes", "options": {"data.protocol": "unseen-20%", "data.split_seed": 3}}],
        methods=["ce", {"name": "fast", "method": "ce", "options": {"model.lr": 2.0}}],
    )
    plain, fast = (c for c in read_grid(path, options={"trainer.max_epochs": 5}).cells() if (c.bits, c.seed) == (16, 0))
    assert fast.key == ("fast", "other classes", 16, 0)
    common = {"trainer.max_epochs": 5, "data.protocol": "unseen-20%", "data.split_seed": 3}
    assert plain.options == {"model.lr": 1.0, **common}
    assert fast.options == {"model.lr": 2.0, **common}


def test_a_protocol_without_options_is_the_data_sets_own(write):
    assert read_grid(write(protocols=["comae"])).protocols[0].options == {"data.protocol": "comae"}
    assert read_grid(write(), dataset="cifar10").protocols[0].name == "cifar-8-2"


def test_splits_are_protocols_of_their_own(write):
    first, *drawn = read_grid(write(protocols=["ps", {"splits": "unseen-20%", "seeds": [4, 1]}])).protocols
    assert first.options == {"data.protocol": "ps"}
    assert [protocol.name for protocol in drawn] == ["unseen-20% split 4", "unseen-20% split 1"]
    assert [protocol.options for protocol in drawn] == [
        {"data.protocol": "unseen-20%", "data.split_seed": seed} for seed in (4, 1)
    ]


def test_splits_have_options_that_stand_in_their_names(write):
    entry = {"splits": "unseen-20%", "seeds": [4, 1], "options": {"data.setting": "both"}}
    drawn = read_grid(write(protocols=[entry])).protocols
    assert [protocol.name for protocol in drawn] == [
        "unseen-20% split 4 setting=both",
        "unseen-20% split 1 setting=both",
    ]
    assert drawn[1].options == {"data.protocol": "unseen-20%", "data.split_seed": 1, "data.setting": "both"}


def test_the_backbone_of_the_file_belongs_to_its_data_set(write):
    path = write(dataset="cub", backbone="lite0-frozen")
    assert read_grid(path).backbone == "lite0-frozen"
    assert read_grid(path, dataset="synthetic").backbone == "tiny"
    assert read_grid(path, dataset="synthetic", backbone="test-vit").backbone == "test-vit"


def test_narrowing_takes_rows_of_the_file_and_other_methods(write):
    grid = read_grid(write(methods=["itq", {"name": "mine", "method": "ce", "options": {"model.lr": 2.0}}]))
    narrow = grid.narrowed(["mine", "razh"], [8], [4], ["unseen-20%"])
    assert [(m.name, m.method) for m in narrow.methods] == [("mine", "ce"), ("razh", "razh")]
    assert [cell.key for cell in narrow.cells()] == [("mine", "unseen-20%", 8, 4), ("razh", "unseen-20%", 8, 4)]
    assert next(narrow.cells()).options["model.lr"] == 2.0
    assert narrow.tuning[0].name == "ps"  # the setting of tuning stays
    with pytest.raises(ValueError, match="methods names 'itq' twice"):
        grid.narrowed(["itq", "itq"])
    with pytest.raises(ValueError, match="bits=0 must be a whole number from 1 to 1,024"):
        grid.narrowed(bits=[0])
    with pytest.raises(ValueError, match="seeds=-1 must be a whole number from 0"):
        grid.narrowed(seeds=[-1])
    with pytest.raises(ValueError, match=r"method='itk' is unknown.*rows of this benchmark: itq, mine"):
        grid.narrowed(["itk"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": ["itq"]}, r"unknown key 'method'; did you mean 'methods'\?"),
        ({"methods": []}, "methods is .*must be a list with something in it"),
        ({"methods": ["itk"]}, "method='itk' is unknown"),
        ({"methods": ["ce", {"name": "ce"}]}, "methods names 'ce' twice"),
        ({"methods": [{"name": "a", "method": "ce", "options": {"lr": 1}}]}, "options of a names 'lr'.*with dots"),
        ({"methods": [{"nam": "a"}]}, "unknown key 'nam'"),
        ({"methods": [{"name": "ce, slow", "method": "ce"}]}, "methods names 'ce, slow'; leave the comma out"),
        ({"protocols": [{"name": "a,b"}]}, "protocols names 'a,b'; leave the comma out"),
        ({"protocols": [{"splits": "unseen-20%"}]}, "seeds is None, but must be a list"),
        (
            {"protocols": [{"splits": "unseen-20%", "seeds": ["x"]}]},
            "splits of unseen-20%: seeds='x' must be a whole number",
        ),
        ({"protocols": [{"draws": "unseen-20%", "seeds": [1]}]}, "unknown key 'draws'; it is splits now"),
        ({"bits": [0]}, "bits=0 must be a whole number from 1 to 1,024"),
        ({"bits": ["64"]}, "bits='64' must be a whole number"),
        ({"bits": [8, 8]}, "bits names 8 twice"),
        ({"bits": [64, 2048]}, "bits=2048 must be a whole number from 1 to 1,024"),
        ({"methods": ["ce", {"name": "ce*", "method": "ce"}]}, r"methods names 'ce' and 'ce\*', which would share"),
        ({"methods": ["ce", {"name": "CE", "method": "ce"}]}, "methods names 'ce' and 'CE', which would share"),
        ({"protocols": [{"name": "a b"}, {"name": "a_b"}]}, "protocols names 'a b' and 'a_b', which would share"),
        ({"seeds": [-1]}, "seeds=-1 must be"),
        ({"seeds": [0, 2**32]}, "seeds=4294967296 must be"),
        ({"dataset": "cup"}, "dataset='cup' is unknown"),
        ({"protocols": [{"name": "x", "options": {"model.lr": 1}}]}, "option model.lr is none of the data"),
        ({"reference": "razh"}, "reference='razh' is not among the methods itq, ce"),
        ({"metric": "map"}, "metric='map' is no key"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(write, content, message):
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{message}"):
        read_grid(write(**content))


def test_files_are_found_by_name_or_path(write, tmp_path):
    assert grid_file("smoke").name == "smoke.yaml"
    assert grid_file(str(write())) == tmp_path / "mine.yaml"
    with pytest.raises(ValueError, match=r"'smok' is unknown; did you mean 'smoke'\?"):
        grid_file("smok")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"bad\.yaml is no YAML"):
        read_grid(tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", available("benchmark"))
def test_every_benchmark_names_options_that_its_methods_have(name):
    grid = read_grid(grid_file(name))
    assert "/" not in "".join(str(value) for value in grid.options.values())  # no path of a machine
    for method in (m for m in grid.methods if m.options):
        class_path = yaml.safe_load(config_file("method", method.method).read_text())["model"]["class_path"]
        known = {f"model.{option}" for option in parameters(class_path)}
        of_model = {option for option in method.options if not option.startswith("trainer.")}
        assert of_model <= known, method.name
        trainer = {f"trainer.{option}" for option in inspect.signature(Trainer).parameters}
        assert set(method.options) - of_model <= trainer, method.name


def test_the_default_benchmark_has_all_methods_at_four_lengths_and_five_seeds():
    grid = read_grid(grid_file("default"))
    files = {path.stem for path in config_file("method", "ce").parent.glob("*.yaml")}
    assert {method.method for method in grid.methods} == files - {"pseudo_ce", "mlzsh"}  # they need the setting `both`
    assert (grid.bits, grid.seeds) == ((16, 32, 64, 128), (0, 1, 2, 3, 4))


def test_the_ablation_is_of_one_method_and_each_row_differs():
    grid = read_grid(grid_file("ablation"))
    assert grid.reference == "razh"
    assert {method.method for method in grid.methods} == {"razh"}
    assert len({str(sorted(method.options.items())) for method in grid.methods}) == len(grid.methods) >= 12
