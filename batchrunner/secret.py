"""Keys: values that must never be seen."""

from __future__ import annotations

from typing import Final


class Secret:
    """A key that prints, formats and logs as `***` and refuses to be pickled or encoded.

    `reveal()` is the only way to its text; the one caller is the code that writes the request's header.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: Final = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is never written anywhere")
