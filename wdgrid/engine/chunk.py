"""Chooses K, the number of cells that train together, from the network, the batch size and the device.

It is a rule and not a measurement, so two runs of one study use the same K and give the same bits. If memory is short,
K is a smaller power of two, so small differences in free memory do not change it. K is stored with the study.
"""

import math
import os

import torch
from torch import Tensor

from wdgrid.engine import memory
from wdgrid.engine.fused.kernels import LANES
from wdgrid.engine.loop import EVALUATION_BATCH
from wdgrid.engine.workbench import Workbench

# Bytes for a layer's activations of all K cells. Measured on a core with 2 MiB of L2 cache: an MLP is fastest between
# 200 and 800 KiB (its weights and moments also need the cache), convolutions at 1.6 MB.
FEATURES_BYTES, MAPS_BYTES, GPU_BYTES = 512 * 1024, 1600 * 1024, 256 * 1024**2
# For tokens [B, N, D], whose products are large: a ViT with 835 KB per cell ran 1.0, 1.1, 1.2 and 1.3 times as fast as
# the plain loop with 1, 2, 4 and 8 cells (AMD EPYC, a loaded machine).
TOKENS_BYTES = 4 * 1024**2
MAX_CELLS = {"cpu": 64, "cuda": 1024}
SHARE = 0.5  # of free memory, for the cells; the rest is for libraries and a reserve


def chunk_size(bench: Workbench) -> int:
    """K for this task: the most cells whose largest activation of a step fits into the cache (CPU).

    For a convolution with few channels, K is large enough that K·C channels fill a vector register. If possible, K·C is
    divisible by the numbers in a register, because batch norm is then faster. On a GPU, small networks are limited by
    kernel launches, so many more cells train together, and the largest activation may take 256 MiB. K is smaller if the
    device has too little memory.
    """
    data = bench.data
    x = data.prepared(data.train_x[:2])
    module = bench.module(seed=0).to(x)
    largest, channels, tokens = _activations(module, x)
    most = min(MAX_CELLS[bench.device.type], _fitting(bench, module, x, largest))
    per_cell = largest * bench.batch * (bench.products or x.dtype).itemsize
    if bench.device.type != "cpu":
        return max(1, min(most, GPU_BYTES // per_cell))
    if tokens or not channels:
        return max(1, min(most, (TOKENS_BYTES if tokens else FEATURES_BYTES) // per_cell))
    together = LANES // math.gcd(LANES, channels)
    cells = min(most, max(math.ceil(LANES / channels), MAPS_BYTES // per_cell))
    return max(1, cells - cells % together if cells >= together else cells)


def _fitting(bench: Workbench, module: torch.nn.Module, x: Tensor, largest: int) -> int:
    """The largest power of two of cells that fits into a process's share of the device's free memory."""
    tested = min(EVALUATION_BATCH, len(bench.data.test_x))
    processes = (os.cpu_count() or 1) if bench.device.type == "cpu" else 1
    room = SHARE * memory.free(bench.device.type) / processes
    cells = int(room // memory.of_a_cell(module, x, bench.batch, tested, largest, bench.products))
    return 1 << max(0, cells.bit_length() - 1)


def _activations(module: torch.nn.Module, x: Tensor) -> tuple[int, int, bool]:
    """Per image, the numbers in the largest output of a layer; channels; whether that output is of tokens, [B, N, D].

    The channels are those of the narrowest convolution, 0 without one.
    """
    sizes, channels = [(1, False)], []

    def measure(layer: torch.nn.Module, _inputs: object, out: object) -> None:
        if isinstance(out, Tensor):
            sizes.append((out[0].numel(), out.dim() == 3))
        if isinstance(layer, torch.nn.Conv2d):
            channels.append(layer.out_channels)

    for layer in module.modules():
        layer.register_forward_hook(measure)
    with torch.no_grad():
        module(x)
    largest, tokens = max(sizes)
    return largest, min(channels, default=0), tokens
