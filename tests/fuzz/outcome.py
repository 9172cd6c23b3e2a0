"""What became of one try."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """`kind` is "finding" where something is wrong; `error`, `place` and the name put alike findings together."""

    name: str
    text: str
    kind: str
    error: str = ""
    place: str = ""
    message: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.name, self.error, self.place or self.message[:60]
