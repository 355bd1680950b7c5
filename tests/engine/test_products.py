"""Large products by oneDNN and by torch.bmm: float32 all through, equal bits in every slot."""

import pytest
import torch

from wdgrid.engine.fused import products

CELLS = 5
SIZES = [(1024, 64, 192), (1024, 192, 64), (1088, 65, 67), (256, 96, 192), (64, 257, 256)]  # M, in, out
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def results(monkeypatch, by_onednn, x, weight, bias, g):
    """Output and gradients of x, weight and bias, [K, …]."""
    monkeypatch.setattr(products, "OFF_INTEL", by_onednn)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    sinks = torch.empty_like(weight), torch.empty_like(bias)
    out = products.TokenLinear.apply(*leaves, *sinks)
    (back,) = torch.autograd.grad(out, leaves[:1], g)
    without_sinks = products.TokenLinear.apply(*leaves, None, None)
    for own, sink in zip(torch.autograd.grad(without_sinks, leaves[1:], g), sinks, strict=True):
        torch.testing.assert_close(own, sink, rtol=1e-4, atol=1e-3)
    return out, back, *sinks


@needs_onednn
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SIZES)
def test_both_libraries_err_by_float32_and_no_more(monkeypatch, tokens, inputs, outputs):
    torch.manual_seed(0)
    shapes = (CELLS, tokens, inputs), (CELLS, outputs, inputs), (CELLS, outputs), (CELLS, tokens, outputs)
    x, weight, bias, g = (torch.randn(shape) for shape in shapes)
    exact = results(monkeypatch, False, *(tensor.double() for tensor in (x, weight, bias, g)))
    for by_onednn in (False, True):
        for own, expected in zip(results(monkeypatch, by_onednn, x, weight, bias, g), exact, strict=True):
            error = (own.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
            assert error < 1e-6  # of bfloat16 it would be 2e-3, of TF32 3e-4


@needs_onednn
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SIZES)
def test_equal_cells_are_equal_in_every_slot_with_onednn(monkeypatch, tokens, inputs, outputs):
    torch.manual_seed(0)
    shapes = (1, tokens, inputs), (1, outputs, inputs), (1, outputs), (1, tokens, outputs)
    equal = [torch.randn(shape).repeat(CELLS, *[1] * (len(shape) - 1)) for shape in shapes]
    for own in results(monkeypatch, True, *equal):
        assert torch.equal(own, own[:1].expand_as(own))


@needs_onednn
def test_onednn_multiplies_what_is_large_and_float32(monkeypatch):
    monkeypatch.setattr(products, "OFF_INTEL", True)
    assert products.library() == "oneDNN"
    a, b = torch.ones(2, 1024, 64), torch.ones(2, 64, 64)
    assert products._by_onednn(a, b) and not products._by_onednn(a[:, 1:], b)
    assert not products._by_onednn(a.double(), b.double()) and not products._by_onednn(a.bfloat16(), b.bfloat16())
    monkeypatch.setattr(products, "OFF_INTEL", False)
    assert products.library() == "torch.bmm" and not products._by_onednn(a, b)
