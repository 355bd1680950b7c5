"""One small network for each stacked rule, by name: `table(width)` gives (name, network, shape of an example)."""

import torch
import torch.nn.functional as F
from torch import nn

TOKENS, MAPS, WAVES = (6, 7), (3, 9, 7), (3, 11)


def chained(x, *layers):
    for layer in layers:
        x = layer(x)
    return x


class Tokens(nn.Module):
    """A linear layer on 6 tokens of 7 numbers, then what is tested; `function` is called with the layers after x."""

    def __init__(self, width, *layers, function=None):
        super().__init__()
        self.first, self.layers, self.last = nn.Linear(7, width), nn.ModuleList(layers), nn.LazyLinear(10)
        self.function = function or chained

    def forward(self, x):
        return self.last(self.function(self.first(x), *self.layers).flatten(1))


class Maps(nn.Module):
    """A convolution, then what is tested."""

    def __init__(self, width, *layers, function=None, convolution=nn.Conv2d):
        super().__init__()
        self.first, self.layers = convolution(3, width, 3, padding=1), nn.ModuleList(layers)
        self.last, self.function = nn.LazyLinear(10), function or chained

    def forward(self, x):
        return self.last(self.function(self.first(x), *self.layers).flatten(1))


class Parameter(nn.Module):
    """Parameters that are used directly."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.parts = nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.function = function

    def forward(self, x):
        return self.function(x, *(self.parts[i] for i in range(len(self.parts))))


def halves(x):
    a, b = x.chunk(2, dim=-1)
    return a * torch.sigmoid(b)


def heads(x, n):
    b, length, width = x.shape
    return x.view(b, length, n, width // n).transpose(1, 2)


class Activated(nn.BatchNorm2d):
    """Batch norm and activation in one layer, as timm has it."""

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return F.silu(x)


class Standardised(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance 1."""

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


class WithWeights(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        y, weights = self.attention(x, x, x)
        return y + weights @ x


class Counted(nn.Module):
    """A running mean that is a user's own."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean((0, 1)))
            self.calls.add_(1)
        return x - self.mean / (1 + self.calls)


def noisy(x):
    """Noise for each example, changed in place."""
    noise = x.new_empty((x.shape[0], *(1,) * (x.ndim - 1))).bernoulli_(0.8)
    noise.div_(0.8)
    return x * noise


def padded(x):
    """Tokens to a multiple of four, by Python's own decisions and loops."""
    _, length, width = x.shape
    if length % 4 != 0:
        x = F.pad(x, (0, 0, 0, 4 - length % 4))
    parts = [x[:, i] * (i + 1) for i in range(x.size(1) // 2)]
    return torch.stack([part if len(parts) > 1 else part[:width] for part in parts], dim=1)


ACTIVATIONS = (
    nn.ReLU6(), nn.LeakyReLU(0.1), nn.Hardtanh(), nn.GELU("tanh"), nn.SiLU(inplace=True), nn.Mish(), nn.Tanh(),
    nn.Sigmoid(), nn.ELU(), nn.CELU(), nn.SELU(), nn.Softplus(), nn.Softsign(), nn.LogSigmoid(), nn.Hardswish(),
    nn.Hardsigmoid(), nn.Tanhshrink(), nn.Softshrink(), nn.Softmax(-1), nn.Softmax(1), nn.LogSoftmax(dim=2),
)  # fmt: skip
POOLS = (
    nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d((2, 3), ceil_mode=True), nn.AdaptiveAvgPool2d((2, 3)),
    nn.AdaptiveMaxPool2d(2), nn.ZeroPad2d(1), nn.ReflectionPad2d(2), nn.ReplicationPad2d((0, 1, 2, 1)),
    nn.Upsample(scale_factor=2),
)  # fmt: skip
WAVE_POOLS = (
    nn.MaxPool1d(2),
    nn.AvgPool1d(3, 2),
    nn.AdaptiveAvgPool1d(3),
    nn.AdaptiveMaxPool1d(2),
    nn.ReflectionPad1d(1),
)


def tokens(w):
    """On tokens [B, 6, w]."""
    for layer in ACTIVATIONS:
        yield str(layer), Tokens(w, layer)
    yield "layer norm", Tokens(w, nn.LayerNorm(w))
    yield "layer norm of all tokens", Tokens(w, nn.LayerNorm((6, w)))
    yield "layer norm, no bias", Tokens(w, nn.LayerNorm(w, bias=False))
    yield "layer norm, no scale", Tokens(w, nn.LayerNorm(w, elementwise_affine=False))
    yield "rms norm", Tokens(w, nn.RMSNorm(w))
    yield "dropout", Tokens(w, nn.Dropout(0.3), nn.GELU())
    yield "dropout of tokens", Tokens(w, nn.Dropout1d(0.3))
    yield "linear", Tokens(w, nn.Linear(w, w + 1, bias=False), nn.Linear(w + 1, 5))
    yield "batch norm of tokens", Tokens(w, nn.BatchNorm1d(6), nn.ReLU())
    yield "residual", Tokens(w, nn.Linear(w, w), function=lambda x, f: x + f(x) * 0.5 - 1)
    yield "powers", Tokens(w, function=lambda x: x**2 / (1 + x.abs()).sqrt() + torch.exp(-x).clamp(max=2))
    yield "gates", Tokens(2 * w, function=halves)
    yield "glu", Tokens(2 * w, nn.GLU())
    yield "choices", Tokens(w, function=lambda x: torch.where(x > 0, x, 0.1 * x).masked_fill(x > 1, 1.0))
    yield "mean over tokens", Tokens(w, function=lambda x: x.mean(1) + x.sum(dim=1) + x.amax(-2))
    yield (
        "variance",
        Tokens(w, function=lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1).sqrt()),
    )
    yield "first token", Tokens(w, function=lambda x: x[:, 0] + x[:, -1])
    yield (
        "slices",
        Tokens(
            w, function=lambda x: torch.cat([x[:, ::2], x[:, 1:4, None, :3].squeeze(2).repeat(1, 1, w)[..., :w]], 1)
        ),
    )
    yield "index", Tokens(w, function=lambda x: x[:, torch.tensor([3, 1, 3])])
    yield "split", Tokens(w, function=lambda x: torch.stack(x.split(2, dim=1), dim=-1).unbind(1)[1])
    yield "transpose", Tokens(w, nn.Linear(6, 5), function=lambda x, f: f(x.transpose(1, 2)).permute(0, 2, 1))
    yield "unflatten", Tokens(w, function=lambda x: x.unflatten(1, (2, 3)).mean(2).unsqueeze(1).flatten(1, 2))
    yield "roll", Tokens(w, function=lambda x: x.roll(2, 1) + x.flip(1) + torch.roll(x, shifts=1, dims=1))
    yield "shape", Tokens(w, function=lambda x: x.reshape(x.size(0), x.shape[1] * x.size(-1)) / x.dim())
    yield "matmul", Tokens(w, function=lambda x: (x @ x.transpose(-2, -1)).softmax(-1) @ x)
    yield "bmm", Tokens(w, function=lambda x: torch.bmm(x, x.mT))
    yield "einsum", Tokens(w, function=lambda x: torch.einsum("bnd,bmd->bnm", x, torch.tanh(x)))
    yield "attention", Tokens(2 * w, function=lambda x: F.scaled_dot_product_attention(*[heads(x, 2)] * 3))
    yield "causal", Tokens(w, function=lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    yield "multi-head, with weights", Tokens(2 * w, WithWeights(2 * w))
    yield "sizes decide", Tokens(w, function=padded)
    yield "a buffer counts", Tokens(w, Counted(w))
    yield "in place", Tokens(w, function=noisy)
    yield "addcmul", Tokens(w, nn.Linear(w, w), function=lambda x, f: torch.addcmul(x, f(x), x, value=0.3))
    yield "normalised", Tokens(w, function=lambda x: F.normalize(x, dim=-1) + F.normalize(x, p=1.0))
    yield "reshape_as", Tokens(w, function=lambda x: x.mT.reshape_as(x) + x.flatten(1).view_as(x))
    mask = torch.ones(6, 6).tril().bool()
    yield "mask", Tokens(w, function=lambda x: F.scaled_dot_product_attention(x, x, x, mask.to(x.device), 0.0))
    yield "attention dropout", Tokens(w, function=lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.2) + 1)
    long = Tokens(2 * w, function=lambda x: F.scaled_dot_product_attention(*[heads(x.repeat(1, 11, 1), 2)] * 3).mean(2))
    yield "attention of many tokens", long
    yield (
        "multi-head",
        Tokens(2 * w, nn.MultiheadAttention(2 * w, 2, batch_first=True), function=lambda x, f: f(x, x, x)[0]),
    )
    yield "encoder", Tokens(2 * w, nn.TransformerEncoderLayer(2 * w, 2, 9, batch_first=True, norm_first=True))
    yield (
        "positions",
        nn.Sequential(nn.Linear(7, w), Parameter(lambda x, p: x + p, (1, 6, w)), nn.Flatten(), nn.LazyLinear(10)),
    )
    token = Parameter(lambda x, p: torch.cat([p.expand(x.shape[0], -1, -1), x], 1), (1, 1, w))
    yield "class token", nn.Sequential(nn.Linear(7, w), token, nn.Flatten(), nn.LazyLinear(10))
    scaled = Parameter(lambda x, a, b: F.layer_norm(F.linear(x, a, b), (w,), b), (w, 7), (w,))
    yield "functions of parameters", nn.Sequential(scaled, nn.Flatten(), nn.LazyLinear(10))
    yield "embedding", nn.Sequential(Words(w), nn.Flatten(), nn.LazyLinear(10))


class Words(nn.Module):
    """Vectors for numbers, one of them for padding."""

    def __init__(self, width):
        super().__init__()
        self.words = nn.Embedding(5, width, padding_idx=2)

    def forward(self, x):
        return self.words(x.abs().mul(2).clamp(max=4).long())


def maps(w):
    """On maps [B, w, 9, 7]."""
    for layer in POOLS:
        yield f"{layer} of maps", Maps(w, layer)
    for layer in (nn.GELU(), nn.Softmax(1), nn.Dropout2d(0.3), nn.LocalResponseNorm(3)):
        yield f"{layer} of maps", Maps(w, layer)
    yield "group norm", Maps(w, nn.Conv2d(w, 6, 3), nn.GroupNorm(3, 6), nn.SiLU())
    yield "group norm, no scale", Maps(w, nn.GroupNorm(1, w, affine=False))
    yield "instance norm", Maps(w, nn.InstanceNorm2d(w, affine=True))
    yield "instance norm, no scale", Maps(w, nn.InstanceNorm2d(w))
    yield "batch norm", Maps(w, nn.BatchNorm2d(w), nn.ReLU(), nn.AvgPool2d(2))
    yield "batch norm without statistics", Maps(w, nn.BatchNorm2d(w, track_running_stats=False), nn.ReLU())
    yield "batch norm without scale", Maps(w, nn.Conv2d(w, 6, 3), nn.BatchNorm2d(6, affine=False))
    yield "batch norm of a library", Maps(w, Activated(w))
    yield "standardised weights", Maps(w, Standardised(w, 5, 3))
    yield "layer norm of maps", Maps(w, nn.LayerNorm((9, 7)))
    yield (
        "layer norm of channels",
        Maps(w, nn.LayerNorm(w), function=lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
    )
    yield "depthwise", Maps(w, nn.Conv2d(w, 2 * w, 3, groups=w), nn.SiLU())
    yield "grouped", Maps(2 * w, nn.Conv2d(2 * w, 4 * w, 3, 2, groups=2, bias=False))
    yield "dilated, reflected", Maps(w, nn.Conv2d(w, 5, 3, dilation=2, padding=2, padding_mode="reflect"))
    yield "transposed", Maps(w, nn.ConvTranspose2d(w, 5, 3, 2, output_padding=1))
    yield (
        "gate of channels",
        Maps(w, nn.Conv2d(w, w, 1), function=lambda x, f: x * torch.sigmoid(f(x.mean((2, 3), keepdim=True)))),
    )
    yield "tokens of maps", Maps(w, nn.Linear(w, 5), function=lambda x, f: f(x.flatten(2).transpose(1, 2)))
    yield "maps of tokens", Maps(w, nn.Conv2d(9, 4, 3), function=lambda x, f: f(x.transpose(1, 2)))
    yield (
        "pooled by function",
        Maps(w, function=lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2) + F.adaptive_avg_pool2d(x, 2)[:, :, :, :1]),
    )
    yield "padded", Maps(w, function=lambda x: F.pad(x, (1, 2, 0, 1)))
    yield "global mean", Maps(w, function=lambda x: x.mean(dim=[2, 3]))
    yield "branches", Maps(w, nn.Conv2d(w, 4, 1), function=lambda x, f: torch.cat([x, f(x)], dim=1).relu())
    scale = Parameter(lambda x, p: x + p * x, (w, 1, 1))
    yield "scale of channels", Maps(w, scale)


def waves(w):
    """On waves [B, w, 11]."""
    for layer in WAVE_POOLS:
        yield f"{layer} of waves", Maps(w, layer, convolution=nn.Conv1d)
    yield "Conv1d", Maps(w, nn.Conv1d(w, w + 1, 3, 2), nn.BatchNorm1d(w + 1), nn.ReLU(), convolution=nn.Conv1d)
    yield "grouped Conv1d", Maps(2 * w, nn.Conv1d(2 * w, 2 * w, 3, groups=2), nn.GELU(), convolution=nn.Conv1d)
    yield "group norm of waves", Maps(2 * w, nn.GroupNorm(2, 2 * w), convolution=nn.Conv1d)
    yield "instance norm of waves", Maps(w, nn.InstanceNorm1d(w), convolution=nn.Conv1d)


def table(width):
    """All of them: name, network, shape of an example."""
    for group, shape in ((tokens, TOKENS), (maps, MAPS), (waves, WAVES)):
        for name, network in group(width):
            yield name, network, shape


WITHOUT_RULE = {
    "maps, bilinear": lambda w: Maps(w, nn.Upsample(scale_factor=2, mode="bilinear")),
    "PReLU": lambda w: Tokens(w, nn.PReLU()),
    "LSTM": lambda w: Tokens(w, nn.LSTM(w, 5, batch_first=True), function=lambda x, f: f(x)[0]),
    "GRU": lambda w: Tokens(w, nn.GRU(w, 5, dropout=0.3, num_layers=2), function=lambda x, f: f(x)[0]),
    "alpha dropout": lambda w: Tokens(w, nn.AlphaDropout(0.3)),
    "maps, batch norm in three dimensions": lambda w: Maps(
        w, nn.BatchNorm3d(w), function=lambda x, f: f(x.unsqueeze(-1)).squeeze(-1)
    ),
    "median": lambda w: Tokens(w, function=lambda x: x.cumsum(1) + x.median(1, keepdim=True)[0]),
}
