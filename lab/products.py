"""4x4 layers of stride 2 as one matrix product over 4x4 patches, where a CPU is faster so.

A convolution gathers the patch under each of its outputs and multiplies it by the weights; a
transposed one goes the same steps backwards. Parameters and results are those of the library's
layers, up to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pays(x: Tensor, sides: tuple[int, int], channels: int) -> bool:
    """Whether the product is the faster way for a larger map of these sides and channels.

    It is a rule and no measurement at run time, because another choice gives other bits. In fp32
    it is wrong on AMD's CPUs with AVX512 (`conv` has 0.75 of the library's pace there); those have
    bf16 too, and train in it.
    """
    most = 16 if x.dtype == torch.bfloat16 else 8
    even = all(side % 2 == 0 for side in sides)
    return x.device.type == "cpu" and channels >= 128 and max(sides) <= most and even


class Gather(torch.autograd.Function):
    """A map (B, C, 2n, 2m) -> its 4x4 patches (B, n, m, 16C), which overlap by two pixels."""

    @staticmethod
    def forward(ctx, x):
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))      # (B, 2n + 2, 2m + 2, C)
        patches = padded.unfold(1, 4, 2).unfold(2, 4, 2)               # (B, n, m, C, 4, 4)
        return patches.permute(0, 1, 2, 4, 5, 3).flatten(3)

    @staticmethod
    def backward(ctx, gradient):
        return Scatter.apply(gradient)


class Scatter(torch.autograd.Function):
    """The adjoint: patches (B, n, m, 16C) -> the map (B, C, 2n, 2m) that they add up to."""

    @staticmethod
    def forward(ctx, patches):
        B, n, m, _ = patches.shape
        patches = patches.unflatten(3, (4, 4, -1))                     # (B, n, m, 4, 4, C)
        padded = patches.new_zeros(B, 2 * n + 2, 2 * m + 2, patches.shape[-1])
        for i in range(4):
            for j in range(4):
                padded[:, i:i + 2 * n:2, j:j + 2 * m:2] += patches[:, :, :, i, j]
        return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient):
        return Gather.apply(gradient)


def as_matrix(weight: Tensor) -> Tensor:
    """Weights (K, C, 4, 4) in the order of the patches, (K, 16C): a view, if channels are last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


class Down(nn.Conv2d):
    """A 4x4 convolution that halves the map, with the parameters of the library's layer."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__(layer.in_channels, layer.out_channels, 4, stride=2, padding=1,
                         device="meta")                     # holds no numbers and draws none
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if not pays(x, x.shape[2:], self.in_channels):
            return super().forward(x)
        return F.linear(Gather.apply(x), as_matrix(self.weight), self.bias).permute(0, 3, 1, 2)


class Up(nn.ConvTranspose2d):
    """A 4x4 transposed convolution that doubles the map, with the library's layer's parameters."""

    def __init__(self, layer: nn.ConvTranspose2d):
        super().__init__(layer.in_channels, layer.out_channels, 4, stride=2, padding=1,
                         device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if not pays(x, (2 * x.shape[2], 2 * x.shape[3]), self.out_channels):
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1)
        # One product of all rows: of four dimensions, one without gradients copies the weights for
        # each row of pixels.
        patches = pixels.flatten(0, 2) @ as_matrix(self.weight)
        y = Scatter.apply(patches.unflatten(0, pixels.shape[:3]))
        return y + self.bias.to(y.dtype).view(-1, 1, 1)


OURS = {nn.Conv2d: Down, nn.ConvTranspose2d: Up}
REPLACED = {"kernel_size": (4, 4), "stride": (2, 2), "padding": (1, 1), "output_padding": (0, 0),
            "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}


def replaced(layer: nn.Module) -> bool:
    """Whether it is a layer of the library that a layer of ours can stand for."""
    same = all(getattr(layer, name, value) == value for name, value in REPLACED.items())
    return type(layer) in OURS and same and layer.bias is not None


def fast(model: nn.Module) -> nn.Module:
    """The same model with layers of ours in place of the library's: same parameters and keys."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if replaced(layer):
                setattr(parent, name, OURS[type(layer)](layer).train(layer.training))
    return model
