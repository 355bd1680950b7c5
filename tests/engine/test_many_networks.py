"""Forty networks as people use them: each trains in the engine as alone, and the documentation says how."""

import math
from pathlib import Path

import pytest

from helpers.plain import train_plain
from helpers.training import cells_of
from wdgrid.engine import Job, Workbench, train
from wdgrid.study.sections import Constant, Task

networks = pytest.importorskip("helpers.many_networks", reason="timm is not installed")
RATES, DECAYS = [0.001, 0.003, 0.01], [0.1, 0.01, 0.0]
DOCUMENT = Path(__file__).parents[2] / "docs" / "networks.md"


def bench_of(name):
    make, size = networks.NETWORKS[name]
    model = {"model": make, "model_args": networks.OWN_ARGS.get(make, {})}
    if not isinstance(make, str):
        model = {"model": "helpers.many_networks:network", "model_args": {"name": name}}
    data = {"dataset": "helpers.many_networks:images", "dataset_args": {"size": size}}
    return Workbench(Task(**model, **data, batch_size=4, epochs=1, device="cpu", precision="float64"))


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_trains_as_alone(name, recwarn, capfd):
    bench = bench_of(name)
    probe = bench.probe(len(RATES))
    job, cells = Job("sgdw", Constant(), 1, False), cells_of("sgdw", RATES, DECAYS)
    outcomes = train(bench, job, cells, len(cells), lambda done: None)
    assert [str(w.message) for w in recwarn] == [] and capfd.readouterr().err == ""
    for cell, outcome in zip(cells, outcomes, strict=True):
        assert math.isfinite(outcome.train_loss)
        alone = train_plain(bench, job, cell)
        for measure in ("test_error", "test_loss", "train_loss", "weight_norm"):
            assert getattr(outcome, measure) == pytest.approx(alone[measure], rel=1e-10), measure
    row = f"| {name} | {probe.backend} | {', '.join(probe.fallback) or '–'} |"
    assert row in DOCUMENT.read_text(encoding="utf-8").splitlines(), f"{DOCUMENT} lacks: {row}"


@pytest.mark.slow
def test_the_document_has_these_networks_and_no_others():
    rows = DOCUMENT.read_text(encoding="utf-8").splitlines()
    assert [row.split(" | ")[0].lstrip("| ") for row in rows if row.startswith("| ")][1:] == list(networks.NETWORKS)
