"""Start-up: what a sweep of 128 tiny cells takes beyond its training, for this checkout and others, interleaved.

    python benchmarks/startup.py [--others /path/to/another/checkout ...] [--repeats N]

Every run is a whole command in a fresh folder. Training is what the sweep itself stored (`environment.training`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
STUDY = """\
[task]
epochs = 1
[axes.lr]
values = "1..1/128"
unit = 0.1
[axes.weight_decay]
values = "0, 1/64..256"
unit = 0.016
[[panels]]
optimizer = "adamw"
"""
PROGRAM = "import sys; from wdgrid.cli import main; sys.exit(main())"


def main() -> None:
    """Measures and prints a row of Markdown for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", nargs="*", type=Path, default=[], help="other checkouts")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    checkouts = [*(other.resolve() for other in options.others), HERE]
    seconds: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    for _ in range(options.repeats):
        for checkout in checkouts:
            seconds[checkout].append(beyond_training(checkout))
    print("| checkout | seconds beyond training: median | lowest | highest | n |\n|---|---|---|---|---|")
    for checkout, taken in seconds.items():
        print(
            f"| {checkout.name} | {statistics.median(taken):.2f} | {min(taken):.2f} | {max(taken):.2f} | {len(taken)} |"
        )


def beyond_training(checkout: Path) -> float:
    """Wall time of one sweep of a checkout, without the seconds in which its cells were trained."""
    with tempfile.TemporaryDirectory(prefix="wdgrid-startup-") as folder:
        Path(folder, "tiny.toml").write_text(STUDY)
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        command = [sys.executable, "-c", PROGRAM]
        began = time.perf_counter()
        subprocess.run(
            [*command, "sweep", "tiny.toml", "-q"], cwd=folder, env=environment, check=True, capture_output=True
        )
        took = time.perf_counter() - began
        shown = subprocess.run(
            [*command, "show", "tiny", "--json"], cwd=folder, env=environment, check=True, capture_output=True
        )
        training = json.loads(shown.stdout)["environment"].get("training", "0 s")
        return took - float(training.split()[0])


if __name__ == "__main__":
    main()
