"""Released features: what a damaged file says."""

from pathlib import Path

import pytest

from balletal.errors import InputError
from balletal.features.released import read_npy, released_spec

HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 32), }".ljust(117) + b"\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00\x76\x00" + HUGE, b"\x80\x04N."],
    ids=["empty", "text", "archive", "more than the memory", "pickle"],
)
def test_a_damaged_file_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "A0.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"expected a \.npy file of numbers"):
        read_npy(str(path), released_spec(fps=25, window=64, stride=64, dim=32, backbone="b"))
