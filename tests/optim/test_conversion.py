"""What a (rate, decay) is called elsewhere: values, warnings, round trips, faults.

Whether a pasted line trains the same is asked of the libraries themselves in `test_conversion_libraries.py`.
"""

import math

import pytest

from helpers.trajectories import DECAY, LR, apart, paper, run_torch
from wdgrid.optim.conversion import TARGETS, convert
from wdgrid.optim.variants import VARIANTS


def test_the_pitfall_is_large_enough_to_be_seen():
    right = paper("adamw", LR, DECAY)
    line = convert(LR, DECAY, "adamw", "torch").line.replace("weight_decay=0.025", f"weight_decay={DECAY}")
    assert apart(right, run_torch(line)) > 1e-3


def test_the_library_form_is_torchs_own_number():
    conversion = convert(LR, 0.03, "adamw-torch", "torch")
    assert conversion.value == pytest.approx(0.03)
    assert apart(paper("adamw", LR, LR * 0.03), run_torch(conversion.line)) < 1e-10
    assert convert(LR, 0.03, "sgdw-torch", "paper").value == pytest.approx(3e-4)


def test_l2_has_no_equal_where_decay_is_decoupled():
    adam = convert(LR, DECAY, "adam", "composer")
    assert adam.value is None and "no decoupled decay equals L2" in adam.warning
    assert apart(paper("adam", LR, DECAY), run_torch(adam.line)) < 1e-10
    assert convert(LR, DECAY, "sgd", "composer").value is None
    tau = convert(LR, DECAY, "adam", "tau", steps_per_epoch=100)
    assert tau.value is None and tau.warning


def test_normalised_decay_is_the_papers_example():
    factor = math.sqrt(128 / (50_000 * 100))
    conversion = convert(LR, factor / 20, "adamw", "normalised", batch=128, train_size=50_000, epochs=100)
    assert factor == pytest.approx(0.00506, abs=5e-6)
    assert conversion.value == pytest.approx(1 / 20)
    library = convert(LR, factor / 20 / LR, "adamw-torch", "normalized", steps_per_epoch=50_000 / 128, epochs=100)
    assert library.value == pytest.approx(1 / 20)


@pytest.mark.parametrize(
    ("optimizer", "decay"), [("adamw", 1e-3), ("adamw-torch", 0.1), ("sgdw", 1e-3), ("kalman", 1e-3)]
)
def test_tau_is_when_a_weight_without_gradient_has_lost_its_e_th_part(optimizer, decay):
    tau = convert(LR, decay, optimizer, "tau", steps_per_epoch=100).value
    assert (1 - 1e-3) ** (tau * 100) == pytest.approx(1 / math.e, rel=1e-3)
    assert convert(LR, 0.0, optimizer, "tau", steps_per_epoch=100).value == math.inf


def test_tau_of_l2_under_momentum_counts_the_buffer():
    tau = convert(LR, 0.01, "sgd", "tau", steps_per_epoch=100)
    theta, m = 1.0, 0.0
    for _ in range(round(tau.value * 100)):
        m = 0.9 * m + LR * 0.01 * theta
        theta -= m
    assert theta == pytest.approx(1 / math.e, rel=0.02) and tau.warning


@pytest.mark.parametrize("optimizer", VARIANTS)
@pytest.mark.parametrize("to", TARGETS)
def test_every_pair_has_a_line_or_a_reason_and_round_trips(optimizer, to):
    conversion = convert(0.1, 1e-3, optimizer, to, batch=128, train_size=50_000, epochs=100)
    assert (conversion.line or conversion.warning) and (conversion.value is None) <= bool(conversion.warning)
    assert "\n" not in conversion.line
    none = convert(0.1, 0.0, optimizer, to, batch=128, train_size=50_000, epochs=100)
    assert none.value in (0.0, None, math.inf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
        ({"weight_decay": -1}, "weight decay must be"),
        ({"weight_decay": math.inf}, "weight decay must be"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd"),
        ({"to": "jax"}, "can convert to paper"),
        ({"to": "normalised", "steps_per_epoch": 10}, "needs the epochs"),
        ({"to": "tau"}, "steps per epoch are needed"),
        ({"to": "tau", "batch": 0, "train_size": 10}, "batch must be"),
        ({"to": "tau", "steps_per_epoch": 0}, "steps per epoch must be"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "momentum must be"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        convert(**{"lr": 0.1, "weight_decay": 1e-3, "optimizer": "adamw", "to": "torch", **change})
    assert "\n" not in str(caught.value)
