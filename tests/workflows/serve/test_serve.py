import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import jsonschema
import pandas as pd
import pytest
import ray
import safetensors.torch
import typer
from ray import serve
from ray.util.state import list_actors

import schemas
from balletal.client import Client
from balletal.errors import InputError, SpecMismatchError, VideoError
from balletal.synthetic.corpus import video_uri, write_video
from balletal.synthetic.presets import PRESETS
from balletal.video.probe import probe
from tests.workflows.conftest import TinyBundle
from tests.workflows.seaweed import free_ports
from tests.workflows.serve.fakes import told
from tests.workflows.serve.tiny import upload
from workflows.score import score
from workflows.serve.access import TOKENS, read_tokens
from workflows.serve.backend import LocalBackend, Model, Part, video_features
from workflows.serve.command import is_loopback, main, serving
from workflows.serve.deployments import APP, HandleBackend, ServeArgs
from workflows.serve.results import segments_json


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = str(tmp_path_factory.mktemp("corpus"))
    record = write_video(out, 0, seed=0, seconds=4, preset=PRESETS["easy"], size=(128, 96))
    return Path(video_uri(out, record.video_id))


@pytest.fixture(scope="module")
def folders(tiny_bundle: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two bundles of one name and one kind of features."""
    newer = tmp_path_factory.mktemp("newer") / "bundle"
    replace(tiny_bundle.localizer, about={"version": "2"}).save(str(newer))
    return [tiny_bundle.folder, str(newer)]


@pytest.mark.ray
def test_bundles_answer_over_http_as_they_do_here(
    tiny_bundle: TinyBundle, folders: list[str], ray_cluster: None, video: Path, tmp_path: Path
) -> None:
    backend, old = LocalBackend([tiny_bundle.localizer], tiny_bundle.weights, "cpu"), Model.of(tiny_bundle.localizer)
    info = probe(str(video))
    here = asyncio.run(backend.localize(old.id, video, info, Part(min_score=0.1, top_k=5))).segments
    features, _ = video_features(backend._extractors[old.spec], str(video), info)
    inferred = asyncio.run(backend.infer(old.id, features.features, features.start_s, min_score=0.1))
    assert len(here) == 5
    port, data = free_ports(1)[0], str(tmp_path / "data")
    args = ServeArgs(bundles=folders, data=data, weights=[tiny_bundle.weights], sources=(str(video.parent),))
    tokens = read_tokens("anna 0123456789abcdef", where="tokens")
    with serving(args, port=port, tokens=tokens) as url:
        with httpx.Client(base_url=url, timeout=60, headers={"Authorization": "Bearer 0123456789abcdef"}) as client:
            assert httpx.get(f"{url}/v2/health/ready", timeout=60).status_code == 200
            assert httpx.get(f"{url}/v1/models", timeout=60).json()["type"] == "urn:balletal:unauthenticated"
            assert [one["version"] for one in client.get("/v1/models").json()["models"]] == [old.version, "2"]

            headers, ask = {"Content-Type": "video/mp4"}, f"/v1/localize?min_score=0.1&top_k=5&model={old.id}"
            answer = client.post(ask, content=video.read_bytes(), headers=headers)
            assert answer.status_code == 200, answer.text
            result = answer.json()
            jsonschema.Draft202012Validator(schemas.json_schema("result")).validate(result)
            assert result["model"] == {"name": "tiny", "version": old.version, "digest": old.digest}
            for column in ("label", "start", "end", "score"):  # digit for digit
                assert [s[column] for s in result["segments"]] == here[column].tolist()
            named = {"uri": str(video), "model": old.id, "min_score": 0.1, "top_k": 5}
            assert client.post("/v1/localize", json=named).json() == result
            newer = client.post("/v1/localize", json=named | {"model": "tiny"}).json()
            assert (newer["model"]["version"], newer["segments"]) == ("2", result["segments"])

            tensor = {"name": "features", "shape": features.features.shape, "datatype": "FP32"}
            request = {"inputs": [tensor | {"data": features.features.tolist()}], "parameters": {"min_score": 0.1}}
            with ThreadPoolExecutor(4) as pool:  # a batch
                answers = list(pool.map(lambda _: client.post(f"/v2/models/{old.id}/infer", json=request), range(8)))
            for column, output in enumerate(("label", "start", "end", "score")):
                assert [one.json()["outputs"][column]["data"] for one in answers] == [inferred[output].tolist()] * 8

            # A file whose first picture decodes and whose rest is gone: the extractor's own words come back.
            cut = video.read_bytes()
            answer = client.post("/v1/localize", content=cut[: len(cut) // 2], headers=headers)
            assert answer.status_code == 200
            assert "Not all of the video could be decoded" in answer.json()["warnings"][0]
            assert client.post("/v1/localize", content=b"text", headers=headers).json()["kind"] == "not-a-video"
            assert client.get("/metrics").status_code == 200
            assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"

            # A replica is killed as it works on a request; the client asks again, and the answer is the same.
            actors = list_actors(ray.get_runtime_context().gcs_address, filters=[("state", "=", "ALIVE")])
            [replica] = (one for one in actors if "Extractor" in one.class_name)
            with ThreadPoolExecutor(1) as pool, Client(url, "0123456789abcdef", patience_s=300) as patient:
                asked = pool.submit(patient.localize, video, model=old.id, min_score=0.1, top_k=5)
                time.sleep(0.1)
                os.kill(replica.pid, signal.SIGKILL)
                assert asked.result(400).segments["score"].tolist() == here["score"].tolist()

            # A video in pieces, and a job beside the service on the same two CPUs.
            video_id = upload(client, video.read_bytes(), chunk=20_000)
            assert client.post(f"/v1/uploads/{video_id}/complete").json()["video_id"] == video_id
            wish = {"inputs": [{"video_id": video_id}], "models": [old.id], "params": {"min_score": 0.1}}
            links = client.post("/v1/jobs", json=wish).json()["links"]
            *_, (name, _, done) = told(client.get(links["events"]).text)
            assert (name, done["status"], done["video_ids"]) == ("done", "succeeded", [video_id]), done
            found = client.get(links["results"]).json()["segments"]
            assert client.get(f"{links['export']}?format=csv").text.count("\n") == len(found) + 1
        # An error raised in a replica arrives as what it is.
        extractor, localizer = (
            serve.get_deployment_handle(name, APP) for name in (f"Extractor-{old.spec.spec_id}", "Localizer")
        )
        remote = HandleBackend({old.spec.spec_id: extractor}, localizer, [old])
        video.with_name("text").write_bytes(b"text")
        with pytest.raises(VideoError) as failed:
            asyncio.run(remote.localize(old.id, video.with_name("text"), info))
        assert failed.value.kind == "not-a-video"

        with pytest.raises(InputError, match="a free port"), serving(args, port=port):
            pass
    known = {"weights": tiny_bundle.weights, "min_score": 0.1}
    score(tiny_bundle.folder, str(tmp_path / "scored"), videos={video_id: str(video)}, **known)
    scored = pd.read_parquet(tmp_path / "scored" / "detections.parquet")
    assert len(found) > 5
    assert found == segments_json(scored, old.id)  # digit for digit
    serve.shutdown()  # the command leaves Serve itself to its cluster, which goes on after this test


def test_wrong_weights_are_refused_before_anything_starts(tiny_bundle, tmp_path: Path) -> None:
    args = ServeArgs(bundles=[tiny_bundle.folder], data=str(tmp_path))
    with pytest.raises(InputError, match="a file of weights"), serving(args, port=free_ports(1)[0]):
        pass
    other = safetensors.torch.load_file(tiny_bundle.weights)
    other["Conv3d_1a_7x7.bn.bias"] += 1
    safetensors.torch.save_file(other, tmp_path / "other.safetensors")
    refused = serving(args.model_copy(update={"weights": [str(tmp_path / "other.safetensors")]}), port=free_ports(1)[0])
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


def test_a_public_bind_needs_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKENS, raising=False)
    with pytest.raises(typer.BadParameter, match="--insecure"):
        main(["bundle"], host="0.0.0.0")
    monkeypatch.setenv(TOKENS, "anna 0123456789abcdef")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(InputError, match="no-bundle"):
        main(["no-bundle"], host="0.0.0.0")
