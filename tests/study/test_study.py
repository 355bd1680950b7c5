"""Study files: what is understood, what is refused, and in which words."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdgrid.errors import StudyFileError
from wdgrid.study import Study, load_study
from wdgrid.study.axes import label, parse_multiples, scale
from wdgrid.study.file import differences, only_adds

DIGITS = Path(__file__).parents[2] / "studies" / "digits.toml"
SMALL = """
[task]
epochs = 2
[axes.lr]
values = "1..1/4"
[axes.weight_decay]
values = "0, 1/2..2"
unit = 0.001
[[panels]]
optimizer = "adamw"
lr_unit = 0.1
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_digits_study_is_the_grid_of_figure_2():
    study = load_study(DIGITS)
    cells = study.cells()
    assert list(cells) == ["sgd", "sgdw", "adam", "adamw"]
    assert [len(c) for c in cells.values()] == [121] * 4
    assert {c.hyperparameters["lr"] for c in cells["sgd"]} == {2.0**-i for i in range(11)}
    assert {c.hyperparameters["lr"] for c in cells["adam"]} == {0.1 * 2.0**-i for i in range(11)}
    assert {c.multiples[1] for c in cells["adam"]} == {
        "0",
        "1/32",
        "1/16",
        "1/8",
        "1/4",
        "1/2",
        "1",
        "2",
        "4",
        "8",
        "16",
    }


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("0, 1/4..2", ["0", "1/4", "1/2", "1", "2"]),
        ("1..1/4", ["1", "1/2", "1/4"]),
        ("2 … 8", ["2", "4", "8"]),
        (["0", "1/32", 0.5, 3], ["0", "1/32", "1/2", "3"]),
        (["1/4..1/2", 0.3], ["1/4", "1/2", "0.3"]),
    ],
)
def test_axis_values(given, labels):
    assert [label(m) for m in parse_multiples(given)] == labels


@pytest.mark.parametrize("given", ["", [], "1, 1", "1..3", "0..1", "-1", "nan", "inf", "x", [True], [None], 5, "1/0"])
def test_axis_values_refused(given):
    with pytest.raises(ValueError):
        parse_multiples(given)


@given(st.lists(st.integers(-20, 20), min_size=1, unique=True), st.sampled_from([0.1, 0.001, 0.016, 1.0]))
def test_axis_values_survive_storage(exponents, unit):
    values = [str(Fraction(2) ** e) for e in exponents]
    multiples = parse_multiples(values)
    assert parse_multiples([str(m) for m in multiples]) == multiples
    assert [scale(m, unit) for m in multiples] == pytest.approx([unit * 2.0**e for e in exponents], rel=1e-15)


def test_short_names_of_panels(small):
    study = load_study(small, ['panels=[{optimizer="adam"},{optimizer="sgd",schedule="step"},{optimizer="sgd"}]'])
    assert list(study.panel_names()) == ["adam", "sgd-step", "sgd-cosine"]


def test_any_two_axes(small):
    text = "[task]\n[axes.eps]\nvalues=[1e-8, 1e-4]\n[axes.beta2]\nvalues=[0.9, 0.99]\n"
    small.write_text(text + '[[panels]]\noptimizer="adam"\nlr=0.001\nweight_decay=0\n')
    (cells,) = load_study(small).cells().values()
    assert cells[1].hyperparameters == {"lr": 0.001, "weight_decay": 0, "beta1": 0.9, "eps": 1e-8, "beta2": 0.99}


FAULTS = [
    ("task.epochs=-3", "task.epochs = -3"),
    ("task.epochs=1.5", "task.epochs = 1.5"),
    ("task.colour=1", "task.colour = 1: unknown key; allowed: dataset"),
    ("colour=1", "colour = 1: unknown key; allowed: title"),
    ("axes.lr.values=[]", "axes.lr.values = []"),
    ("axes.lr.values=[1, 1]", "duplicate values: 1"),
    ("axes.lr.values=[1, -1]", "must not be negative"),
    ("axes.lr.values=[nan]", "a finite number"),
    ("axes.lr.values=[0]", 'axes.lr.values = "0": learning rates must be positive'),
    ("axes.weight_decay.unit=nan", "axes.weight_decay.unit = NaN"),
    ("axes.alpha.values=[1]", "axes.alpha"),
    ("axes.eps.values=[1]", "exactly two axes"),
    ("panels.0.optimizer=adamx", 'panels.0.optimizer = "adamx": must be one of sgd, sgdw'),
    (
        "panels.0.schedule=cosinus",
        'panels.0.schedule = "cosinus": must be one of constant, step, cosine, restarts; did you mean cosine',
    ),
    ("panels.0.schedule=cosin", "panels.0.schedule"),
    ("panels.0.momentum=0.5", "panels.0.momentum = 0.5: adamw has no momentum"),
    ("panels.0.lr=0.5", "lr is an axis"),
    ("panels.0.decay=both", 'panels.0.decay = "both"'),
    ("panels.0.weight_decay_unit=0", "panels.0.weight_decay_unit = 0"),
    ("panels.0.beta1=1", "panels.0.beta1 = 1"),
    ("panels=[]", "panels = []"),
    ("seeds=[1,1]", "seeds = [1, 1]: must all be different"),
    ("seeds=[]", "seeds = []"),
    ("task.model=resnet9000", "must be mlp, resnet, shake-shake, tf-tutorial, or your own as package.module:function"),
    ("task.dataset=mnist", "must be cifar10, cifar100, digits, folder, imagenet32, or your own"),
    ('task.model_args.hidden="wide"', 'task.model_args.hidden = "wide"'),
    ("task.model_args.hidden=[64, 2.5]", "task.model_args.hidden.1 = 2.5"),
    ("task.model_args.width=3", "task.model_args.width = 3: unknown; allowed: hidden, batch_norm"),
    ('task={model="resnet", model_args={depth=9}}', "task.model_args.depth = 9: must be 6n + 2: 8, 14"),
    ('task={model="tf-tutorial", model_args={depth=9}}', "task.model_args.depth = 9: unknown; allowed: none"),
    ("task.dataset_args.shift=true", "task.dataset_args.shift = true"),
    ("task.dataset=folder", "task.dataset_args.root"),
    ("task={dataset='folder', dataset_args={root='a', crop=-1}}", "task.dataset_args.crop = -1"),
    ("task.test_size=0", "task.test_size = 0"),
    ("task.device=tpu", 'task.device = "tpu"'),
    ("report.error_range=[7, 3]", "low < high"),
    ("decay=both", 'decay = "both"'),
    ("noequals", "--set noequals: must be path.to.field=value"),
    ("panels.7.lr=1", "must be 0 to 0"),
    ("task.epochs.x=1", "is a value and has no fields"),
]


@pytest.mark.parametrize(("override", "says"), FAULTS, ids=[f[0] for f in FAULTS])
def test_a_fault_is_one_line_with_place_value_and_what_is_allowed(small, override, says):
    with pytest.raises(StudyFileError) as caught:
        load_study(small, [override])
    assert any(says in line for line in caught.value.lines), caught.value.lines
    assert all("\n" not in line for line in caught.value.lines)


BOUNDS = [
    ('axes.lr.values=["1e99999999"]', "must be 0, or between 1e-308 and 1e308"),
    ('axes.lr.values=["1e-99999999"]', "must be 0, or between 1e-308 and 1e308"),
    ('axes.lr.values=["1e400"]', "must be 0, or between 1e-308 and 1e308"),
    ('axes.lr.values=["1e100"]', "printed in at most 64 characters"),
    (f"axes.lr.values={list(range(1, 10_002))}", "must have at most 10000 values, not 10001"),
    ('axes.lr.values=["1/3", "0.333333"]', "duplicate values: 0.333333"),
    ("axes.weight_decay={values=[1e60], unit=1e300}", "must be finite"),
    ("task.epochs=1000000000000000000", "less than or equal to 1000000"),
    ("panels.0.epochs=1000001", "less than or equal to 1000000"),
    ("panels.0.schedule={kind='restarts', period=1000000000}", "less than or equal to 1000000"),
    ("task.batch_size=1000000000000000000", "less than or equal to 2147483647"),
    ("task.model_args.hidden=[1000000000000]", "less than or equal to 1000000"),
    (f"seeds={list(range(10_001))}", "at most 10000 items"),
    ("task.model_args.hidden=" + 100 * "[" + 100 * "]", "is nested in more than 16 tables and lists"),
    (".".join(["a"] * 20_000) + "=1", "a dotted key has at most 32 parts"),
    ("panels.0.name=" + "x" * 201, "at most 200 bytes"),
    ("panels.0.name=../x", "panels.0.name"),
    ("title=\x1b[2J", "must not contain control characters"),
    ('title="\\u001b[2J"', "must not contain control characters"),
    ('title="\\u202egnirts"', "must not contain control characters"),
    ("title=\udcff", "not valid UTF-8"),
]


@pytest.mark.parametrize(("override", "says"), BOUNDS, ids=[f[0][:40] for f in BOUNDS])
def test_bounds_have_a_message(small, override, says):
    with pytest.raises(StudyFileError) as caught:
        load_study(small, [override])
    assert any(says in line for line in caught.value.lines), caught.value.lines
    assert all(line.isprintable() and len(line) < 1000 for line in caught.value.lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = " + 900 * "[" + 900 * "]", "not valid TOML: nested too deeply"),
        ("x = " + 900 * "{a=" + "1" + 900 * "}", "not valid TOML: nested too deeply"),
        (".".join(["a"] * 20_000) + " = 1", "a dotted key has at most 32 parts"),
        ("x = {" + ".".join(['"="'] * 20_000) + " = 1}", "a dotted key has at most 32 parts"),
        ("title = '" + "x" * 2**20 + "'", "a study file has at most 1048576 bytes"),
        ("title = " + "9" * 5000, "not valid TOML"),
    ],
    ids=["arrays", "tables", "keys", "quoted keys", "size", "digits"],
)
def test_bounds_of_the_file(small, text, says):
    small.write_text(text)
    with pytest.raises(StudyFileError, match=says):
        load_study(small)


def test_dots_in_text_are_no_keys(small):
    small.write_text(f'title = "{"." * 100}" # {"." * 100}\n{SMALL}')
    assert load_study(small).title == "." * 100


def test_a_study_has_at_most_a_million_cells(small):
    axes = [f"axes.lr.values={list(range(1, 1002))}", f"axes.weight_decay.values={list(range(1000))}"]
    with pytest.raises(StudyFileError, match="at most 1000000 cells, not 1001000"):
        load_study(small, axes)


def test_4000_axis_values_are_as_many_cells(small):
    study = load_study(small, [f"axes.lr.values={list(range(1, 4001))}", "axes.weight_decay.values=[0, 1]"])
    (cells,) = study.cells().values()
    assert len({cell.multiples for cell in cells}) == 8000


def test_of_many_faults_the_first_are_told(small):
    with pytest.raises(StudyFileError) as caught:
        load_study(small, [f"seeds={[-1] * 500}"])
    assert len(caught.value.lines) == 31 and "and 470 more faults" in caught.value.lines[-1]


def test_every_fault_is_told_at_once(small):
    with pytest.raises(StudyFileError) as caught:
        load_study(small, ["task.epochs=0", "colour=1", "panels.0.optimizer=x", "task.model_args.hidden=3"])
    assert len(caught.value.lines) == 4


def test_files_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[task\nepochs = 3")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, says in ((broken, "not valid TOML"), (binary, "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(StudyFileError, match=says):
            load_study(path)
    with pytest.raises(StudyFileError, match="no such file"):
        load_study(tmp_path / "none.toml")


def test_a_stored_study_reads_back_as_itself(small):
    study = load_study(small, ["axes.lr.values=[0.3, '1/3']"])
    assert Study.model_validate_json(study.canonical()) == study
    assert math.isclose(study.cells()["adamw"][-1].hyperparameters["lr"], 0.1 / 3)


def test_what_counts_as_the_same_study(small):
    study = load_study(small)
    for same in (["title=other"], ["report.top_k=3"], ["task.device=cpu"], ["panels.0.name=adamw"]):
        assert load_study(small, same).digest() == study.digest(), same
    for other in (["task.epochs=3"], ["seeds=[1]"], ["axes.lr.unit=2"], ["task.model_args.hidden=[3]"]):
        assert load_study(small, other).digest() != study.digest(), other


def test_where_published_data_lies_is_no_part_of_a_study(small):
    here, there, other = (
        load_study(small, [f"task.dataset_args={{{args}}}", "task.dataset=cifar10"])
        for args in ("", "root='elsewhere', download=false", "flip=false")
    )
    assert here.digest() == there.digest() != other.digest() and here.canonical() != there.canonical()
    folders = [load_study(small, [f"task={{dataset='folder', dataset_args={{root='{r}'}}}}"]) for r in ("a", "b")]
    assert folders[0].digest() != folders[1].digest()


def test_a_panel_may_have_its_own_unit_and_meaning_of_decay(small):
    study = load_study(small, ["panels.0.decay=normalized", "panels.0.weight_decay_unit=0.2"])
    (panel,) = study.panels
    assert study.normalized(panel) and not load_study(small).normalized(panel.model_copy(update={"decay": None}))
    (cells,) = study.cells().values()
    assert [c.hyperparameters["weight_decay"] for c in cells[:4]] == [0, 0.1, 0.2, 0.4]
    plain = load_study(small)
    for override in ("panels.0.decay=normalized", "panels.0.weight_decay_unit=0.2"):
        other = load_study(small, [override])
        assert other.digest() != plain.digest() and len(differences(plain.canonical(), other)) == 1
    both = load_study(small, ["decay=normalized", "panels.0.decay=raw"])
    assert not both.normalized(both.panels[0])
    with pytest.raises(StudyFileError, match="weight_decay is not an axis"):
        axes = "axes={lr={values=[1]}, eps={values=[1]}}"
        load_study(small, [axes, "panels.0.weight_decay=0", "panels.0.weight_decay_unit=2"])


def test_studies_stored_by_earlier_versions_keep_their_digest():
    """What is stored is found again only by this number: new fields must not move it where they are not set."""
    assert load_study(DIGITS).digest() == "8c83a9016b01d12ae486b240200736f0305780313efac8d03c5230122931e39a"


def test_differences_and_extension(small):
    study = load_study(small)
    more = load_study(small, ["seeds=[0,1]", "axes.lr.values=2..1/4"])
    assert only_adds(study.canonical(), more) and not only_adds(more.canonical(), study)
    changed = load_study(small, ["task.epochs=3"])
    assert differences(study.canonical(), changed) == ["task.epochs: was 2; is now 3"]
    assert not only_adds(study.canonical(), changed)
    swapped = load_study(small, ["axes={weight_decay={values=[1]}, lr={values=[1]}}"])
    assert not only_adds(study.canonical(), swapped)
