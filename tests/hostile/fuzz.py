"""Coverage-guided fuzzing of one target: `python -m tests.hostile.fuzz TARGET [SECONDS]`; `make fuzz` runs them all.

Needs the extra `fuzz` (atheris, which has wheels for Linux and for some versions of Python). The corpus grows in
`.fuzz/TARGET`, which is nobody's but this machine's. A finding ends the target with a file `.fuzz/TARGET.crash-...`: mend the
program, and keep the file, cut to what matters, as `tests/hostile/findings/TARGET.WHAT`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["batchrunner", "email", "gzip", "json"]):
    from tests.hostile.mutation import LONGEST_BYTES, TRICKY
    from tests.hostile.targets import TARGETS

CORPUS = Path(".fuzz")
#: one input may take so long; what takes longer is a hang
HANG_SECONDS = 10
MEMORY_MIB = 2048


def main() -> None:
    name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    target = TARGETS[name]
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = "".join(f'"{_quoted(word)}"\n' for word in (*TRICKY, *target.words) if len(word) < 64)
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as dictionary:
        dictionary.write(words)
        dictionary.flush()
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={HANG_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={LONGEST_BYTES}",
            f"-dict={dictionary.name}",
            f"-artifact_prefix={CORPUS}/{name}.",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
        atheris.Fuzz()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
