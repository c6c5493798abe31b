"""The published Kinetics-400 network, fetched, against the original's numbers on its own example."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import av
import numpy as np
import pytest
import torch

from balletal.backbones.i3d import InceptionI3D
from balletal.backbones.weights import load_state
from balletal.errors import InputError

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def model(require: Callable[[str], NoReturn]) -> InceptionI3D:
    try:
        state = load_state("i3d-rgb-kinetics400")
    except InputError as error:
        require(str(error))
    model = InceptionI3D()
    model.load_state_dict(state, strict=False)
    assert len(state) == 287
    return model.eval()


@pytest.fixture(scope="module")
def clip(shared: Path) -> torch.Tensor:
    with av.open(str(shared / "i3d" / "v_CricketShot_g04_c01_rgb.gif")) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert frames.shape == (79, 224, 224, 3)
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1


def test_the_reference_implementations_values(model: InceptionI3D, clip: torch.Tensor, shared: Path) -> None:
    reference = np.load(shared / "i3d" / "jax_reference_first32frames.npz")
    seen = {}
    hooks = [
        getattr(model, block).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out.mean(dim=(3, 4)).transpose(1, 2)})
        )
        for block, name in (("Mixed_3c", "mixed3c"), ("Mixed_5c", "mixed5c_mean"))
    ]
    with torch.inference_mode():
        seen["logits"] = model(clip[:, :, :32])
    for hook in hooks:
        hook.remove()
    for name in ("logits", "mixed5c_mean", "mixed3c"):
        np.testing.assert_allclose(seen[name], reference[name], atol=1e-4, rtol=0, err_msg=name)


def test_the_cricket_shot(model: InceptionI3D, clip: torch.Tensor, shared: Path) -> None:
    labels = (shared / "i3d" / "kinetics400_label_map.txt").read_text().split("\n")
    published = (shared / "i3d" / "expected_rgb_scratch_cricket.txt").read_text().split("\n")
    order = [line.split(maxsplit=2)[2] for line in published if line[:1].isdigit()][:8]
    with torch.inference_mode():
        logits = model(clip)[0]
    chances = logits.softmax(dim=0)
    assert [labels[k].strip() for k in logits.argsort(descending=True)[:8]] == order
    assert order[0] == "playing cricket"
    assert chances.max() == pytest.approx(0.9886, abs=2e-4)
    assert logits.norm() == pytest.approx(83.24, abs=0.05)
