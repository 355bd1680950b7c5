"""The parts of `gpu.py`, each in a process of its own: gpu_parts.py PART DEVICE SECONDS; prints JSON objects."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdgrid.engine import Checkpoint, Job, Workbench, memory, train
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.optim.fused import Rule
from wdgrid.study import Cell
from wdgrid.study.sections import Constant, Task

DEVICE, ENDS = "cpu", 0.0
# Network, shape of an example, images of a minibatch, K.
WORK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "mlp": (networks.mlp, (1, 8, 8), 64, 256),
    "cnn": (networks.cnn, (1, 8, 8), 64, 128),
    "resnet8": (networks.ResNet8, (3, 32, 32), 128, 32),
    "shake": (lambda: _shake(), (3, 32, 32), 128, 4),
    "vit": (networks.ViT, (1, 8, 8), 64, 32),
    "gpt": (networks.GPT, (1, 8, 8), 64, 32),
}


def _shake() -> nn.Module:
    from wdgrid.models.shake import shake_shake

    return shake_shake(3, 10, depth=26, width=64, level="image")


def tell(**row: object) -> None:
    """One row of results."""
    print(json.dumps(row), flush=True)


def left() -> float:
    """Seconds that this part still has."""
    return ENDS - time.monotonic()


def small() -> bool:
    """Whether this is a dry run."""
    return DEVICE == "cpu"


def ready() -> None:
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], at_most: float = 1.0) -> float:
    """Of one call: the median of five samples, after two calls that are not counted."""
    for _ in range(2):
        work()
    ready()
    began = time.perf_counter()
    work()
    ready()
    count = max(1, int(at_most / 5 / max(1e-6, time.perf_counter() - began)))
    samples: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            work()
        ready()
        samples.append((time.perf_counter() - began) / count)
    return sorted(samples)[2]


def precise(precision: str) -> torch.dtype | None:
    """Sets how float32 products are computed; the format of autocast, where there is one."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.bfloat16 if precision == "bfloat16" else None


def gemm() -> None:
    """The rate of square products, which shares are of."""
    size = 256 if small() else 8192
    for precision in ("float32", "tf32", "bfloat16"):
        dtype = precise(precision) or torch.float32
        a = torch.randn(size, size, device=DEVICE).to(dtype)
        tell(precision=precision, tflops=2 * size**3 / seconds(lambda a=a: a @ a) / 1e12)


def networks_part() -> None:
    """wdgrid's steps (eager, recorded) beside a plain loop, compiled and not; shares of the GEMM rate."""
    rates: dict[str, float] = {}
    size = 256 if small() else 8192
    for precision in ("float32", "tf32", "bfloat16"):
        dtype = precise(precision) or torch.float32
        a = torch.randn(size, size, device=DEVICE).to(dtype)
        rates[precision] = 2 * size**3 / seconds(lambda a=a: a @ a, 0.3)
    for precision in ("float32", "bfloat16", "tf32"):
        for name in WORK:
            if small() and name in ("shake", "resnet8"):
                continue
            for way in ("graph", "eager", "plain", "compiled"):
                if left() < 8 and not small():
                    tell(network=name, precision=precision, way=way, note="no time was left")
                    continue
                try:
                    _measured(name, precision, way, rates[precision])
                except Exception as error:  # one that fails is a result, too
                    tell(network=name, precision=precision, way=way, note=f"{type(error).__name__}: {error}"[:200])
                    ready()


def _measured(name: str, precision: str, way: str, rate: float) -> None:
    make, shape, batch, cells = WORK[name]
    if small():
        batch, cells = 8, 2
    torch.manual_seed(0)
    x, y = torch.randn(batch, *shape, device=DEVICE), torch.randint(0, 10, (batch,), device=DEVICE)
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    module = make().to(DEVICE)
    flops = _flops(module, x, y)
    if way in ("plain", "compiled"):
        step, together = _plain(module, x, y, precision, compiled=way == "compiled"), 1
    else:
        step, together = _fused(module, x, y, precision, cells, record=way == "graph"), cells
    took = seconds(step, 0.3) / together
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else None
    row = {"network": name, "precision": precision, "way": way, "K": together, "µs a cell-step": 1e6 * took}
    tell(**row, **{"share of GEMM, %": 100 * flops / took / rate, "GiB": peak})


def _flops(module: nn.Module, x: Tensor, y: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(module(x), y).backward()
    return counter.get_total_flops()


def _plain(module: nn.Module, x: Tensor, y: Tensor, precision: str, *, compiled: bool) -> Callable[[], object]:
    """A step as one writes it, with AdamW."""
    low = precise(precision)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=DEVICE == "cuda")
    forward = torch.compile(module) if compiled else module

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE, low, enabled=low is not None):
            loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()

    return step


def _fused(
    module: nn.Module, x: Tensor, y: Tensor, precision: str, cells: int, *, record: bool
) -> Callable[[], object]:
    """wdgrid's step of K cells with AdamW; recorded as a CUDA graph, or not."""
    from wdgrid.engine.cuda.graph import Graphs
    from wdgrid.engine.cuda.resident import Resident

    precise("float32")  # in which backends are compared
    low = torch.bfloat16 if precision == "bfloat16" else None
    network = FusedNetwork(module, cells, x, None, low)
    precise(precision)
    hyper = {"lr": 1e-3, "weight_decay": 1e-4, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    rule = Rule("adamw", network.theta, {name: torch.full((cells,), value) for name, value in hyper.items()})
    etas = [1.0] * 16
    graphs = Graphs() if record and DEVICE == "cuda" else None
    run = Resident(network, rule, etas, etas, 0, graphs)
    run.train(lambda i: (x, y), 0, 2)
    return run._replay or run._step_here


def convolutions() -> None:
    """K·C channels in one grouped convolution, K convolutions, and unfold with one bmm: forward and backward."""
    batch = 2 if small() else 128
    for channels, side in ((16, 32), (64, 16), (64, 32), (256, 8)):
        for cells in (2,) if small() else (4, 16):
            x = torch.randn(batch, cells * channels, side, side, device=DEVICE, requires_grad=True)
            weight = torch.randn(cells * channels, channels, 3, 3, device=DEVICE, requires_grad=True)

            def grouped(x: Tensor = x, weight: Tensor = weight, cells: int = cells) -> Tensor:
                return F.conv2d(x, weight, padding=1, groups=cells)

            def separate(x: Tensor = x, weight: Tensor = weight, cells: int = cells) -> Tensor:
                parts = zip(x.chunk(cells, 1), weight.chunk(cells), strict=True)
                return torch.cat([F.conv2d(a, b, padding=1) for a, b in parts], 1)

            def unfolded(x: Tensor = x, weight: Tensor = weight, cells: int = cells) -> Tensor:
                own = F.unfold(x, 3, padding=1).unflatten(1, (cells, -1)).permute(1, 2, 0, 3).flatten(2)
                return torch.bmm(weight.view(cells, -1, own.shape[1]), own)

            for name, way in (("grouped", grouped), ("separate", separate), ("unfold + bmm", unfolded)):
                if left() < 3 and not small():
                    return
                try:
                    took = seconds(lambda way=way: way().sum().backward(), 0.2)
                    tell(channels=channels, side=side, K=cells, way=name, ms=1e3 * took)
                except RuntimeError as error:
                    tell(channels=channels, side=side, K=cells, way=name, note=str(error)[:120])


def _cells(n: int) -> list[Cell]:
    extra = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    return [Cell("p", 0, {"lr": 0.001 * (k + 1), "weight_decay": 1e-3, **extra}, (str(k), "1")) for k in range(n)]


def resume() -> None:
    """Whether training that goes on from a checkpoint ends in the bits of training that never stopped."""
    for model in ("mlp", "resnet"):
        task = Task(model=model, train_size=200, test_size=100, epochs=4, device=DEVICE)  # type: ignore[arg-type]
        job, cells = Job("adamw", Constant(), 4, False), _cells(4)
        bench = Workbench(task)
        whole = train(bench, job, cells, 4, lambda done: None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chunk"

            class StoppedError(Exception):
                pass

            def stop(done: int, error: type[Exception] = StoppedError) -> None:
                if done == 3:
                    raise error

            with contextlib.suppress(StoppedError):
                train(bench, job, cells, 4, stop, Checkpoint(path, "same", 0.0, print))
            resumed = train(Workbench(task), job, cells, 4, lambda done: None, Checkpoint(path, "same", 0.0, print))
        same = [
            a.test_loss == b.test_loss and a.weight_norm == b.weight_norm for a, b in zip(whole, resumed, strict=True)
        ]
        tell(network=model, **{"equal to the bit": all(same)})


def memory_part() -> None:
    """K as chosen under a limit of memory: whether it fits, and how much of the limit it takes."""
    from wdgrid.engine import chunk_size

    if DEVICE == "cuda":
        torch.cuda.set_per_process_memory_fraction(0.05)
    for model in ("mlp", "resnet"):
        bench = Workbench(Task(model=model, train_size=256, test_size=256, epochs=1, device=DEVICE))  # type: ignore[arg-type]
        limit = 0.05 * torch.cuda.mem_get_info()[1] if DEVICE == "cuda" else float(memory.free("cpu"))
        free = memory.free
        memory.free = lambda device, limit=limit: int(limit)
        try:
            cells = min(chunk_size(bench), 8) if small() else chunk_size(bench)
            train(bench, Job("adamw", Constant(), 1, False), _cells(cells), cells, lambda done: None)
            note = "it fits"
        except torch.OutOfMemoryError as error:
            note = f"it does not fit: {error}"[:160]
        finally:
            memory.free = free
        peak = torch.cuda.max_memory_allocated() / limit if DEVICE == "cuda" else None
        tell(network=model, K=cells, note=note, **{"peak over limit": peak})


def mps() -> None:
    """K processes of the plain loop at once, under MPS where the machine has it, beside K cells in one."""
    started = DEVICE == "cuda" and subprocess.run(["nvidia-cuda-mps-control", "-d"], check=False).returncode == 0
    try:
        for name in ("mlp", "cnn", "vit"):
            for processes in (1, 2) if small() else (1, 4, 8):
                if left() < 25 and not small():
                    return
                command = [sys.executable, __file__, f"loop:{name}", DEVICE, "20"]
                running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
                rates = [json.loads(p.communicate()[0].splitlines()[-1])["rate"] for p in running]
                row: dict[str, Any] = {"network": name, "processes": processes, "MPS": started}
                tell(**row, **{"µs a cell-step": 1e6 / sum(rates)})
    finally:
        if started:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, check=False)


def loop(name: str) -> None:
    """Steps a second of one plain loop, in seconds that all processes of `mps` share."""
    make, shape, batch, _ = WORK[name]
    batch = 8 if small() else batch
    x, y = torch.randn(batch, *shape, device=DEVICE), torch.randint(0, 10, (batch,), device=DEVICE)
    step = _plain(make().to(DEVICE), x, y, "float32", compiled=False)
    for _ in range(5):
        step()
    ready()
    begin = (int(time.time() / 5) + 1) * 5  # all begin together
    time.sleep(max(0.0, begin - time.time()))
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < (0.5 if small() else 3.0):
        for _ in range(10):
            step()
        ready()
        steps += 10
    tell(rate=steps / (time.perf_counter() - began))


def main() -> None:
    """One part."""
    global DEVICE, ENDS
    part, DEVICE, limit = sys.argv[1:4]
    ENDS = time.monotonic() + float(limit)
    if small():
        torch.set_num_threads(1)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "wdgrid-inductor"))
    parts = {"gemm": gemm, "networks": networks_part, "convolutions": convolutions, "resume": resume}
    parts |= {"memory": memory_part, "mps": mps}
    if part.startswith("loop:"):
        loop(part.removeprefix("loop:"))
    else:
        parts[part]()


if __name__ == "__main__":
    main()
