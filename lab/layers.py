"""4x4 convolutions of stride 2, and transposed ones, as matrix products where that is faster.

Such a convolution is a 2x2 convolution of stride 1 over 2x2 blocks of pixels. Two neighbouring
outputs of it, y0 = g0 s0 + g1 s1 and y1 = g0 s1 + g1 s2, need three products, not four
(Winograd 1980): with a = g0 (s0 - s1), b = (g0 + g1) s1, c = g1 (s2 - s1) they are a + b and b + c.
In two dimensions nine products do the work of sixteen, and all are plain matrix products, which
CPUs do far better than their libraries' backward pass of convolutions on small maps. Each step is
linear, so each has an adjoint; the transposed convolution is the adjoint steps in reverse.
Parameters and results are those of the library's layers, up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _tiles(x: Tensor) -> Tensor:
    """Input of the products, differences of blocks: (B, 4n, 4m, C) -> (9, B*n*m, 4C)."""
    B, H, W, C = x.shape
    n, m = H // 4, W // 4
    s = F.pad(x, (0, 0, 1, 1, 1, 1)).view(B, 2 * n + 1, 2, 2 * m + 1, 2 * C)
    rows = x.new_empty(3, B, n, 2, 2 * m + 1, 2 * C)
    even, odd = s[:, 0::2], s[:, 1::2]
    torch.sub(even[:, :-1], odd, out=rows[0])
    rows[1] = odd
    torch.sub(even[:, 1:], odd, out=rows[2])
    tiles = x.new_empty(3, 3, B, n, m, 2, 2 * C)
    out = tiles.transpose(4, 5)  # (3, 3, B, n, 2, m, 2C)
    even, odd = rows[..., 0::2, :], rows[..., 1::2, :]
    torch.sub(even[..., :-1, :], odd, out=out[0])
    out[1] = odd
    torch.sub(even[..., 1:, :], odd, out=out[2])
    return tiles.view(9, B * n * m, 4 * C)


def _untile(tiles: Tensor, B: int, n: int, m: int) -> Tensor:
    """Adjoint of `_tiles`: (9, B*n*m, 4C) -> (B, 4n, 4m, C)."""
    C = tiles.shape[-1] // 4
    t = tiles.view(3, 3, B, n, m, 2, 2 * C).transpose(4, 5)  # (3, 3, B, n, 2, m, 2C)
    rows = tiles.new_empty(3, B, n, 2, 2 * m + 1, 2 * C)
    torch.sub(t[1], t[0], out=rows[..., 1::2, :]).sub_(t[2])
    rows[..., 0, :], rows[..., -1, :] = t[0][..., 0, :], t[2][..., -1, :]
    torch.add(t[0][..., 1:, :], t[2][..., :-1, :], out=rows[..., 2:-1:2, :])
    s = tiles.new_empty(B, 2 * n + 1, 2, 2 * m + 1, 2 * C)
    torch.sub(rows[1], rows[0], out=s[:, 1::2]).sub_(rows[2])
    s[:, 0], s[:, -1] = rows[0][:, 0], rows[2][:, -1]
    torch.add(rows[0][:, 1:], rows[2][:, :-1], out=s[:, 2:-1:2])
    return s.view(B, 4 * n + 2, 4 * m + 2, C)[:, 1:-1, 1:-1]


def _combine(products: Tensor, B: int, n: int, m: int) -> Tensor:
    """Outputs from the products: (9, B*n*m, K) -> (B, 2n, 2m, K)."""
    K = products.shape[-1]
    p = products.view(3, 3, B, n, m, K)
    rows = p.new_empty(3, B, n, m, 2, K)
    torch.add(p[0], p[1], out=rows[..., 0, :])
    torch.add(p[1], p[2], out=rows[..., 1, :])
    rows = rows.view(3, B, n, 2 * m, K)
    y = p.new_empty(B, n, 2, 2 * m, K)
    torch.add(rows[0], rows[1], out=y[:, :, 0])
    torch.add(rows[1], rows[2], out=y[:, :, 1])
    return y.view(B, 2 * n, 2 * m, K)


def _distribute(y: Tensor) -> Tensor:
    """Adjoint of `_combine`: (B, 2n, 2m, K) -> (9, B*n*m, K)."""
    B, n, m, K = y.shape[0], y.shape[1] // 2, y.shape[2] // 2, y.shape[3]
    top, bottom = y.reshape(B, n, 2, 2 * m, K).unbind(2)
    rows = y.new_empty(3, B, n, 2 * m, K)
    rows[0], rows[2] = top, bottom
    torch.add(top, bottom, out=rows[1])
    left, right = rows.view(3, B, n, m, 2, K).unbind(4)
    p = y.new_empty(3, 3, B, n, m, K)
    p[0], p[2] = left, right
    torch.add(left, right, out=p[1])
    return p.view(9, B * n * m, K)


def _kernels(w: Tensor) -> Tensor:
    """Kernels of the products, sums of one to four blocks: (O, I, 4, 4) -> (9, O, 4I)."""
    O, I = w.shape[:2]  # noqa: E741
    top, bottom = w.permute(0, 2, 3, 1).reshape(O, 2, 2, 2, 2 * I).unbind(1)  # (O, y, 2, (x, I))
    rows = w.new_empty(2, 3, O, 2, 2 * I)  # column of blocks, row, O, y, (x, I)
    rows[:, 0], rows[:, 2] = top.permute(2, 0, 1, 3), bottom.permute(2, 0, 1, 3)
    torch.add(top.permute(2, 0, 1, 3), bottom.permute(2, 0, 1, 3), out=rows[:, 1])
    g = w.new_empty(3, 3, O, 2, 2 * I)
    g[0], g[2] = rows[0], rows[1]
    torch.add(rows[0], rows[1], out=g[1])
    return g.view(9, O, 4 * I)


def _unkernel(g: Tensor, O: int, I: int) -> Tensor:  # noqa: E741
    """Adjoint of `_kernels`: (9, O, 4I) -> (O, I, 4, 4), channels last as the weights are."""
    g = g.view(3, 3, O, 2, 2 * I)
    rows = g.new_empty(2, 3, O, 2, 2 * I)
    torch.add(g[0], g[1], out=rows[0])
    torch.add(g[1], g[2], out=rows[1])
    w = g.new_empty(O, 2, 2, 2, 2 * I)  # O, row of blocks, y, column, (x, I)
    torch.add(rows[:, 0], rows[:, 1], out=w[:, 0].permute(2, 0, 1, 3))
    torch.add(rows[:, 1], rows[:, 2], out=w[:, 1].permute(2, 0, 1, 3))
    return w.view(O, 4, 4, I).permute(0, 3, 1, 2)


class _Linear(torch.autograd.Function):
    """Applies a linear function whose gradient is its given adjoint."""

    @staticmethod
    def forward(ctx, x, function, adjoint):
        ctx.adjoint = adjoint
        return function(x)

    @staticmethod
    def backward(ctx, g):
        return ctx.adjoint(g), None, None


# Where the products measured faster than the library's layer: by device and precision, the side
# that the larger map may have at most, and the channels that it must have then.
# Two cores with bf16: 1.0 to 1.9 times as fast where this says yes, 0.6 to 1.1 where it says no.
# It is a table, not a measurement at run time, because another choice would give other bits.
FASTER = {("cpu", "bf16"): ((8, 16), (16, 128)),
          ("cpu", "fp32"): ((8, 16), (16, 128))}


def products_pay(x: Tensor, sides: tuple[int, int], channels: int) -> bool:
    """Whether the table gives a map of these sides and channels to the products."""
    precision = "bf16" if x.dtype == torch.bfloat16 else "fp32"
    rules = FASTER.get((x.device.type, precision), ())
    fits = all(side % 4 == 0 for side in sides)
    return fits and any(max(sides) <= most and channels >= least for most, least in rules)


class Down(nn.Conv2d):
    """A 4x4 convolution that halves the map."""

    def forward(self, x):
        B, C, H, W = x.shape
        if not products_pay(x, (H, W), C):
            return super().forward(x)
        n, m, O = H // 4, W // 4, self.out_channels  # noqa: E741
        s = _Linear.apply(x.permute(0, 2, 3, 1), _tiles, lambda g: _untile(g, B, n, m))
        g = _Linear.apply(self.weight.to(x.dtype), _kernels, lambda g: _unkernel(g, O, C))
        y = _Linear.apply(s @ g.transpose(1, 2), lambda p: _combine(p, B, n, m), _distribute)
        return (y + self.bias.to(x.dtype)).permute(0, 3, 1, 2)


class Up(nn.ConvTranspose2d):
    """A 4x4 transposed convolution that doubles the map."""

    def forward(self, x):
        B, C, h, w = x.shape
        if not products_pay(x, (2 * h, 2 * w), self.out_channels):
            return super().forward(x)
        n, m, O = h // 2, w // 2, self.out_channels  # noqa: E741
        p = _Linear.apply(x.permute(0, 2, 3, 1), _distribute, lambda g: _combine(g, B, n, m))
        g = _Linear.apply(self.weight.to(x.dtype), _kernels, lambda g: _unkernel(g, C, O))
        y = _Linear.apply(p @ g, lambda t: _untile(t, B, n, m), _tiles)
        return (y + self.bias.to(x.dtype)).permute(0, 3, 1, 2)


def fast(model: nn.Module) -> nn.Module:
    """The same model, its 4x4 layers of stride 2 led to the products: same parameters and keys."""
    for layer in model.modules():
        for plain, ours in ((nn.Conv2d, Down), (nn.ConvTranspose2d, Up)):
            if type(layer) is plain and layer.padding == (1, 1) and (
                    layer.kernel_size, layer.stride) == ((4, 4), (2, 2)):
                layer.__class__ = ours
    return model
