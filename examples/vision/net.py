"""A small residual network, its training, and the factory that `optcc compile` calls."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from shapes import CLASSES, SIZE, draw

WEIGHTS = Path(__file__).with_name("shapes.safetensors")


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions and a shortcut: f32[B, I, H, W] -> f32[B, O, H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs, 3, stride)
        self.second = conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class Net(nn.Module):
    """pixels f32[B, 3, 32, 32] -> class scores f32[B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3)
        self.body = nn.Sequential(Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 64, 2))
        self.depthwise, self.pointwise = conv(64, 64, 3, groups=64), conv(64, 128, 1)
        self.head = nn.Linear(128, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        x = functional.max_pool2d(functional.relu(self.stem(pixels)), 2)
        x = functional.relu6(self.depthwise(self.body(x)))
        x = functional.hardswish(self.pointwise(x))
        scores: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


def train(steps: int = 240, batch: int = 64) -> Net:
    """A trained network; the same on every run of one machine."""
    torch.manual_seed(0)
    net = Net().train()
    images, labels = draw(4000, seed=1)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,))
        loss = functional.cross_entropy(net(images[rows]), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def save(net: Net) -> None:
    """Keep the weights where `classifier` finds them."""
    save_file(net.state_dict(), WEIGHTS)


def classifier() -> tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, list[Tensor]]]:
    """The trained network for any batch, with images to calibrate on and others to check on."""
    net = Net()
    net.load_state_dict(load_file(WEIGHTS))
    data = {
        "calibration": list(draw(256, seed=2)[0].split(32)),
        "check": list(draw(1024, seed=3)[0].split(64)),
    }
    return net, {"pixels": torch.zeros(2, 3, SIZE, SIZE)}, {"pixels": {0: "B"}}, data


if __name__ == "__main__":
    trained = train()
    save(trained)
    pictures, answers = draw(2048, seed=3)
    with torch.inference_mode():
        right = (trained(pictures).argmax(-1) == answers).float().mean()
    print(f"right on {right:.1%} of 2048 images that it wasn't trained on")
