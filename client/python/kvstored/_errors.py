"""What every refusal is in Python: a row of the one error table, and what only this case knows."""

from __future__ import annotations

import functools
from typing import Optional

from . import _library


class KVStoreError(RuntimeError):
    """A call did not succeed.

    reason     the word of docs/ERRORS.md: "KEY_NOT_FOUND"
    code       its gRPC code: 5
    detail     one sentence that names the key, field or rank
    next_step  what to do about it
    """

    def __init__(self, reason: str, detail: str, code: Optional[int] = None,
                 next_step: Optional[str] = None) -> None:
        status = _statuses().get(reason, 0)
        library = _library.load()
        self.reason = reason
        self.detail = detail
        self.code: int = library.kv_status_grpc_code(status) if code is None else code
        self.next_step: str = (library.kv_status_advice(status).decode() if next_step is None
                               else next_step)
        super().__init__(self.reason, self.detail, self.code, self.next_step)

    def __str__(self) -> str:
        detail = self.detail.rstrip(".")
        if self.next_step == "" or f"{detail}.".endswith(self.next_step):  # the server said it
            return f"{self.reason}: {detail}."
        return f"{self.reason}: {detail}. {self.next_step}"


@functools.lru_cache(maxsize=None)
def _statuses() -> dict[str, int]:
    """The number of each reason: unknown numbers have the reason of the table's own row."""
    library = _library.load()
    found: dict[str, int] = {}
    for status in range(256):
        found.setdefault(library.kv_status_reason(status).decode(), status)
    return found


def from_status(status: int, text: bytes) -> KVStoreError:
    """The error of a status and of the words that the library had for it."""
    reason: str = _library.load().kv_status_reason(status).decode()
    words = text.decode("utf-8", "replace")
    start = reason + ": "
    return KVStoreError(reason, words[len(start):] if words.startswith(start) else words)
