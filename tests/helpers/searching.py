"""A search played through: a known surface, its coarse pass, and every round of what comes after it."""

from helpers.stored import fill
from helpers.synthetic_tables import error_of, make_study
from wdgrid.runner.reconcile import plan
from wdgrid.runner.search import coarse_pass, rounds
from wdgrid.study.coarse import coarse_name

STUDY = make_study(
    task={"batch_size": 50, "epochs": 8, "train_size": 900},
    axes={"lr": {"values": "1..1/128"}, "weight_decay": {"values": "0, 1/32..8", "unit": 0.016}},
    panels=[{"optimizer": "sgd"}, {"optimizer": "adamw", "lr_unit": 0.1}],
    seeds=[0, 1],
)


def surface(study, towards=0.0):
    """A known surface; a low budget is worse everywhere and has its best at a faster rate."""

    def error(cell):
        panel = study.panel_names()[cell.panel]
        lr = cell.hyperparameters["lr"] / study.unit(panel, "lr")
        decay = cell.hyperparameters["weight_decay"] / study.unit(panel, "weight_decay")
        return error_of(panel.optimizer, lr / 2**towards, decay) + 2 * towards + 0.01 * cell.seed

    return error


def begin(store, study, error=None):
    """Plans a study and does its coarse pass."""
    small = coarse_pass("s", study)
    plan(store, "s", study)
    plan(store, coarse_name("s"), small)
    fill(store, coarse_name("s"), small, error or surface(small, 1.0))


def searched(store, study, error=None):
    """Does all rounds; what each one chose."""
    found = []
    for only in rounds(store, "s", study):
        found.append(only)
        fill(store, "s", study, error or surface(study), only=only)
    return found


def share(store, study):
    """Cells × epochs trained, of the whole grid's."""
    tables = [store.table(name) for name in ("s", coarse_name("s"))]
    done = sum(t.loc[t["state"] == "complete", "epochs"].sum() for t in tables)
    return done / tables[0]["epochs"].sum()
