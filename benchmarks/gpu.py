"""What an NVIDIA GPU does with wdgrid, in under nine minutes: tests, then speed beside plain loops. Never run on one.

    python benchmarks/gpu.py [--seconds 520] [--out gpu.json] [--device cuda|cpu] [--parts tests,gemm,networks,...]

Each part runs in a process of its own, so that a fault ends that part alone, and within what is left of the time.
The JSON has every number, also where a part failed or found no time; a table goes to stdout. `--device cpu` is a dry
run of what needs no GPU: small work, numbers that mean nothing. Works with torch 2.11 and later.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

HERE = Path(__file__).parent
NETWORKS = "mlp", "cnn", "resnet8", "shake", "vit", "gpt"
PRECISIONS = "float32", "tf32", "bfloat16"
# In this order while time lasts; the share of the time that is left which each may take.
PARTS = {"tests": 0.25, "gemm": 0.1, "resume": 0.2, "memory": 0.2, "networks": 0.8, "convolutions": 0.5, "mps": 0.9}


def main() -> None:
    """Runs the parts one after another and writes what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520.0, help="time for all of it (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON to write (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    options = parser.parse_args()
    if unknown := [part for part in options.parts.split(",") if part not in PARTS]:
        parser.error(f"--parts: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    began = time.monotonic()
    found: dict[str, Any] = {"command": sys.argv, "machine": _machine(options.device), "parts": {}}
    for part in options.parts.split(","):
        left = options.seconds - (time.monotonic() - began)
        found["parts"][part] = _part(part, options.device, left * PARTS[part])
        found["seconds"] = time.monotonic() - began
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(table(found)))


def _machine(device: str) -> dict[str, Any]:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device; --device cpu is a dry run without one")
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}


def _part(part: str, device: str, seconds: float) -> dict[str, Any]:
    """What a part printed: one JSON object a line, merged; the last lines of its errors where it failed."""
    say(f"{part}: at most {seconds:.0f} s")
    if seconds < 1:
        return {"failed": "no time was left"}
    if part == "tests":
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/engine/test_cuda.py"]
    else:
        command = [sys.executable, str(HERE / "gpu_parts.py"), part, device, f"{0.9 * seconds:.1f}"]
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "tests")])}
    with subprocess.Popen(
        command, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=seconds)
            late = False
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
            late = True
    result: dict[str, Any] = {"seconds": time.monotonic() - began}
    if part == "tests":
        result["said"] = out.strip().splitlines()[-1:]
    else:
        result["rows"] = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if late:
        result["failed"] = "its time was over"
    elif process.returncode not in (0, 5 if device == "cpu" else 0):
        result["failed"] = errors.strip().splitlines()[-8:] or out.strip().splitlines()[-8:]
    return result


def table(found: dict[str, Any]) -> Iterator[str]:
    """Markdown of all that was found."""
    machine = found["machine"]
    yield f"{machine['device']}, torch {machine['torch']}, CUDA {machine['cuda']}; {found['seconds']:.0f} s in all"
    for part, result in found["parts"].items():
        yield f"\n### {part} ({result.get('seconds', 0):.0f} s)\n"
        if said := result.get("said"):
            yield said[0]
        rows: list[dict[str, Any]] = result.get("rows", [])
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if rows:
            yield f"| {' | '.join(columns)} |"
            yield f"|{'---|' * len(columns)}"
        for row in rows:
            yield f"| {' | '.join(_cell(row.get(column, '–')) for column in columns)} |"
        if failed := result.get("failed"):
            yield f"\nFailed: {failed if isinstance(failed, str) else ' / '.join(failed)}"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
