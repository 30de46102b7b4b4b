from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from batchrunner.errors import ChangedLines, DiskError
from batchrunner.index import Index
from batchrunner.inputs import BadLines, Inputs, index_inputs
from batchrunner.job import BadLine
from batchrunner.jobfile import MAX_LINE_BYTES, fingerprint
from batchrunner.sources import opened


def line(custom_id: str, text: str = "hi") -> str:
    return json.dumps({"custom_id": custom_id, "url": "/v1/chat/completions", "body": {"model": "m", "messages": text}})


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(text + "\n" for text in lines))
    return path


@contextlib.contextmanager
def plain(paths: Sequence[Path]) -> Iterator[Inputs]:
    with opened(paths) as sources:
        files = [source.as_it_is() for source in sources]
        yield Inputs([file for file in files if file is not None])


def index_of(inputs: Inputs) -> tuple[Index, list[BadLine]]:
    bad: list[BadLine] = []
    return index_inputs(inputs, bad.append), bad


def test_files_are_one_space_of_lines_and_offsets(tmp_path: Path) -> None:
    """Jobs are numbered through; a file without a final newline still ends its last line."""
    one = tmp_path / "one.jsonl"
    one.write_text(line("a") + "\n\n" + line("b"))
    two = write(tmp_path / "two.jsonl", line("c"))
    with plain([one, two]) as inputs:
        index, bad = index_of(inputs)
        jobs = [inputs.load(index, number) for number in range(len(index))]
        assert [(job.number, job.line, job.custom_id) for job in jobs] == [(0, 1, "a"), (1, 3, "b"), (2, 4, "c")]
        assert [inputs.file_number(index.offsets[number]) for number in range(3)] == [0, 0, 1]
        assert (inputs.size, bad) == (one.stat().st_size + two.stat().st_size, [])
        assert inputs.starts == (0, one.stat().st_size)


def test_a_loaded_job_is_as_written(tmp_path: Path) -> None:
    """The line is read again, whole, and its body is the bytes of the file."""
    text = '{"custom_id":"a","url":"/v1/responses","body": {"model" : "m"},"batchrun":{"max_attempts":2}}'
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    with plain([path]) as inputs:
        index, _ = index_of(inputs)
        job = inputs.load(index, 0)
    assert (job.url, job.body, job.extras.max_attempts) == ("/v1/responses", b'{"model" : "m"}', 2)
    assert job.fingerprint == fingerprint(text.encode()) == index.fingerprints[0]


def test_a_file_says_what_it_was(tmp_path: Path) -> None:
    """Size, mtime and inode are a fast path of the next start."""
    path = write(tmp_path / "jobs.jsonl", line("a"))
    with plain([path]) as inputs:
        file = inputs.files[0]
        identity = inputs.identity()
    info = path.stat()
    assert identity == [[str(path), info.st_size, info.st_mtime_ns, info.st_ino]]
    assert (file.name, file.size) == (str(path), info.st_size)


def test_an_empty_file_has_no_jobs(tmp_path: Path) -> None:
    """Nothing to do is no error."""
    with plain([write(tmp_path / "empty.jsonl")]) as inputs:
        index, bad = index_of(inputs)
    assert (len(index), bad) == (0, [])
    assert index.find("a") is None


def test_bad_lines_and_duplicates_are_told_and_take_no_number(tmp_path: Path) -> None:
    """The first line of an id counts; each later one names it."""
    path = write(tmp_path / "jobs.jsonl", line("a"), "nonsense", line("a", "again"), line("b"))
    with plain([path]) as inputs:
        index, bad = index_of(inputs)
        assert [(one.line, one.code) for one in bad] == [(2, "invalid_json"), (3, "duplicate_custom_id")]
        assert bad[0].message.startswith(f"{path} line 2 is no job: ")
        assert bad[1].message == f"{path} line 3 is no job: custom_id 'a' is that of {path} line 1; rename one."
        assert index.find("b") == 1
        assert inputs.load(index, 0).body.endswith(b'"hi"}')


def test_a_duplicate_in_another_file_names_both_places(tmp_path: Path) -> None:
    """People look in files; `line` counts over all of them, as `errors.jsonl` has it."""
    one = write(tmp_path / "one.jsonl", line("a"))
    two = write(tmp_path / "two.jsonl", "", line("b"), line("a\x1b"), line("b"), line("a"))
    with plain([one, two]) as inputs:
        _, bad = index_of(inputs)
    assert [one.message for one in bad] == [
        f"{two} line 4 is no job: custom_id 'b' is that of {two} line 2; rename one.",
        f"{two} line 5 is no job: custom_id 'a' is that of {one} line 1; rename one.",
    ]
    assert [one.line for one in bad] == [5, 6]


def test_a_line_over_the_limit_is_a_bad_line(tmp_path: Path) -> None:
    """It is passed over in constant memory, and the next one is a job."""
    path = tmp_path / "jobs.jsonl"
    with path.open("wb") as file:
        file.truncate(MAX_LINE_BYTES + 5)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + line("a").encode())
    with plain([path]) as inputs:
        index, bad = index_of(inputs)
    assert [(one.line, one.code) for one in bad] == [(1, "line_too_long")]
    assert (len(index), index.lines[0]) == (1, 2)


def test_what_is_appended_while_indexing_waits_for_the_next_start(tmp_path: Path) -> None:
    """Offsets of later files must not move."""
    path = write(tmp_path / "jobs.jsonl", line("a"))
    with plain([path]) as inputs:
        with path.open("a") as file:
            file.write(line("b") + "\n")
        index, _ = index_of(inputs)
    assert len(index) == 1


def test_a_changed_line_is_refused_by_line_and_id(tmp_path: Path) -> None:
    """What is sent is what was indexed, or nothing."""
    path = write(tmp_path / "jobs.jsonl", line("a", "one"), line("b", "two"))
    with plain([path]) as inputs:
        index, _ = index_of(inputs)
        path.write_text(line("a", "one") + "\n" + line("b", "TWO") + "\n")
        assert inputs.load(index, 0).custom_id == "a"
        with pytest.raises(ChangedLines) as caught:
            inputs.load(index, 1)
    assert caught.value.lines == [(f"{path} line 2", "b")]


def test_a_file_cut_short_is_a_changed_line(tmp_path: Path) -> None:
    """Bytes that are gone are no body."""
    path = write(tmp_path / "jobs.jsonl", line("a"))
    with plain([path]) as inputs:
        index, _ = index_of(inputs)
        os.truncate(path, 10)
        with pytest.raises(ChangedLines) as caught:
            inputs.load(index, 0)
    assert caught.value.lines == [(f"{path} line 1", "?")]


def test_a_file_replaced_by_name_is_read_as_it_was(tmp_path: Path) -> None:
    """The descriptor outlives the name."""
    path = write(tmp_path / "jobs.jsonl", line("a"))
    with plain([path]) as inputs:
        index, _ = index_of(inputs)
        os.replace(write(tmp_path / "new.jsonl", line("z")), path)
        assert inputs.load(index, 0).custom_id == "a"


def test_a_read_error_is_a_disk_error(tmp_path: Path) -> None:
    """The file is named."""
    path = write(tmp_path / "jobs.jsonl", line("a"))
    with plain([path]) as inputs, pytest.raises(DiskError, match=r"jobs\.jsonl"):
        inputs.read(0, -1)


@pytest.mark.parametrize("depth", range(350, 1000, 50))
def test_a_deep_body_that_was_indexed_can_be_sent(tmp_path: Path, depth: int) -> None:
    """A job is loaded from deeper in the stack than it was indexed, and must still be readable there."""
    body = '{"a":' * depth + "1" + "}" * depth
    path = write(tmp_path / "jobs.jsonl", f'{{"custom_id":"a","url":"/v1/responses","body":{body}}}')

    def deeper(frames: int) -> int:
        return deeper(frames - 1) if frames else len(inputs.load(index, 0).body)

    with plain([path]) as inputs:
        index, bad = index_of(inputs)
        if bad:
            assert [one.code for one in bad] == ["invalid_json"]
        else:
            assert deeper(150) == len(body)


def test_bad_lines_are_kept_whole_however_many() -> None:
    """Lines that are no job come back in their order, as often as they are asked for, beyond what memory holds of them."""
    kept = BadLines()
    lines = [BadLine(number, "invalid_json", "x" * 200) for number in range(10_000)]
    for line in lines:
        kept.append(line)
    assert len(kept) == 10_000
    assert list(kept) == list(kept) == lines
    kept.close()
