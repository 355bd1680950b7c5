"""The built-in networks: their shapes, sizes and initialisation, and the engine's stacked form of them."""

import math

import pytest
import torch
from torch import nn

from wdgrid import models
from wdgrid.engine.fuse import FusedNetwork
from wdgrid.engine.layers import logits_loss
from wdgrid.sections import Task

CLASSES = 10
SMALL = {"resnet": {"depth": 8, "width": 3}}
SHAPES = {"resnet": (2, 9, 8)}


def network(model: str, seed: int = 0, features=None, **args) -> nn.Module:
    task = Task(model=model, model_args={**SMALL[model], **args})
    return models.build(task, torch.Size(features or SHAPES[model]), CLASSES, seed)


def perturbed(module: nn.Module, k: int) -> nn.Module:
    """Cell k's own weights: as different as cells become."""
    with torch.no_grad():
        for p in module.parameters():
            p *= 1 + 0.2 * k
    return module


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("model", SMALL)
def test_the_stacked_form_is_k_plain_runs(model, cells):
    """Three steps of gradient descent and a test pass in float64: losses, parameters, gradients and buffers."""
    random = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(7, *SHAPES[model], dtype=torch.float64, generator=random), torch.arange(7) % CLASSES)
        for _ in range(3)
    ]
    fused = FusedNetwork(network(model).double(), cells, batches[0][0])
    assert fused.form == "stacked"
    plain = [perturbed(network(model).double(), k) for k in range(cells)]
    for k in range(cells):
        fused.theta[k] *= 1 + 0.2 * k
    for x, y in batches:
        losses = logits_loss(fused(x, training=True), y)
        fused.backward(losses)
        for k, module in enumerate(plain):
            loss = nn.functional.cross_entropy(module(x), y)
            names, parameters = zip(*module.named_parameters(), strict=True)
            gradients = torch.autograd.grad(loss, parameters)
            assert losses[k].item() == pytest.approx(loss.item(), rel=1e-10)
            with torch.no_grad():
                for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
                    own = fused._view(fused.gradient, name)[k]
                    torch.testing.assert_close(own, gradient, rtol=1e-7, atol=1e-10, msg=name)
                    parameter -= 0.1 * gradient
        with torch.no_grad():
            fused.theta -= 0.1 * fused.gradient
    x = batches[0][0]
    for k, module in enumerate(plain):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(fused.parameters[name][k], parameter, rtol=1e-8, atol=1e-10)
        for name, buffer in module.named_buffers():
            torch.testing.assert_close(fused.buffers[name][k], buffer, rtol=1e-8, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(fused(x, training=False)[k].T, module.eval()(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", SMALL)
def test_a_network_is_a_function_of_its_seed(model):
    same, again, other = (network(model, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert any(not torch.equal(same[name], other[name]) for name in same)


@pytest.mark.parametrize("model", SMALL)
def test_a_network_for_images_refuses_anything_else(model):
    with pytest.raises(models.ModelError, match=rf"^{model} takes images .*, not inputs \[64\]$"):
        network(model, features=(64,))


@pytest.mark.parametrize(("depth", "width"), [(8, 16), (14, 5), (20, 16)])
def test_resnet_has_the_layers_its_depth_promises(depth, width):
    """6n + 1 convolutions of 3 × 3 and one linear layer; two 1 × 1 shortcuts, counted apart; sizes from 8 × 8 up."""
    module = network("resnet", features=(3, 32, 32), depth=depth, width=width)
    kernels = [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((3, 3)) == depth - 1 and kernels.count((1, 1)) == 2
    n, w = (depth - 2) // 6, width
    squares = 2 * n * w**2 + (2 + 4 + 4 * 2 * (n - 1)) * w**2 + (8 + 16 + 16 * 2 * (n - 1)) * w**2  # products of widths
    norms = 2 * (w + 2 * n * (w + 2 * w + 4 * w) + 2 * w + 4 * w)
    expected = 9 * (3 * w + squares) + (2 + 8) * w**2 + norms + 4 * w * CLASSES + CLASSES
    assert sum(p.numel() for p in module.parameters()) == expected
    for size in ((8, 8), (32, 32), (17, 9)):
        assert module(torch.zeros(2, 3, *size)).shape == (2, CLASSES)


@pytest.mark.parametrize("model", ["resnet"])
def test_convolutions_start_as_he_says_and_have_no_bias(model):
    for layer in network(model, depth=14, width=32).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            n = layer.weight.numel()
            sigma = math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
            # The deviation of a sample's deviation is σ/√(2n); its mean's, σ/√n.
            assert layer.weight.std().item() == pytest.approx(sigma, abs=4 * sigma / math.sqrt(2 * n))
            assert abs(layer.weight.mean().item()) < 4 * sigma / math.sqrt(n)


@pytest.mark.parametrize("model", SMALL)
def test_a_convolutional_cell_does_not_depend_on_its_slot(model):
    """To the bit, in single precision: forward and backward of the same cells in another order."""
    x, y = torch.randn(16, *SHAPES[model], generator=torch.Generator().manual_seed(2)), torch.arange(16) % CLASSES
    results = []
    for order in ([0, 1, 2, 3, 4], [3, 4, 0, 2, 1]):
        fused = FusedNetwork(network(model), len(order), x)
        for slot, k in enumerate(order):
            fused.theta[slot] *= 1 + 0.2 * k
        losses = logits_loss(fused(x, training=True), y)
        fused.backward(losses)
        back = torch.tensor(order).argsort()
        results.append((losses[back], fused.gradient[back], *(b[back] for b in fused.buffers.values())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
