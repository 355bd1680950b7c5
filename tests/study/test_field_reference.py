"""Help on every field of a study file: docs/study.md is what the code says, and what it says is what is allowed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from wdgrid.cli import main
from wdgrid.errors import StudyFileError
from wdgrid.optim.variants import VARIANTS
from wdgrid.study import Study, dataset_args, field_reference, load_study, model_args, sections

PAGE = Path(__file__).parents[2] / "docs/study.md"
TEXT = PAGE.read_text(encoding="utf-8")
SMALLEST, LARGER = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
ROW = re.compile(r"\| `(\w+)` \| (.+) \| (.+) \| (.+) \|")


def rows():
    """(heading, field, allowed, default, meaning) of every row of docs/study.md that is about a field."""
    heading = ""
    for line in TEXT.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif (found := ROW.fullmatch(line)) and "hyperparameters" not in heading.lower():
            yield heading, *found.groups()


ROWS = list(rows())


def overrides(heading, field):
    """The path of a field, and what must be set beside it for the field to have a meaning."""
    if heading == "Top level":
        return field, []
    if args := re.match(r'`(\w+)_args` of `\w+ = "([\w-]+)"`', heading):
        part, name = args.groups()
        root = ['task.dataset_args.root="x"'] if name == "folder" and field != "root" else []
        return f"task.{part}_args.{field}", [f"task.{part}={name}", *root]
    if kind := re.search(r'kind = "(\w+)"', heading):
        return f"panels.0.schedule.{field}", [f'panels.0.schedule={{kind="{kind[1]}"}}']
    if heading == "`[axes.NAME]`":
        return f"axes.lr.{field}", ["axes.lr={values=[1]}"]
    return {"`[task]`": "task", "`[[panels]]`": "panels.0", "`[report]`": "report"}[heading] + f".{field}", []


def of_panels(field):
    """What a panel's fixed hyperparameter needs: an optimizer that has it, and axes that are others."""
    optimizer = {"momentum": "sgdw"}.get(field, "adamw")
    axes = {
        "lr": "{weight_decay={values=[1]}, eps={values=[1]}}",
        "weight_decay": "{lr={values=[1]}, eps={values=[1]}}",
    }
    return [f"panels.0.optimizer={optimizer}", *([f"axes={axes[field]}"] if field in axes else [])]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "smallest.toml"
    path.write_text(SMALLEST, encoding="utf-8")
    return path


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["fields"]) == 0
    assert capsys.readouterr().out == TEXT, "make it anew: wdgrid fields > docs/study.md"


def test_every_field_stands_there_and_says_what_it_means():
    found = [*vars(sections).values(), *vars(dataset_args).values(), *vars(model_args).values()]
    models = {m for m in found if isinstance(m, type) and issubclass(m, BaseModel)} | {Study}
    bases = {dataset_args.Frozen, dataset_args.ImageArgs}
    wanted = sorted(name for m in models - bases for name in m.model_fields)
    assert len(wanted) > 50 and wanted == sorted(field for _, field, *_ in ROWS)
    assert [(heading, field) for heading, field, *_, meaning in ROWS if len(meaning) < 8] == []


@pytest.mark.parametrize(("heading", "field", "allowed", "default", "meaning"), ROWS)
def test_what_is_allowed_and_the_default_hold(base, heading, field, allowed, default, meaning):
    path, beside = overrides(heading, field)
    if field in ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps"):
        beside = of_panels(field)

    def refused(value):
        with pytest.raises(StudyFileError) as error:
            load_study(base, [*beside, f"{path}={value}"])
        assert any(path.removesuffix(".kind") in line for line in error.value.lines)

    if default not in ("required", "–"):
        plain, same = load_study(base, beside), load_study(base, [*beside, f"{path}={default.strip('`')}"])
        assert same.canonical() == plain.canonical()
    refused("2020-01-01")  # a date: nowhere allowed
    if signs := re.fullmatch(r"(whole )?number ([≥>]) (\d+)(?:, (≤|<) (\d+))?", allowed):
        whole, low, least, high, most = signs.groups()
        inside = f"{int(least) + (low == '>')}"
        load_study(base, [*beside, f"{path}={inside}"])
        refused(int(least) - (low == "≥"))
        if high:
            refused(int(most) + (high == "≤"))
        if whole:
            refused("1.5")
    elif re.fullmatch(r'"[\w-]+"(, "[\w-]+")*', allowed):
        for word in re.findall(r'"[\w-]+"', allowed):
            load_study(base, [*beside, f"{path}={word}"])
        refused('"neither"')
    elif allowed == "true or false":
        load_study(base, [*beside, f"{path}=true"])
        refused('"yes"')
        refused("1")


def test_names_of_what_is_built_in_are_the_allowed_ones(base):
    allowed = {field: words for _, field, words, *_ in ROWS}
    known = {"dataset": sections.BUILT_IN_DATASETS, "model": sections.BUILT_IN_MODELS, "schedule": sections.SCHEDULES}
    for field, names in known.items():
        assert re.findall(r'"([\w-]+)"', allowed[field]) == list(names)
    for kind in sections.SCHEDULES:
        assert load_study(base, [f"panels.0.schedule={kind}"]).panels[0].schedule.kind == kind
    for depth in map(int, re.findall(r"\d+(?=, )", allowed["depth"])):
        load_study(base, ["task.model=resnet", f"task.model_args.depth={depth}"])


def test_an_optimizers_defaults_are_those_of_its_cells(base):
    told = dict(re.findall(r"^\| `([\w-]+)` \| (\w+ = [^|]+) \|$", TEXT, re.MULTILINE))
    assert set(told) == set(VARIANTS)
    for optimizer, extra in told.items():
        study = load_study(base, [f"panels.0.optimizer={optimizer}"])
        pairs = (pair.split(" = ") for pair in extra.split(", "))
        assert study.hyperparameters(study.panels[0]) == {name: float(value) for name, value in pairs}


def test_both_whole_files_are_what_is_said_of_them(tmp_path):
    for name, text in (("smallest", SMALLEST), ("larger", LARGER)):
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    smallest, larger = (load_study(tmp_path / f"{name}.toml") for name in ("smallest", "larger"))
    assert [len(cells) for cells in smallest.cells().values()] == [7 * 11]
    assert [len(cells) for cells in larger.cells().values()] == [3 * 5 * 6] * 3
    assert all(larger.normalized(panel) for panel in larger.panels) and larger.task.validation_size == 200
    needed = {"task", "axes", "panels"}
    assert set(tomllib.loads(SMALLEST)) == needed and needed == {
        n for n, f in Study.model_fields.items() if f.is_required()
    }


def test_one_field_or_one_section(capsys):
    assert main(["fields", "crop"]) == 0
    out = capsys.readouterr().out
    assert set(re.findall(r"^\| `(\w+)`", out, re.MULTILINE)) == {"crop"} and out.count("\n#") + 1 == 3
    assert main(["fields", "cifar100"]) == 0
    assert "`download`" in (out := capsys.readouterr().out) and "`shift`" not in out
    assert main(["fields", "axes"]) == 0  # a section, and the field that holds it
    assert set(re.findall(r"^\| `(\w+)`", capsys.readouterr().out, re.MULTILINE)) == {"axes", "values", "unit"}


@pytest.mark.parametrize(
    ("word", "says"), [("validaton_size", "did you mean validation_size"), ("xyzzy", "sections: ")]
)
def test_an_unknown_name_is_one_line(capsys, word, says):
    assert main(["fields", word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1


def test_words_that_markdown_would_swallow_are_kept():
    assert field_reference.page().count("train/\\<class>/\\*") == 1
    assert all(line.count("|") == 5 for line in TEXT.splitlines() if ROW.fullmatch(line))


def test_it_costs_no_torch():
    code = (
        "import sys; from wdgrid.cli import main; main(['fields']); assert not {'torch', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=PAGE.parent)
