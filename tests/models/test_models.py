"""The built-in networks: their shapes, sizes and initialisation, and the engine's stacked backend of them."""

import itertools
import math

import pytest
import torch
from torch import nn

from wdgrid import models
from wdgrid.engine.fused.kernels import CrossEntropy
from wdgrid.engine.fused.network import FusedNetwork, Kind
from wdgrid.models.shake import Shake, TwoPaths
from wdgrid.study.sections import Task

CLASSES = 10
SMALL = {
    "resnet": {"depth": 8, "width": 3},
    "shake-shake": {"depth": 8, "width": 3, "level": "image"},
    "tf-tutorial": {},
}
SHAPE = 2, 9, 8


def network(model: str, seed: int = 0, features=None, **args) -> nn.Module:
    task = Task(model=model, model_args={**SMALL[model], **args})
    return models.build(task, torch.Size(features or SHAPE), CLASSES, seed)


def perturb(tensors) -> None:
    """Cell k's own weights: as different as cells become."""
    with torch.no_grad():
        for k, tensor in enumerate(tensors):
            tensor *= 1 + 0.2 * k


@pytest.mark.parametrize(("backend", "cells"), [("stacked", 1), ("stacked", 3), ("vmap", 2), ("one by one", 2)])
@pytest.mark.parametrize("model", SMALL)
def test_every_backend_is_k_plain_runs(model, backend, cells):
    """Three steps of gradient descent and a test pass in float64: losses, parameters, gradients and buffers."""
    random = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(7, *SHAPE, dtype=torch.float64, generator=random), torch.arange(7) % CLASSES) for _ in range(3)
    ]
    fused = FusedNetwork(network(model).double(), cells, batches[0][0])
    assert fused.backend == "stacked"
    fused = FusedNetwork(network(model).double(), cells, batches[0][0], Kind(backend, fused.kind.random))
    plain = [network(model).double() for k in range(cells)]
    perturb(fused.theta)
    for parameters in zip(*(module.parameters() for module in plain), strict=True):
        perturb(parameters)
    for step, (x, y) in enumerate(batches):
        losses = CrossEntropy.apply(fused(x, training=True, noise=step), y)
        fused.backward(losses)
        for k, module in enumerate(plain):
            torch.manual_seed(step)
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
            torch.testing.assert_close(fused(x, training=False)[k], module.eval()(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", SMALL)
def test_a_network_is_a_function_of_its_seed(model):
    same, again, other = (network(model, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert any(not torch.equal(same[name], other[name]) for name in same)


@pytest.mark.parametrize("model", SMALL)
def test_a_network_for_images_refuses_anything_else(model):
    with pytest.raises(models.ModelError, match=rf"^{model} needs images .*, not inputs \[64\]$"):
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


@pytest.mark.parametrize("model", ["resnet", "shake-shake"])
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
    x, y = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(2)), torch.arange(16) % CLASSES
    results = []
    for order in ([0, 1, 2, 3, 4], [3, 4, 0, 2, 1]):
        fused = FusedNetwork(network(model), len(order), x)
        perturb(fused.theta[slot] for slot in torch.tensor(order).argsort())
        losses = CrossEntropy.apply(fused(x, training=True), y)
        fused.backward(losses)
        back = torch.tensor(order).argsort()
        results.append((losses[back], fused.gradient[back], *(b[back] for b in fused.buffers.values())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("width", "count"), [(64, 11_653_978), (96, 26_192_922)])
def test_shake_shake_26_has_the_authors_layers(width, count):
    """Counted from the layers of the released code. The paper says 11.6 M; its 25.6 M for 96d is not its code."""
    n, stem, widths = 4, 16, [width, 2 * width, 4 * width]
    expected = 9 * 3 * stem + 2 * stem
    for inputs, w in itertools.pairwise([stem, *widths]):
        branches = 2 * n * (9 * w * w + 2 * 2 * w) + 2 * 9 * inputs * w + 2 * (n - 1) * 9 * w * w
        expected += branches + inputs * w + 2 * w  # the skip: two halves of a 1 × 1 convolution, and batch norm
    expected += widths[-1] * CLASSES + CLASSES
    with torch.device("meta"):
        module = network("shake-shake", features=(3, 32, 32), depth=26, width=width)
    assert sum(p.numel() for p in module.parameters()) == expected == count
    assert sum(isinstance(m, Shake) for m in module.modules()) == 3 * n


@pytest.mark.parametrize("level", ["image", "batch"])
def test_shake_mixes_by_alpha_forward_and_by_beta_backward(level):
    """Against the plain formulas, with α and β read off a second pass of the same seed."""
    a, b, weights = torch.randn(3, 6, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a.requires_grad_()
    b.requires_grad_()
    shake = Shake(level)
    torch.manual_seed(3)
    out = shake(a, b)
    gradients = torch.autograd.grad((weights * out).sum(), (a, b))
    torch.manual_seed(3)
    alpha = shake(torch.ones(6, 1, 1, 1).double(), torch.zeros(6, 1, 1, 1).double())
    beta = (gradients[0] / weights)[:, :1, :1, :1]
    torch.testing.assert_close(out, alpha * a + (1 - alpha) * b)
    even = beta * a + (1 - beta) * b  # what autograd differentiates where forward and backward agree
    expected = torch.autograd.grad((weights * even).sum(), (a, b))
    torch.testing.assert_close(gradients, expected)
    draws = torch.cat([alpha.flatten(), beta.flatten()])
    assert len(draws.unique()) == (12 if level == "image" else 2) and draws.min() >= 0 and draws.max() < 1
    torch.testing.assert_close(shake.eval()(a, b), (a + b) / 2)


def test_shakes_noise_is_uniform():
    torch.manual_seed(0)
    n = 20_000
    a = torch.ones(n, 1, 1, 1, requires_grad=True)
    out = Shake("image")(a, torch.zeros(n, 1, 1, 1))
    (beta,) = torch.autograd.grad(out.sum(), a)
    for draws in (out.detach().flatten(), beta.flatten()):
        ranks = draws.sort().values - (torch.arange(n) + 0.5) / n
        assert ranks.abs().max() < 1.95 / math.sqrt(n)  # Kolmogorov and Smirnov: one in a thousand is further off
    assert abs(torch.corrcoef(torch.stack([out.detach().flatten(), beta.flatten()]))[0, 1]) < 4 / math.sqrt(n)


def test_the_skip_sees_every_second_pixel_twice_from_different_corners():
    """As the released code has it: average pooling of 1 × 1 with stride 2, of x and of x shifted by a pixel."""
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    skip = TwoPaths(3, 5, 2).double()
    rows, columns = torch.arange(0, 6, 2), torch.arange(0, 7, 2)
    padded = torch.zeros(2, 3, 7, 8, dtype=torch.float64)
    padded[:, :, 1:, 1:] = x
    samples = (t[:, :, rows][:, :, :, columns] for t in (x, padded))
    paths = (
        torch.einsum("bchw,oc->bohw", t, path.weight[:, :, 0, 0])
        for t, path in zip(samples, (skip.path1, skip.path2), strict=True)
    )
    torch.testing.assert_close(skip(x), skip.norm(torch.cat(list(paths), 1)))


@pytest.mark.parametrize("size", [(24, 24), (7, 10)])
def test_the_tutorials_network_is_what_tensorflow_computes(size):
    """Written out: windows that end at the border instead of padding, and TensorFlow's formula of the response norm."""
    module = network("tf-tutorial", features=(3, *size)).double()
    p = dict(module.named_parameters())
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def pool(x):
        for dim in (2, 3):
            n = x.shape[dim]
            out = math.ceil(n / 2)
            before = max((out - 1) * 2 + 3 - n, 0) // 2
            windows = [(max(0, 2 * i - before), min(n, 2 * i - before + 3)) for i in range(out)]
            x = torch.stack([x.narrow(dim, a, b - a).amax(dim) for a, b in windows], dim)
        return x

    def norm(x):
        squares = [x[:, max(0, c - 4) : c + 5].square().sum(1) for c in range(x.shape[1])]
        return x / (1 + 0.001 / 9 * torch.stack(squares, 1)) ** 0.75

    def convolution(x, name):
        return torch.relu(nn.functional.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=2))

    def dense(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    y = pool(norm(convolution(norm(pool(convolution(x, "conv1"))), "conv2"))).flatten(1)
    expected = dense(torch.relu(dense(torch.relu(dense(y, "fc3")), "fc4")), "linear")
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-12)


def test_the_tutorials_network_has_its_size_and_starts_as_written():
    module = network("tf-tutorial", features=(3, 24, 24))
    assert sum(p.numel() for p in module.parameters()) == 1_068_298
    start = {"conv1": (0.05, 0), "conv2": (0.05, 0.1), "fc3": (0.04, 0.1), "fc4": (0.04, 0.1), "linear": (1 / 192, 0)}
    parameters = dict(module.named_parameters())
    assert list(parameters) == [f"{layer}.{part}" for layer in start for part in ("weight", "bias")]
    for layer, (sigma, bias) in start.items():
        weight = parameters[f"{layer}.weight"]
        assert weight.abs().max() <= 2 * sigma
        # A normal distribution cut at two deviations has 0.8796 of the deviation.
        assert weight.std().item() == pytest.approx(0.8796 * sigma, abs=3 * sigma / math.sqrt(weight.numel()))
        assert torch.all(parameters[f"{layer}.bias"] == bias)
