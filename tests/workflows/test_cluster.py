"""Where Ray comes from."""

import os
import tempfile
from pathlib import Path

import pytest
import ray

from balletal.errors import InputError
from workflows.cluster import _short_folder, ray_session

pytestmark = pytest.mark.ray


def test_nested_sessions_use_the_open_one_and_leave_it_open(ray_cluster: None) -> None:
    node = ray.get_runtime_context().get_node_id()
    with ray_session(num_cpus=1), ray_session("10.255.255.1:6379"):
        assert ray.get_runtime_context().get_node_id() == node
        assert ray.get(ray.remote(lambda: 1 + 1).remote()) == 2
    assert ray.is_initialized()


def test_the_local_ray_is_private_and_tells_nobody(ray_cluster: None) -> None:
    assert ray.cluster_resources()["CPU"] == 2
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not (Path.home() / ".ray" / "auth_token").exists()
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    assert folder.parent.name.startswith("balletal-")
    # Jobs ask there which of the Rays of this machine is theirs.
    assert (folder.parent / "ray_current_cluster").read_text() == ray.get_runtime_context().gcs_address
    assert max(len(str(path)) for path in (folder / "sockets").iterdir()) < 100


def test_folder_follows_ray_tmpdir_as_far_as_sockets_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        assert _short_folder().parent == Path(short)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "a-rather-long-name"))
    with pytest.raises(InputError, match="a RAY_TMPDIR of at most 24 bytes"):
        _short_folder()


def test_what_ray_prints_does_not_reach_stdout(capsys: pytest.CaptureFixture[str], ray_cluster: None) -> None:
    """The ray_cluster of the tests is open: a session in it is nested, as in a pipeline."""
    with ray_session():
        print("(raylet) WARNING")
    print("result")
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert "(raylet) WARNING" in err
