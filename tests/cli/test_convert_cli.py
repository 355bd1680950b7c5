"""`wdgrid convert` as a user runs it."""

import json
import subprocess
import sys

import pytest

from wdgrid.cli import main

PAPER = ["convert", "--lr", "0.01", "--weight-decay", "2.5e-4", "--optimizer", "adamw"]


def test_one_target_prints_the_value_and_a_line_to_paste(capsys):
    assert main([*PAPER, "--to", "torch"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["torch", "weight_decay", "0.025"]
    assert "  torch.optim.AdamW(params, lr=0.01, weight_decay=0.025, betas=(0.9, 0.999), eps=1e-08)" in out
    assert err == ""


def test_without_a_target_all_are_printed_that_can_be(capsys):
    assert main([*PAPER, "--json"]) == 0
    found = {one["to"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(found) == {"paper", "torch", "timm", "composer", "optax", "keras", "pytorch_optimizer"}
    assert found["composer"]["value"] == pytest.approx(2.5e-4) and found["torch"]["value"] == pytest.approx(0.025)
    assert found["keras"]["warning"]
    assert main(PAPER) == 0
    out, err = capsys.readouterr()
    assert "warning: Keras" in out and "normalised" not in out
    assert "tau: not shown; needs --batch and --train-size" in err


def test_normalised_decay_and_tau(capsys):
    steps = ["--batch", "128", "--train-size", "50000"]
    assert main([*PAPER, *steps, "--epochs", "100", "--to", "normalised", "--to", "tau", "--json"]) == 0
    norm, tau = json.loads(capsys.readouterr().out)
    assert norm["value"] == pytest.approx(0.0494, abs=1e-4)
    assert tau["name"] == "tau_epochs" and tau["value"] == pytest.approx(1 / 2.5e-4 / (50000 / 128))
    none = [*PAPER[:3], "--weight-decay", "0", "--optimizer", "adamw", *steps, "--to", "tau", "--json"]
    assert main(none) == 0
    assert json.loads(capsys.readouterr().out)[0]["value"] is None  # JSON has no infinity


def test_where_no_equal_exists_it_says_so(capsys):
    assert main(["convert", "--lr", "0.1", "--weight-decay", "5e-4", "--optimizer", "adam", "--to", "composer"]) == 0
    out = capsys.readouterr().out
    assert "no equal" in out and "warning: " in out


def test_the_filter_has_the_papers_decay_and_no_equal_in_a_library(capsys):
    kalman = [*PAPER[:-1], "kalman"]
    assert main([*kalman, "--steps-per-epoch", "390", "--epochs", "100"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["paper", "normalised", "tau"]
    assert err.startswith(
        "torch, timm, composer, optax, keras, pytorch_optimizer: not shown; no library here has this optimizer"
    )
    assert main([*kalman, "--to", "torch"]) == 0
    out, err = capsys.readouterr()
    assert "no equal" in out and "warning: no library here has this optimizer" in out and err == ""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (["--optimizer", "lion"], "optimizer must be one of"),
        (["--lr", "-1"], "lr must be"),
        (["--lr", "nan"], "lr must be"),
        (["--to", "jax"], "not to 'jax'"),
        (["--schedule", "linear"], "--schedule linear"),
        (["--beta2", "1"], "--beta2"),
        (["--eps", "inf"], "--eps"),
        (["--to", "tau"], "--to tau: needs --batch and --train-size (or --steps-per-epoch)"),
        (["--to", "tau", "--batch", "128"], "--to tau: needs --batch and --train-size (or --steps-per-epoch)"),
        (["--to", "Normalized", "--steps-per-epoch", "10"], "--to Normalized: needs --epochs"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, changed, says):
    assert main([*PAPER, *changed]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1


def test_it_starts_without_the_heavy_rooms():
    code = (
        f"import sys; from wdgrid.cli import main; assert main({PAPER!r}) == 0\n"
        "heavy = {'torch', 'optuna', 'pandas', 'numpy', 'matplotlib', 'rich.table'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
