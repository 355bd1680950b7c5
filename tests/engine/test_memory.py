"""How many cells go together where memory is short; the device's free memory is made up here."""

from itertools import pairwise

import pytest
import torch

from wdgrid.engine import Workbench, chunk_size, memory
from wdgrid.engine.fused.kernels import CrossEntropy
from wdgrid.engine.workbench import unused_gpu
from wdgrid.models.resnet import resnet
from wdgrid.study.sections import Task

MIB = 2**20
NETWORKS = {
    "mlp": Task(device="cpu"),
    "resnet": Task(model="resnet", device="cpu"),
    "bfloat16": Task(model="resnet", precision="bfloat16", device="cpu"),
    "shake": Task(model="shake-shake", model_args={"depth": 8, "width": 4}, device="cpu"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def bench(request):
    return Workbench(NETWORKS[request.param])


def size(bench, device, free, monkeypatch):
    """K on a device of so many bytes of free memory; one processor core."""
    monkeypatch.setattr(bench, "device", torch.device(device))
    monkeypatch.setattr(memory, "free", lambda asked: free if asked == device else pytest.fail(asked))
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return chunk_size(bench)


def test_cells_are_as_many_as_half_of_a_gpus_free_memory_holds(bench, monkeypatch):
    sizes = [size(bench, "cuda", 2**n * MIB, monkeypatch) for n in range(-6, 22)]
    assert sizes[0] == 1 and 256 <= sizes[-1] <= 1024
    assert all(b in (a, 2 * a, sizes[-1]) for a, b in pairwise(sizes))  # powers of two, to the most
    few = next(n for n, k in enumerate(sizes) if k == 4) - 6
    taken = max(taken_by_a_cell(bench), 1)
    assert 4 * taken < 2**few * MIB / 2 < 4 * 64 * taken, (taken, few)  # it fits, and is no wild guess


def taken_by_a_cell(bench):
    """Bytes of one cell in the stacked backend: weights, gradients and what autograd keeps; from 2 and 4 cells."""
    taken = []
    for cells in (2, 4):
        network, kept = bench.network(0, cells), {}

        def note(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        x, y = bench.data.prepared(bench.data.train_x[: bench.task.batch_size]), bench.data.train_y[:50]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            losses = CrossEntropy.apply(network(x, training=True), y[: len(x)])
        own = {network.theta.untyped_storage().data_ptr()}
        held = [network.theta, network.gradient, *(t for place, t in kept.items() if place not in own)]
        taken.append(sum(t.untyped_storage().nbytes() for t in held))
        del losses
    return (taken[1] - taken[0]) / 2


def test_a_cpu_takes_fewer_only_where_memory_is_short(bench, monkeypatch):
    plenty, enough, short = (size(bench, "cpu", free, monkeypatch) for free in (2**40, 2**31, 2**18))
    assert short == 1 < enough == plenty


def test_what_grows_with_the_images_is_told_from_what_does_not():
    module, x = resnet(3, 10, depth=8, width=4), torch.randn(2, 3, 16, 16)
    none, step, test = (memory.of_a_cell(module, x, *images, 4 * 16 * 16) for images in ((0, 0), (100, 0), (0, 100)))
    assert none == memory.STATE * 4 * sum(p.numel() for p in module.parameters())
    assert test - none == 100 * 2 * 4 * 16 * 16 * 4
    assert step - none > 100 * 10 * 4 * 16 * 16  # ten maps of the first stage at least are kept
    assert memory.of_a_cell(module, torch.randn(6, 3, 16, 16), 100, 0, 4 * 16 * 16) == step


def test_free_memory_of_a_cpu_is_what_the_system_says():
    assert 2**20 < memory.free("cpu") < 2**50


def grouped(root, version, path, groups, available=8 * MIB):
    """A file system with a process's control groups; `groups` has limit, usage and cache by folder."""
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}
    limit, usage, cache = names.get(version, ("memory.max", "memory.current", "inactive_file"))
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {available // 1024} kB\n")
    head = "7:cpu,cpuacct:/\n3:memory:" if version == 1 else "0::"
    (root / "proc/self/cgroup").write_text(f"{head}{path}\n")
    mount = root / ("sys/fs/cgroup/memory" if version == 1 else "sys/fs/cgroup")
    for folder, numbers in groups.items():
        (mount / folder).mkdir(parents=True, exist_ok=True)
        for name, number in zip((limit, usage), numbers, strict=False):
            (mount / folder / name).write_text(f"{number}\n")
        (mount / folder / "memory.stat").write_text(f"anon 1\n{cache} {numbers[2]}\n")
    return root


@pytest.mark.parametrize(
    ("version", "path", "groups", "expected"),
    [
        (2, "/a/b", {"a": (3 * MIB, MIB, 0), "a/b": ("max", MIB, 0)}, 2 * MIB),  # the outer group's limit
        (2, "/a/b", {"a": ("max", 0, 0), "a/b": (3 * MIB, 2 * MIB, MIB // 2)}, 3 * MIB // 2),  # files may go
        (2, "/", {".": (MIB, 5 * MIB, 0)}, 0),
        (2, "/on/the/host", {".": (4 * MIB, MIB, 0)}, 3 * MIB),  # a container sees its own group as the root
        (2, "/a", {"a": ("max", MIB, 0)}, 8 * MIB),
        (1, "/docker/x", {"docker/x": (5 * MIB, MIB, 0)}, 4 * MIB),
        (1, "/docker/x", {".": (2**63 - 4096, MIB, 0)}, 8 * MIB),  # no limit
    ],
)
def test_a_containers_limit_is_seen(tmp_path, monkeypatch, version, path, groups, expected):
    monkeypatch.setattr(memory, "ROOT", grouped(tmp_path, version, path, groups))
    assert memory.free("cpu") == expected


def test_without_control_groups_the_systems_memory_is_free(tmp_path, monkeypatch):
    root = grouped(tmp_path, 2, "/", {})
    (root / "proc/self/cgroup").unlink()
    monkeypatch.setattr(memory, "ROOT", root)
    assert memory.free("cpu") == 8 * MIB


def test_a_driver_that_torch_cannot_use_is_said(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert unused_gpu(cpu) is None
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    words = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(words)
    assert "the NVIDIA driver 470.57.02 is installed" in (unused_gpu(cpu) or "")
    monkeypatch.setattr(torch.version, "cuda", None)  # a torch for CPUs
    assert unused_gpu(cpu) is None
