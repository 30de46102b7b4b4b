from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.estimate import (
    MAX_KEYS,
    MOST_KINDS,
    UNKNOWN_OUTPUT_TOKENS,
    WINDOW,
    Estimator,
    Latency,
    Share,
    Statistics,
    decode,
    encode,
)
from batchrunner.job import RequestSize, Usage


def size(tokens: int = 1000, cap: int | None = 4096, model: str = "m", *, opaque: bool = False) -> RequestSize:
    return RequestSize(model, tokens, cap, opaque)


def taught(times: int, usage: Usage, of: RequestSize | None = None) -> Estimator:
    estimator = Estimator()
    for _ in range(times):
        estimator.learn(of or size(), usage)
    return estimator


def test_before_any_answer_the_cap_and_the_guess_count() -> None:
    """The safe side: all that the body allows."""
    prediction = Estimator().predict(size())
    assert (prediction.input_tokens, prediction.output_tokens) == (1000, 4096)
    assert prediction.total_tokens == 5096


def test_without_a_cap_the_ceiling_is_unknown() -> None:
    """Nothing bounds such an answer; a plain figure is expected."""
    prediction = Estimator().predict(size(cap=None))
    assert prediction.output_tokens == UNKNOWN_OUTPUT_TOKENS


def test_an_absurd_cap_does_not_reserve_absurdly() -> None:
    """A cap that no model can fill says no more than none; the ceiling still names it."""
    prediction = Estimator().predict(size(cap=1_000_000_000))
    assert prediction.output_tokens == 131_072


def test_where_nothing_is_written_nothing_is_reserved_for_it() -> None:
    """A cap of 0 (an embedding) is a cap: no output is predicted, before any answer and after, and it teaches others none."""
    assert Estimator().predict(size(cap=0)) == Usage(1000, 0)
    estimator = taught(20, Usage(500, 0), size(cap=0))
    assert estimator.predict(size(cap=0)).output_tokens == 0
    assert estimator.predict(size(cap=0)).input_tokens < 600
    assert estimator.predict(size(cap=1)).output_tokens == 1


@pytest.mark.parametrize(("answers", "expected"), [(1, 3697), (5, 2098), (9, 500), (10, 100), (400, 100)])
def test_each_of_the_first_answers_replaces_a_tenth_of_the_cap(answers: int, expected: int) -> None:
    """Ten answers carry a class alone."""
    assert taught(answers, Usage(1000, 100)).predict(size()).output_tokens == expected


def test_a_prediction_is_never_above_the_cap() -> None:
    """Jobs of one class differ in their caps by up to a factor of two."""
    estimator = taught(50, Usage(1000, 120), size(cap=127))
    assert estimator.predict(size(cap=64)).output_tokens == 64


def test_classes_of_cap_and_models_learn_apart() -> None:
    """What short answers take says nothing about long ones, nor about another model."""
    estimator = taught(50, Usage(1000, 10), size(cap=100))
    assert estimator.predict(size(cap=100)).output_tokens == 10
    assert estimator.predict(size(cap=1000)).output_tokens == 1000
    assert estimator.predict(size(cap=None)).output_tokens == UNKNOWN_OUTPUT_TOKENS
    assert estimator.predict(size(cap=100, model="other")).output_tokens == 100


def test_the_input_ratio_is_learned_by_model() -> None:
    """What servers report corrects the guess, and leaves other models alone."""
    estimator = taught(100, Usage(1500, 10))
    assert estimator.predict(size(10_000)).input_tokens == 14_950
    assert estimator.predict(size(10_000, model="other")).input_tokens == 10_000


def test_the_first_small_answers_say_little() -> None:
    """Twenty tokens of a server's own template must not multiply a prompt of a hundred thousand."""
    estimator = taught(1, Usage(23, 1), size(3))
    assert 100_000 <= estimator.predict(size(100_000)).input_tokens <= 103_000


def test_opaque_parts_go_by_rules_of_thumb_until_answers_have_told() -> None:
    """The guess is an estimate alone: the first answer takes its place."""
    pictures = msgspec.structs.replace(size(1000, opaque=True), opaque_tokens=765)
    estimator = Estimator()
    assert estimator.predict(pictures).input_tokens == 1765
    estimator.learn(pictures, Usage(1100, 10))
    assert estimator.predict(pictures).input_tokens == 1100


def test_an_answer_that_says_nothing_of_tokens_teaches_nothing() -> None:
    """Pictures were counted, tokens were not: a nought that nobody said is no figure."""
    estimator = Estimator()
    estimator.learn(size(), Usage(0, 0, units={"image": Decimal(2)}, tokens_known=False))
    assert estimator == Estimator()


def test_opaque_parts_are_learned_on_top_of_text() -> None:
    """Pictures take about as much each time; they do not bend the ratio of text."""
    estimator = taught(20, Usage(1765, 10), size(1000, opaque=True))
    assert estimator.predict(size(2000, opaque=True)).input_tokens == 2765
    assert estimator.predict(size(2000)).input_tokens == 2000


def test_learning_follows_change() -> None:
    """After a few windows the old answers are forgotten, in and out."""
    estimator = taught(WINDOW * 4, Usage(1000, 100))
    for _ in range(WINDOW * 6):
        estimator.learn(size(), Usage(2000, 900))
    prediction = estimator.predict(size())
    assert 890 <= prediction.output_tokens <= 900
    assert 1950 <= prediction.input_tokens <= 2000


def test_the_number_of_models_is_bounded() -> None:
    """Past the bound all share one entry, which still learns."""
    estimator = Estimator()
    for number in range(MAX_KEYS + 200):
        estimator.learn(size(model=f"model-{number}"), Usage(3000, 50))
        estimator.learn(size(model=f"model-{number}", opaque=True), Usage(9000, 50))
    assert {len(table) for table in (estimator.ratios, estimator.outputs, estimator.parts, estimator.errors)} == {MAX_KEYS + 1}
    assert len(estimator.kinds) == MOST_KINDS
    assert estimator.predict(size(model="never seen")).output_tokens == 50
    assert estimator.predict(size(model="never seen")).input_tokens > 2900


def test_a_long_model_name_is_not_kept_whole() -> None:
    """A hostile file cannot fill memory with names."""
    estimator = taught(1, Usage(1, 1), size(model="x" * 1_000_000))
    assert len(msgspec.json.encode(estimator)) < 2000


SIZES = st.builds(
    RequestSize,
    st.sampled_from(["a", "b"]),
    st.integers(1, 10**7),
    st.none() | st.integers(1, 10**9),
    st.booleans(),
)
USAGES = st.builds(Usage, st.integers(0, 10**9), st.integers(0, 10**9))


@given(st.lists(st.tuples(SIZES, USAGES), max_size=30), SIZES)
def test_the_state_is_plain_and_predictions_make_sense(history: list[tuple[RequestSize, Usage]], asked: RequestSize) -> None:
    """It survives encoding, and any history leaves whole numbers: some input, and no more output than the cap."""
    estimator = Estimator()
    for one, usage in history:
        estimator.learn(one, usage)
    prediction = estimator.predict(asked)
    again = msgspec.json.decode(msgspec.json.encode(estimator), type=Estimator)
    assert again.predict(asked) == prediction
    assert again.statistics() == estimator.statistics()
    assert all(share.off >= 0 and share.used >= 0 for share in again.statistics().output.values())
    assert type(prediction.input_tokens) is type(prediction.output_tokens) is int
    assert prediction.input_tokens >= 1
    assert 0 <= prediction.output_tokens <= (asked.output_cap_tokens or 10**9)


@given(st.lists(st.integers(0, 10_000), min_size=10, max_size=WINDOW))
def test_the_mean_is_the_mean(outputs: list[int]) -> None:
    """Within a window every answer counts the same, to less than a token."""
    estimator = Estimator()
    for tokens in outputs:
        estimator.learn(size(cap=None), Usage(1000, tokens))
    assert abs(estimator.predict(size(cap=None)).output_tokens - sum(outputs) / len(outputs)) <= 1.1


# --- how good the predictions were


def error_of(estimator: Estimator, model: str = "m") -> tuple[float | None, float | None]:
    found = estimator.statistics()
    return found.input[model].ratio, found.output[model].ratio


def test_before_any_answer_nothing_is_known_of_errors() -> None:
    assert Estimator().statistics() == Statistics({}, {})


def test_the_error_is_what_predictions_were_off_by_of_what_was_used() -> None:
    """1,000 and 4,096 predicted, 800 and 512 used: a quarter, and seven times; whichever way they were off."""
    assert error_of(taught(1, Usage(800, 512))) == (0.25, 7.0)
    assert error_of(taught(1, Usage(1250, 8192))) == (0.2, 0.5)


def test_where_nothing_is_used_there_is_no_error() -> None:
    """An embedding writes nothing, and nothing of it was predicted."""
    assert error_of(taught(3, Usage(1000, 0), size(cap=0))) == (0.0, None)


def test_errors_are_by_model_and_add_up() -> None:
    estimator = taught(1, Usage(800, 4096))
    estimator.learn(size(model="other"), Usage(500, 4096))
    assert (error_of(estimator), error_of(estimator, "other")) == ((0.25, 0.0), (1.0, 0.0))
    assert sum(estimator.statistics().input.values(), Share()) == Share(700, 1300)


def test_an_early_error_fades() -> None:
    """The first answers of a class were predicted at its cap; a few windows later nothing is left of that."""
    estimator = taught(WINDOW * 6, Usage(1000, 100))
    assert error_of(estimator)[1] == pytest.approx(0, abs=0.02)
    assert (error_of(taught(WINDOW // 2, Usage(1000, 100)))[1] or 0) > 0.5


def test_what_a_class_has_taken_at_the_most_is_kept() -> None:
    """Of a class of its own; of those past the bound nothing is known, nor of one that was never answered."""
    estimator = taught(3, Usage(1000, 100))
    estimator.learn(size(), Usage(1000, 700))
    estimator.learn(size(), Usage(1000, 300))
    outputs = estimator.outputs_of(size())
    assert outputs is not None
    assert (outputs.most, outputs.count) == (700, 5)
    assert estimator.outputs_of(size(cap=100)) is None
    for number in range(MAX_KEYS):
        estimator.learn(size(model=f"model-{number}"), Usage(3000, 50))
    assert estimator.outputs_of(size(model=f"model-{MAX_KEYS - 1}")) is None


def test_a_senseless_figure_teaches_nothing() -> None:
    """One reply that claims more than any answer takes does not spoil what was learned."""
    estimator = Estimator()
    size = RequestSize("m", 100, None)
    for _ in range(20):
        estimator.learn(size, Usage(100, 200))
    before = estimator.predict(size)
    errors = estimator.statistics()
    estimator.learn(size, Usage(100, 900_000_000))
    assert estimator.predict(size) == before
    assert estimator.statistics() == errors


def test_what_a_reply_does_not_say_is_not_learned() -> None:
    """Zeros that stand for tokens nobody counted would pull every mean down."""
    assert taught(20, Usage(0, 0, tokens_known=False)) == Estimator()


def test_how_long_answers_take_is_learned_by_kind() -> None:
    """In the mean; a time that no answer takes is not."""
    estimator = Estimator()
    for seconds in (1.0, 3.0, -1.0, 1e9):
        estimator.learn(size(), Usage(10, 10), seconds)
    assert estimator.latency_of(size()) == Latency(2.0, 3.0, 2)
    assert estimator.latency_of(size(cap=10)) is None


@pytest.mark.parametrize("seconds", [43_200.0, 86_400.0])
def test_however_long_answers_take_what_was_learned_can_be_read_again(seconds: float) -> None:
    """One figure beyond the decoder's bounds would lose all the others."""
    estimator = Estimator()
    estimator.learn(size(), Usage(10, 10), seconds)
    assert decode(encode(estimator)) is not None


def test_how_much_answers_differ_is_known_from_their_like() -> None:
    """From ten of one size on; else from five of any size, of that model and cap."""
    estimator = taught(9, Usage(1000, 100), size(1000))
    assert estimator.moments_of(size(1000)) == estimator.moments_of(size(50_000)) is not None
    estimator.learn(size(50_000), Usage(50_000, 7))
    together = estimator.moments_of(size(1000))
    assert together is not None
    assert together.count == 10
    estimator.learn(size(1000), Usage(1000, 100))
    own = estimator.moments_of(size(1000))
    assert own is not None
    assert (own.count, own.o) == (10, 1000)
    assert estimator.moments_of(size(1000, cap=10)) is None
    assert estimator.moments_of(size(1000, opaque=True)) is None
    assert taught(4, Usage(1000, 100)).moments_of(size()) is None
