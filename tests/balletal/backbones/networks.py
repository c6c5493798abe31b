"""Networks whose random weights do something."""

import torch
from torch import nn

from balletal.backbones.i3d import InceptionI3D


def lively(in_channels: int = 3, num_classes: int = 5, seed: int = 0) -> InceptionI3D:
    """I3D with weights that let values through, and statistics that change them."""
    torch.manual_seed(seed)
    network = InceptionI3D(in_channels, num_classes).eval()
    for part in network.modules():
        if isinstance(part, nn.Conv3d):  # the default shrinks what passes through, here to nothing
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)
            part.bias.data.uniform_(-0.1, 0.3)
    return network
