import asyncio
import socket
from pathlib import Path

import httpx
import jsonschema
import pytest
import safetensors.torch
import typer
from ray import serve

import schemas
from balletal.errors import InputError, SpecMismatchError, VideoError
from balletal.synthetic.corpus import video_uri, write_video
from balletal.synthetic.presets import PRESETS
from balletal.video.probe import probe
from workflows.serve.backend import LocalBackend, Model
from workflows.serve.command import is_loopback, main, serving
from workflows.serve.deployments import APP, HandleBackend


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = str(tmp_path_factory.mktemp("corpus"))
    record = write_video(out, 0, seed=0, seconds=4, preset=PRESETS["easy"], size=(128, 96))
    return Path(video_uri(out, record.video_id))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.ray
def test_the_bundle_answers_over_http_as_it_does_here(tiny_bundle, ray_cluster, video: Path) -> None:
    backend = LocalBackend(tiny_bundle.localizer, tiny_bundle.weights, "cpu")
    here = asyncio.run(backend.localize(video, probe(str(video)), min_score=0.1, top_k=5)).segments
    assert len(here) == 5
    headers = {"Content-Type": "video/mp4"}
    with serving(tiny_bundle.folder, port=free_port(), weights=tiny_bundle.weights) as url:
        with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
            assert client.get("/v2/health/ready").status_code == 200
            answer = client.post("/v1/localize?min_score=0.1&top_k=5", content=video.read_bytes())
            assert answer.status_code == 200, answer.text
            result = answer.json()
            jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result)
            assert result["model"] == {"name": "tiny", "digest": tiny_bundle.localizer.digest}
            assert [s["label"] for s in result["segments"]] == here["label"].tolist()
            assert [s["start"] for s in result["segments"]] == pytest.approx(here["start"].tolist(), abs=1e-3)
            assert [s["score"] for s in result["segments"]] == pytest.approx(here["score"].tolist(), abs=1e-4)
            assert all(0 <= s["start"] < s["end"] <= result["video"]["duration"] for s in result["segments"])

            # A file whose first picture decodes and whose rest is gone: the extractor's own words come back.
            cut = video.read_bytes()
            answer = client.post("/v1/localize", content=cut[: len(cut) // 2])
            assert answer.status_code == 200
            assert "Not all of the video could be decoded" in answer.json()["warnings"][0]
            assert client.post("/v1/localize", content=b"text").json()["kind"] == "not-a-video"
        # An error raised in a replica arrives as what it is.
        handles = (serve.get_deployment_handle(name, APP) for name in ("Extractor", "Localizer"))
        remote = HandleBackend(*handles, Model("tiny", "0"))
        info = probe(str(video))
        video.with_name("text").write_bytes(b"text")
        with pytest.raises(VideoError) as failed:
            asyncio.run(remote.localize(video.with_name("text"), info, min_score=0, top_k=None))
        assert failed.value.kind == "not-a-video"

        taken = int(url.rsplit(":", 1)[1])
        refused = serving(tiny_bundle.folder, port=taken, weights=tiny_bundle.weights)
        with pytest.raises(InputError, match="a free port"), refused:
            pass
    serve.shutdown()  # the command leaves Serve itself to its cluster, which goes on after this test


def test_wrong_weights_are_refused_before_anything_starts(tiny_bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a file of weights"), serving(tiny_bundle.folder, port=free_port()):
        pass
    other = safetensors.torch.load_file(tiny_bundle.weights)
    other["Conv3d_1a_7x7.bn.bias"] += 1
    safetensors.torch.save_file(other, tmp_path / "other.safetensors")
    refused = serving(tiny_bundle.folder, port=free_port(), weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(SpecMismatchError, match=tiny_bundle.localizer.spec.weights), refused:
        pass


@pytest.mark.parametrize(
    ("hosts", "inside"),
    [
        (["127.0.0.1", "127.0.0.9", "::1", "localhost"], True),
        (["", "0.0.0.0", "::", "192.168.1.4", "example.org"], False),
    ],
)
def test_what_is_loopback(hosts: list[str], inside: bool) -> None:
    assert [is_loopback(host) for host in hosts] == [inside] * len(hosts)


def test_a_public_bind_needs_insecure() -> None:
    with pytest.raises(typer.BadParameter, match="--insecure"):
        main("bundle", host="0.0.0.0")
