"""Records of a source that cannot be read: refused one by one, or passed over up to a number and reported."""

from __future__ import annotations


class BadRecord(ValueError):  # noqa: N818 - the record is bad, and it may well be passed over
    """A record of a source that cannot be read: in which file, where ("line 17", "byte 4,096") and why.

    Two of the same file and place are equal, so that what two passes over a file find counts once.

    >>> BadRecord("a.jsonl", "line 17", "'label' is missing")
    BadRecord("'a.jsonl', line 17: 'label' is missing")
    """

    def __init__(self, file: str, where: str, reason: str) -> None:
        super().__init__(f"{file!r}, {where}: {reason}")
        self.file, self.where, self.reason = file, where, reason

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, str, str]]:
        return BadRecord, (self.file, self.where, self.reason)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BadRecord) and (self.file, self.where) == (other.file, other.where)

    def __hash__(self) -> int:
        return hash((self.file, self.where))


def refuse(record: BadRecord) -> None:
    """Raise `record`: no bad record is passed over unless somebody asked for it."""
    raise record


class BadRecords:
    """Collects up to `most` bad records and raises the one after: what `--max-errors` puts in `Options.bad`.

    >>> bad = BadRecords(1)
    >>> for reason in ("first pass", "second pass"):
    ...     bad(BadRecord("a.jsonl", "line 17", reason))
    >>> [str(record) for record in bad.found]
    ["'a.jsonl', line 17: first pass"]
    >>> bad(BadRecord("a.jsonl", "line 20", "not JSON"))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    BadRecord: 'a.jsonl', line 20: not JSON (1 bad record before it was skipped, no more may be)
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: dict[BadRecord, None] = {}

    def __call__(self, record: BadRecord) -> None:
        if record in self.found:
            return
        if len(self.found) >= self.most:
            skipped = f"{self.most:,} bad record{'s' * (self.most != 1)} before it"
            raise BadRecord(
                record.file,
                record.where,
                f"{record.reason} ({skipped} {'were' if self.most != 1 else 'was'} skipped, no more may be)",
            ) from record
        self.found[record] = None
