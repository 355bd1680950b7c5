"""Measures how much memory is free, and estimates how much a cell in training needs."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from wdgrid.engine.randomness import generators, preserved

ROOT = Path("/")  # of the file system; tests replace it
STATE = 7  # numbers for each weight: itself, its gradient, two moments, and three while an update is computed


def free(device: str) -> int:
    """Bytes that are free on "cuda" or "cpu" (on a CPU, all memory if the system does not report what is free)."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    if (meminfo := ROOT / "proc/meminfo").exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    else:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([available, *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Bytes that are free within this process's control groups (such as a container's); Linux, versions 1 and 2."""
    try:
        groups = (ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = ROOT / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = ROOT / "sys/fs/cgroup/memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = mount / path.lstrip("/")  # from inside a container, the path may be the host's
        for group in (folder, *folder.parents) if folder.is_dir() else (mount,):
            if (left := _left(group, *names)) is not None:
                yield left
            if group == mount:
                break


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    """A group's limit minus its use; files in the cache that were not read recently are freed when needed."""
    try:
        most, used = ((group / name).read_text(encoding="utf-8").strip() for name in (limit, usage))
        statistics = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    cached = next((int(line.split()[1]) for line in statistics if line.split()[0] == cache), 0)
    return None if most == "max" else max(0, int(most) - int(used) + cached)


def of_a_cell(
    module: nn.Module, x: Tensor, batch: int, tested: int, largest: int, products: torch.dtype | None = None
) -> int:
    """Bytes, estimated, for one cell of a network on x [B, …] (B ≥ 2), with `batch` images a step and `tested` a test.

    The sum of three parts: the cell's state; what a step stores of each image for its backward pass, and two of the
    largest activations (`largest` numbers per image) for gradients; and two of the largest activations in a test pass,
    whose memory a GPU may not share with that of a recorded step.
    """
    weights = sum(p.numel() for p in module.parameters()) * STATE * x.element_size()
    with preserved(generators(x.device)), torch.autocast(x.device.type, products, enabled=products is not None):
        twice = torch.cat([x, x])
        image = max(0, _saved(module, twice) - _saved(module, x)) // len(x)  # the part that grows with the images
    activation = 2 * largest * (products or x.dtype).itemsize
    return weights + batch * (image + activation) + tested * activation


def _saved(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd stores in a training pass over x, without the input and the module's own tensors."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = module.train()(x)
    own = {t.untyped_storage().data_ptr() for t in (x, *module.parameters(), *module.buffers())}
    del out  # `out` kept all of them in memory until here
    return sum(size for place, size in found.items() if place not in own)
