"""`wdgrid check`: what can be trained, and every fault in the user's words with the user's file and line."""

import json
import sqlite3

import pytest
import torch

import wdgrid
from helpers import own_code
from wdgrid.cli import main
from wdgrid.models.adapted import adapted
from wdgrid.store import Store

AXES = {"lr": {"values": "1, 1/2"}, "weight_decay": {"values": "0, 1"}}
OWN = {"dataset": "helpers.own_code:data", "model": "helpers.own_code:net", "epochs": 2, "batch_size": 20}
HERE = r"helpers/own_code.py, line \d+: "


def study(**task):
    return {"task": OWN | task, "axes": AXES, "panels": [{"optimizer": "sgdw"}]}


def returning(what):
    return {"model_args": {"returns": what}}


def of(what):
    return {"dataset_args": {"what": what}}


@pytest.mark.parametrize("what", ["arrays", "pairs", "datasets"])
def test_arrays_pairs_and_datasets_are_accepted(what):
    found = wdgrid.check(study(**of(what)))
    assert (found.inputs, found.kind, found.examples) == ((4,), "float32", "examples")
    assert (found.outputs, found.classes, found.parameters, found.cells) == (3, 3, 4 * 8 + 8 + 8 * 3 + 3, 4)
    assert found.train == 60 and found.cell_seconds > 0
    assert "60 training" in str(found) and "3 classes; 67 parameters, 3 outputs" in str(found)


def test_tokens_reach_an_embedding_as_integers():
    found = wdgrid.check(study(**of("tokens"), model="helpers.own_code:Tokens"))
    assert found.kind == "integers" and found.backend == "stacked"


@pytest.mark.parametrize(("returns", "output"), [("dict", "logits"), ("tuple", 0)])
def test_output_names_the_logits(returns, output):
    picked = wdgrid.check(study(**returning(returns), output=output))
    plain = wdgrid.check(study())
    assert (picked.outputs, picked.backend) == (plain.outputs, plain.backend)
    module = own_code.net(returns=returns)
    expected = own_code.net()
    expected.load_state_dict(module.state_dict())
    x = torch.tensor(own_code.X[:5], dtype=torch.float32)
    names = [name for name, _ in module.named_parameters()]
    fitted = adapted(module, integers=False, output=output)
    assert torch.equal(fitted(x), expected(x)) and [name for name, _ in fitted.named_parameters()] == names


FAULTS = [
    (returning("dict"), HERE + r'forward returned a dict with keys features, logits; .* task.output = "logits"$'),
    (returning("tuple"), HERE + r"forward returned a tuple of 2 .* task.output = 0$"),
    (returning("dict") | {"output": "logit"}, r"task.output = 'logit': forward returned a dict with keys"),
    ({"output": 0}, HERE + "forward returned a tensor; leave task.output = 0 out"),
    ({"output": True}, "task.output = true: must be a key"),
    ({"output": -1}, "task.output = -1: must be a key"),
    (returning("3-D"), HERE + r"forward returned \[20, 1, 3\] for inputs \[20, 4\]; return logits \[N, classes\]"),
    (returning("NaN"), HERE + ".*outputs hold NaN"),
    (returning("error"), HERE + r"on inputs \[20, 4\]: RuntimeError: .*mat1 and mat2"),
    (returning("detached"), HERE + ".*do not depend on the parameters"),
    ({"model_args": {"classes": 2}}, HERE + "forward: 2 outputs, labels run to 2"),
    ({"model_args": {"widht": 9}}, r"takes no argument widht; did you mean width\? \(.*own_code.py, line \d+\)"),
    ({"model": "helpers.own_code:nett"}, r"own_code.py has no nett; did you mean net\?"),
    ({"model": "nowhere_at_all:net"}, "there is no module nowhere_at_all"),
    ({"model": "helpers.own_code:no_network"}, HERE + ".*returned the class Net; it must return an nn.Module"),
    ({"model": "helpers.own_code:sequential"}, HERE + ".*on inputs .*RuntimeError"),
    (of("NaN"), HERE + ".*train_x holds NaN or infinity in 1 of 60 examples, first in number 17"),
    (of("from 1"), HERE + ".*the labels run from 1 to 3; number the classes from 0: subtract 1"),
    (of("halves"), HERE + ".*train_y are float64, such as 0.5; classes are integers"),
    (of("one-hot"), HERE + r".*train_y is \[60, 3\]; .*argmax"),
    (of("shape"), HERE + r".*alike .* not float64 \[60, 4\] and float64 \[30, 3\]"),
    (of("rows"), HERE + r".*train_x \[60, 4\] and train_y \[59\] must have one row for each example"),
    (of("bytes"), HERE + r".*uint8 \[60, 4\], and uint8 stands for images"),
    (of("three"), HERE + ".*returned a tuple of 3 .*; give train_x"),
    (of("dict"), HERE + ".*returned a dict with keys train, test; give train_x"),
    (of("error"), HERE + "FileNotFoundError: no file points.csv"),
]


@pytest.mark.parametrize(("task", "says"), FAULTS, ids=[str(number) for number in range(len(FAULTS))])
def test_a_fault_is_one_line_in_the_users_words(task, says):
    with pytest.raises(wdgrid.WdgridError, match=says) as caught:
        wdgrid.check(study(**task))
    assert caught.value.exit_status == 2 and "\n" not in str(caught.value) and "wdgrid/" not in str(caught.value)


def test_a_fault_of_code_is_found_without_running_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_first_try.py").write_text("raise SystemExit(7)\ndef net(width, *, depth=1): ...\n")
    own = {"model": "broken_first_try:net", "dataset": "digits"}
    with pytest.raises(wdgrid.StudyFileError, match="net needs the argument width"):
        wdgrid.check({**study(), "task": own})
    (tmp_path / "broken_first_try.py").write_text("def net(:\n")
    with pytest.raises(wdgrid.StudyFileError, match=r"^broken_first_try.py, line 1: "):
        wdgrid.check({**study(), "task": own})


def test_the_command_prints_one_line_or_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(
        '[task]\n[axes.lr]\nvalues = [1]\n[axes.weight_decay]\nvalues = [0]\n[[panels]]\noptimizer = "sgd"\n'
    )
    assert main(["check", "mine.toml"]) == 0
    assert "900 training and 897 test images 1×8×8 (float32), 10 classes" in capsys.readouterr().out
    assert main(["check", "mine.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == 10
    assert main(["check", "mine.toml", "--set", "task.widht=1"]) == 2
    assert not list(tmp_path.glob("*.db"))


def test_a_sweep_that_finds_a_fault_leaves_nothing_planned(tmp_path):
    good, bad = study(), study(**returning("dict"))
    arguments = {"name": "bad", "storage": tmp_path / "own.db", "progress": False, "workers": 1}
    with pytest.raises(wdgrid.UsersFaultError, match=HERE + "forward returned a dict"):
        wdgrid.sweep(bad, **arguments)
    assert not (tmp_path / "own.db").exists()
    Store(f"sqlite:///{tmp_path}/own.db").close()  # others may be kept there
    with pytest.raises(wdgrid.UsersFaultError):
        wdgrid.sweep(bad, **arguments)
    with sqlite3.connect(tmp_path / "own.db") as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (0,)
    with pytest.raises(wdgrid.StudyFileError, match="did you mean"):
        wdgrid.sweep({**good, "task": OWN | {"model_args": {"widht": 1}}}, **arguments)
