from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.dialect.json_text import BOM, is_json, read_json, without_bom


def by_the_standard_decoder(data: bytes) -> bool:
    """The same grammar, read by somebody else: without the words that are no JSON."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        json.loads(data.decode(), parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


TEXTS = (
    st.binary(max_size=20)
    | st.text(alphabet='{}[]":,0123.eE+-tfnu\\ \n\taNI\ufeffé', max_size=12).map(str.encode)
    | st.recursive(
        st.none() | st.floats() | st.integers() | st.text(max_size=5) | st.just("\ud800"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)


@given(TEXTS)
def test_json_is_what_the_grammar_says(data: bytes) -> None:
    """The quick way and the slow agree with the standard decoder; what is JSON can be read, and nothing else can."""
    assert is_json(data) == by_the_standard_decoder(data)
    try:
        read_json(data)
    except ValueError:
        assert not is_json(data)
    else:
        assert is_json(data)


@given(TEXTS)
def test_of_what_stands_behind_a_mark_all_judge_alike(data: bytes) -> None:
    """One mark is passed over, by whoever asks; behind it nothing that begins with another is JSON."""
    assert without_bom(BOM + data) == data
    assert not is_json(BOM + data)
    assert not is_json(without_bom(BOM + BOM + data))


def test_what_nests_too_deeply_is_none() -> None:
    """Nobody downstream could read it."""
    deep = b"[" * 100_000 + b"]" * 100_000
    assert not is_json(deep)
    with pytest.raises(RecursionError):
        read_json(deep)


@pytest.mark.parametrize(
    ("text", "value"), [(b"1e999", float("inf")), (b"9" * 5000, float("inf")), (b"7", 7), (b'"\\ud800"', "\ud800")]
)
def test_values_past_what_is_usual_are_read(text: bytes, value: object) -> None:
    """Their text is JSON, and a number beyond all counting is as good as endless."""
    assert read_json(text) == value
