"""`wdgrid convert`: converts (rate, decay) to another library's terms, with a line to paste."""

import math
from typing import Annotated

import typer

from wdgrid.cli.common import AsJson, print_json, say
from wdgrid.errors import UsageError
from wdgrid.optim.conversion import ALIASES, TARGETS, Conversion
from wdgrid.optim.conversion import convert as convert_one
from wdgrid.optim.variants import VARIANTS

SCHEDULES = ("constant", "step", "cosine", "restarts")


def convert(
    lr: Annotated[float, typer.Option(help="Learning rate α (the initial one, under a schedule).")],
    weight_decay: Annotated[float, typer.Option(help="Weight decay or L2 factor λ, as --optimizer's own form has it.")],
    optimizer: Annotated[str, typer.Option(help=f"Whose numbers these are: {', '.join(VARIANTS)}.")],
    to: Annotated[
        list[str] | None, typer.Option(help=f"Target; may be repeated; all if not given: {', '.join(TARGETS)}.")
    ] = None,
    schedule: Annotated[
        str, typer.Option(help=f"Schedule of the rate: {', '.join(SCHEDULES)}. Some are equal at a constant rate only.")
    ] = "cosine",
    batch: Annotated[float | None, typer.Option(help="Batch size b, for normalised λ and τ.")] = None,
    train_size: Annotated[float | None, typer.Option(help="Training examples B, for normalised λ and τ.")] = None,
    steps_per_epoch: Annotated[float | None, typer.Option(help="Steps an epoch, instead of B and b.")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Epochs T of the budget (of the restart period), for normalised λ.")
    ] = None,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD, SGDW.")] = 0.9,
    beta1: Annotated[float, typer.Option(help="β1 of Adam, AdamW.")] = 0.9,
    beta2: Annotated[float, typer.Option(help="β2 of Adam, AdamW.")] = 0.999,
    eps: Annotated[float, typer.Option(help="ε of Adam, AdamW.")] = 1e-8,
    as_json: AsJson = False,
) -> None:
    """Convert a learning rate and weight decay into another library's terms: the value, and a line to paste."""
    if schedule not in SCHEDULES:
        raise UsageError(f"--schedule {schedule}: must be one of {', '.join(SCHEDULES)}")
    for name, beta in (("--beta1", beta1), ("--beta2", beta2)):
        if not 0 <= beta < 1:
            raise UsageError(f"{name} must be at least 0 and below 1, not {beta:g}")
    if not (math.isfinite(eps) and eps >= 0):
        raise UsageError(f"--eps must be a finite number ≥ 0, not {eps:g}")
    steps_known = steps_per_epoch is not None or (batch is not None and train_size is not None)
    needs = _needs(steps_known, epochs is not None)
    found: list[Conversion] = []
    for target in to or [name for name in TARGETS if name not in needs]:
        if missing := needs.get(ALIASES.get(target.lower(), target.lower())):
            raise UsageError(f"--to {target}: needs {missing}")
        try:
            one = convert_one(
                lr, weight_decay, optimizer, target,
                schedule=schedule, batch=batch, train_size=train_size, steps_per_epoch=steps_per_epoch,
                epochs=epochs, momentum=momentum, betas=(beta1, beta2), eps=eps,
            )  # fmt: skip
        except ValueError as error:
            raise UsageError(str(error)) from None
        found.append(one)
    if as_json:
        print_json([_plain(one) for one in found])
        return
    left_out = {} if to else {target: f"needs {missing}" for target, missing in needs.items()}
    for one in found:
        if to or one.line:
            _print(one)
        else:
            left_out[one.to] = one.warning or ""
    for why in dict.fromkeys(left_out.values()):
        say(f"{', '.join(target for target in left_out if left_out[target] == why)}: not shown; {why}")


def _needs(steps_known: bool, epochs_known: bool) -> dict[str, str]:
    """Targets whose required options are missing, with these options; left out without `--to`, else an error."""
    steps = [] if steps_known else ["--batch and --train-size (or --steps-per-epoch)"]
    lacking = {"normalised": steps + ([] if epochs_known else ["--epochs"]), "tau": steps}
    return {name: " and ".join(options) for name, options in lacking.items() if options}


def _plain(one: Conversion) -> dict[str, str | float | None]:
    value = one.value if one.value is not None and math.isfinite(one.value) else None
    return {"to": one.to, "name": one.name, "value": value, "line": one.line, "warning": one.warning}


def _print(one: Conversion) -> None:
    """Target, name and value in columns; the line to paste below, never wrapped; then the warning."""
    value = "no equal" if one.value is None else f"{one.value:.6g}"
    typer.echo(f"{one.to:18} {one.name:18} {value}")
    if one.line:
        typer.echo(f"  {one.line}")
    if one.warning:
        typer.echo(f"  warning: {one.warning}")
