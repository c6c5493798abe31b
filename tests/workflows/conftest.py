"""What the tests of the workflows share: tiny videos, random weights, a tiny bundle, an S3 server, a browser."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result
from typer.testing import CliRunner

from balletal.backbones.i3d import InceptionI3D
from balletal.backbones.spec import FeatureSpec
from balletal.backbones.weights import digest, load_state
from balletal.features.extractor import spec_for
from balletal.labels import LabelSet
from balletal.projection import Moments, fit
from balletal.tal.config import ModelConfig, Recipe
from balletal.tal.localizer import Localizer
from balletal.tal.models import TemporalModel
from tests.workflows.corpus import Corpus, write_corpus
from tests.workflows.seaweed import find_weed, serving
from tests.workflows.serve.fakes import video
from tests.workflows.serve.whole import TOKEN, Whole, whole_service
from workflows.cli import build


@dataclass(frozen=True)
class TinyBundle:
    folder: str
    weights: str
    localizer: Localizer


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle"))


def make_tiny_bundle(folder: Path) -> TinyBundle:
    """A cnn bundle on I3D features of 32 x 32 pixels, 8 frames every 8 frames at 8 fps: one feature a second."""
    torch.manual_seed(0)
    weights = folder / "i3d.safetensors"
    state = {key: value.contiguous() for key, value in InceptionI3D(num_classes=0).state_dict().items()}
    safetensors.torch.save_file(state, weights)
    spec = spec_for("i3d-rgb", weights=str(weights), fps=8, window=8, stride=8, size=32, mode="windowed", crop="center")
    assert spec.weights == digest(load_state(str(weights)))

    moments = Moments(spec.dim)
    moments.update(np.random.default_rng(0).normal(0, 1, (64, spec.dim)))
    labels = LabelSet.load("annchor-coarse")
    recipe = Recipe(model=ModelConfig(name="cnn", hidden=8, layers=1, upsample=4, substep_dim=8, substep_layers=1))
    projection = fit(moments, spec, 8)
    model = TemporalModel(recipe.model, projection.dim, len(labels)).eval()
    with torch.no_grad():
        model.class_head.bias.zero_()  # an untrained model that answers
    localizer = Localizer("tiny", labels, projection, recipe, model)
    localizer.save(str(folder / "bundle"))
    return TinyBundle(str(folder / "bundle"), str(weights), localizer)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve videos whose features say plainly where the steps are."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """``make_video(path, seconds, fps=25, seed=0)`` writes a video."""
    return _write_video


def _write_video(path: Path, seconds: float, *, fps: int = 25, seed: int = 0) -> Path:
    """A moving square of another colour for each seed, 64 x 48, H.264 in whatever container the suffix names.

    A keyframe a second, and in MP4 the index first, so that a file that is cut still opens.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.random.default_rng(seed).integers(64, 255, 3)
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": str(fps), "bf": "0"}
        for i in range(round(seconds * fps)):
            picture = np.full((48, 64, 3), 30, np.uint8)
            x = (i * 2 + seed * 7) % 48
            picture[16:32, x : x + 16] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def browser(chromium: str, require: Callable) -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        require("playwright is not installed")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            timeout=180_000,
            args=["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required", *camera],
        )
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab that must see no script fail and nothing that the page's policy forbids."""
    context = browser.new_context(permissions=["camera"], viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    yield tab
    context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of the RGB network: a feature's way through the store does not depend on what it is."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in InceptionI3D(num_classes=0).state_dict().items()}, path)
    return str(path)


@pytest.fixture(scope="session")
def spec(weights: str) -> FeatureSpec:
    """Few clips of few pixels, because the network takes its time on a CPU."""
    options: dict[str, Any] = {"mode": "windowed", "crop": "center", "dtype": "float32"}
    return spec_for("i3d-rgb", weights=weights, window=16, stride=16, size=32, **options)


@pytest.fixture(scope="session")
def weed(require: Callable[[str], NoReturn]) -> str:
    """The program of SeaweedFS."""
    found = find_weed()
    if found is None:
        require("no SeaweedFS (weed) is installed")
    return found


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory, weed: str) -> Iterator[str]:
    """A real S3 server (SeaweedFS) with an empty bucket: yields its URI. fsspec finds the server by the environment."""
    with serving(weed, tmp_path_factory.mktemp("s3")):
        yield "s3://videos"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A service that asks for a token, localizes at once in up to 2 s of video, and takes pieces of 1000 bytes."""
    limits = {"max_localize_s": 2.0, "max_chunk_bytes": 1000}
    with whole_service(tmp_path_factory.mktemp("whole"), token=TOKEN, **limits) as running:
        yield running


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos of 1, 2 and 3 seconds."""
    path = tmp_path_factory.mktemp("clips")
    for name, seconds in (("a", 2.0), ("b", 1.0), ("long", 3.0)):
        (path / f"{name}.mp4").write_bytes(video(seconds))
    return path


@pytest.fixture
def balletal(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, with the service and its token in the environment."""
    monkeypatch.setenv("BALLETAL_URL", whole.url)
    monkeypatch.setenv("BALLETAL_TOKEN", TOKEN)
    app = build()
    return lambda *words, **how: CliRunner().invoke(app, list(map(str, words)), **({"catch_exceptions": False} | how))
