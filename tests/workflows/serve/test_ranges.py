import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.serve.problems import Problem
from workflows.serve.ranges import parse_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=99-200", (99, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-500", (0, 100)),
        ("Bytes= 0-0 ", (0, 1)),
        ("bytes=5-4", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=٣-٤", None),
        ("items=0-1", None),
        ("bytes=0-" + "9" * 30, None),
    ],
)
def test_what_is_a_range(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_is_416(header: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_range(header, 100)
    assert (refused.value.status, refused.value.urn) == (416, "range")
    assert refused.value.headers == {"Content-Range": "bytes */100"}


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(0, 1100), st.integers(0, 1100))
def test_a_range_is_what_a_slice_is(size: int, first: int, last: int) -> None:
    content = bytes(n % 251 for n in range(size))
    headers = {
        f"bytes={first}-": content[first:],
        f"bytes={first}-{last}": content[first : last + 1],
        f"bytes=-{last}": content[-last:] if last else b"",
    }
    for header, expected in headers.items():
        try:
            part = parse_range(header, size)
        except Problem:
            assert not expected
        else:
            assert part is None or content[slice(*part)] == expected
            assert part is not None or first > last
