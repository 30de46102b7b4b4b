from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from batchrunner.index import Duplicate, Index


class Remembered:
    """An index beside the ids that went into it, which stand for the file."""

    def __init__(self, hash_of: object = hash) -> None:
        self.ids: list[str] = []
        self.asked = 0
        self.index = Index(self.custom_id_of, hash_of=hash_of)  # type: ignore[arg-type]

    def custom_id_of(self, number: int) -> str:
        self.asked += 1
        return self.ids[number]

    def add(self, custom_id: str) -> int | Duplicate:
        number = len(self.ids)
        added = self.index.add(custom_id, number << 40, number * 5_000_000_000, number * 7, number + 1)
        if added == number:
            self.ids.append(custom_id)
        return added


@given(st.lists(st.text(max_size=3), max_size=80), st.sampled_from([1, 2, 7, 1 << 62]))
def test_the_index_answers_as_a_dict_does(ids: list[str], hashes: int) -> None:
    """Whatever collides, only the same id is a duplicate, and every id is found again."""
    held = Remembered(lambda text: hash(text) % hashes - hashes // 2)
    oracle: dict[str, int] = {}
    for custom_id in ids:
        added = held.add(custom_id)
        if custom_id in oracle:
            assert added == Duplicate(oracle[custom_id])
        else:
            assert added == len(oracle)
            oracle[custom_id] = len(oracle)
    assert len(held.index) == len(oracle)
    for custom_id in [*ids, "never added"]:
        assert held.index.find(custom_id) == oracle.get(custom_id)


def test_what_is_known_of_a_job_is_kept_by_number() -> None:
    """Columns hold what was added, past 32 bits where that is needed, and through growth."""
    held = Remembered()
    for number in range(1000):
        held.add(str(number))
    index = held.index
    assert (index.offsets[999], index.lengths[999], index.lines[999]) == (999 * 5_000_000_000, 6993, 1000)
    assert index.fingerprints[999] == 999 << 40
    assert index.state == bytearray(1000)


def test_ids_of_different_hash_are_told_apart_without_reading_the_file() -> None:
    """The callback costs a read: it is asked only where 64 bits are equal."""
    held = Remembered()
    for number in range(1000):
        held.add(str(number))
    assert held.asked == 0
    assert held.index.find("999") == 999
    assert held.asked == 1


def test_a_job_costs_at_most_48_bytes() -> None:
    """Memory at its peak, growth of the table and of the columns counted in, just before and after the table doubles."""
    for jobs in (10_900, 10_930, 16_000):
        tracemalloc.start()
        index = Index(lambda number: None)
        for number in range(jobs):
            index.add(str(number), number, number, number, number)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 48 * jobs + 4_000


def test_a_line_is_named_by_its_file() -> None:
    """Lines count over all files, and people look in one; a file without lines is in nobody's way."""
    held = Remembered()
    assert held.index.place(1) == "line 1"
    for name, lines_before in (("a.jsonl", 0), ("empty.jsonl", 2), ("c.jsonl", 2)):
        held.index.begin_file(name, lines_before)
    named = [held.index.place(line) for line in (1, 2, 3, 9)]
    assert named == ["a.jsonl line 1", "a.jsonl line 2", "c.jsonl line 1", "c.jsonl line 7"]
