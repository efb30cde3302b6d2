"""What becomes of label values before anything is written: budgets, redaction, sampling.

A label that takes ever new values (a session, a viewer, a request) makes a label set
of each, and every set costs memory and bytes. Rules bound that, and keep out of a run
what must not be in it. A value that a rule changes is gone: what is changed to bears
its name in parentheses.

Which bucket a value is in, and whether it is kept, follows from the value alone, by
64-bit FNV-1a, so that every process decides alike. Whether a value is within the
budget depends on the values that came before it in the same process; with a budget of
0 all values are in buckets, in every process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import InputError
from .hashing import fnv1a

#: What a redacted value is written as, and what a value that is not kept.
REDACTED, OTHERS = "(redacted)", "(others)"

#: Into so many buckets the values of a key beyond its budget are folded.
BUCKETS = 64

#: So many label sets are made under the same rules; then values of all keys become `OTHERS`,
#: and after this many more, labels are left out.
MOST_SETS, FEW_MORE = 20_000, 1_000

#: So many keys have labels; further ones are dropped.
MOST_KEYS = 200

#: What stands for a key where the number of sets, or of keys, is what was too many.
ALL_KEYS, FURTHER_KEYS = "(all keys)", "(further keys)"

#: The rules, as the table `label_rules` names them.
BUDGET, KEEP, REDACT, DROP = "budget", "keep", "redact", "drop"

#: A device index, which has no other form: it can only be dropped.
_INDEX = "gpu"

_BUCKET_TEXTS = tuple(f"(bucket {number} of {BUCKETS})" for number in range(1, BUCKETS + 1))
_OWN_TEXTS = frozenset((*_BUCKET_TEXTS, REDACTED, OTHERS))


@dataclass(frozen=True)
class LabelRules:
    """What is done to the values of labels before they are written.

    They concern labels alone: what a program says elsewhere, such as in its arguments,
    which are in the manifest, or in the URL of a stream, is left as it is.

    Parameters
    ----------
    budget : int
        Distinct values that a key may have in a process. Further values fold into 64 hash
        buckets, such as "(bucket 17 of 64)".
    budgets : Mapping[str, int]
        The budgets of single keys.
    keep : Mapping[str, float]
        From a key to the share of its values that is kept, in (0, 1]; which ones is the
        same in every process and recording. All others are "(others)".
    redact : sequence of str
        Keys whose values are all "(redacted)".
    drop : sequence of str
        Keys that are left out.

    Raises
    ------
    InputError
        If a rule cannot be followed, or two contradict each other.

    Examples
    --------
    >>> rules = LabelRules(budgets={"stream_id": 2000}, redact=["viewer"], drop=["token"])
    >>> RulesAtWork(rules).apply({"stream_id": "cam-7", "viewer": "Ada", "token": "x1"})
    {'stream_id': 'cam-7', 'viewer': '(redacted)'}
    """

    budget: int = 500
    budgets: Mapping[str, int] = field(default_factory=dict)
    keep: Mapping[str, float] = field(default_factory=dict)
    redact: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("budgets", "keep"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"{name} gives each key its own, such as {{'session': 1}}")
            object.__setattr__(self, name, dict(getattr(self, name)))
        for name in (REDACT, DROP):
            keys = getattr(self, name)
            if isinstance(keys, str):
                raise InputError(f"{name} is a list of keys, such as [{keys!r}]")
            object.__setattr__(self, name, tuple(keys))
        for key, budget in {"": self.budget, **self.budgets}.items():
            if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
                of = f" of the label {key!r}" if key else ""
                raise InputError(
                    f"the budget{of} is how many distinct values it may have, such as 500, "
                    f"not {budget!r}"
                )
        for key, share in self.keep.items():
            if not isinstance(share, int | float) or not 0 < share <= 1:
                raise InputError(
                    f"of the values of the label {key!r} a share above 0 and at most 1 is kept, "
                    f"such as 0.1, not {share!r}; drop it to keep none"
                )
        self._check_keys()

    def _check_keys(self) -> None:
        chosen = [*self.keep, *self.redact, *self.drop]
        for key in (*self.budgets, *chosen):
            if not isinstance(key, str) or not key.isidentifier():
                raise InputError(
                    f"a rule names a label's key, an identifier such as 'stream_id', not {key!r}"
                )
            if chosen.count(key) > 1:
                raise InputError(f"the label {key!r} has two rules: keep, redact or drop it")
            if key == _INDEX and key not in self.drop:
                raise InputError(
                    "the label 'gpu' is a device index, which can be dropped, but has no budget "
                    "and cannot be redacted or kept in part"
                )

    def parameters(self) -> dict[str, Any]:
        """Return the rules as JSON values, of which `LabelRules(**…)` makes them again."""
        plain = asdict(self)
        return {**plain, REDACT: list(self.redact), DROP: list(self.drop)}


@dataclass(frozen=True)
class RuleCount:
    """What a rule has done to a key's values so far; a row of the table `label_rules`.

    Attributes
    ----------
    key, rule : str
    limit : float or None
        The budget in values, or the share of them that is kept.
    values : int
        Distinct values that are written as they are.
    folded : int
        Distinct values that were changed, at least.
    buckets : int
        Distinct values that they were changed to.
    """

    key: str
    rule: str
    limit: float | None
    values: int
    folded: int
    buckets: int


class RulesAtWork:
    """Rules, and what they have come across.

    One thread at a time may use it. Values that have passed are not changed when they
    pass again.

    Parameters
    ----------
    rules : LabelRules
    heard : bool
        Whether to note news.

    Attributes
    ----------
    news : deque of RuleCount
        When a rule changed its first distinct value of a key, the second, the fourth, …
    """

    def __init__(self, rules: LabelRules, heard: bool = False) -> None:
        self.rules = rules
        self.news: deque[RuleCount] = deque()
        self._heard = heard
        self._redact, self._drop = frozenset(rules.redact), frozenset(rules.drop)
        self._known: dict[str, set[str]] = {}
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._sets = 0

    def apply(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return labels, text but for `gpu`, as the rules leave them."""
        ruled = {}
        for key, value in values.items():
            if key in self._drop:
                self._changed(key, DROP, value)
            elif key == _INDEX:
                ruled[key] = value
            elif key in self._redact:
                if value != REDACTED:
                    self._changed(key, REDACT, value, REDACTED)
                ruled[key] = REDACTED
            else:
                known = self._known.get(key)
                if known is None:
                    if len(self._known) >= MOST_KEYS:
                        self._changed(FURTHER_KEYS, DROP, key)
                        continue
                    known = self._known[key] = set()
                ruled[key] = value if value in known else self._new(key, value, known)
        return ruled

    def apply_to_known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return labels of before as the rules leave them, but for budgets, and count nothing.

        Nobody knows whether they will ever be used again.
        """
        keep = self.rules.keep
        return {
            key: REDACTED
            if key in self._redact
            else OTHERS
            if key in keep and value not in _OWN_TEXTS and not is_kept(value, keep[key])
            else value
            for key, value in values.items()
            if key not in self._drop
        }

    def crowd(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return fewer labels if there are too many sets for a new one of these; else None."""
        if self._sets < MOST_SETS or not values:
            return None
        fewer = {key: value if key == _INDEX else OTHERS for key, value in values.items()}
        if fewer == values:  # they came to be so here, and are counted
            return None if self._sets < MOST_SETS + FEW_MORE else {}
        self._changed(ALL_KEYS, BUDGET, sorted(values.items()), str(sorted(fewer.items())))
        return fewer

    def count_set(self) -> None:
        """Note that a label set was made."""
        self._sets += 1

    def counts(self) -> list[RuleCount]:
        """Return what each rule has done to each key's values: those that it changed any of."""
        return [self._count(key, rule) for key, rule in list(self._tallies)]

    def _new(self, key: str, value: str, known: set[str]) -> str:
        """Return what becomes of a value that is not known to be within the budget."""
        if value in _OWN_TEXTS:
            return value
        share = self.rules.keep.get(key)
        if share is not None and not is_kept(value, share):
            self._changed(key, KEEP, value, OTHERS)
            return OTHERS
        if len(known) < self.rules.budgets.get(key, self.rules.budget):
            known.add(value)
            return value
        bucket = bucket_of(value)
        self._changed(key, BUDGET, value, bucket)
        return bucket

    def _changed(self, key: str, rule: str, value: object, to: str = "") -> None:
        tally = self._tallies.get((key, rule))
        if tally is None:
            tally = self._tallies[key, rule] = _Tally()
        if to:
            tally.buckets.add(to)
        # At each doubling: few rows, and never far behind if the process is killed.
        if tally.add(value) and self._heard and tally.distinct & (tally.distinct - 1) == 0:
            self.news.append(self._count(key, rule))

    def _count(self, key: str, rule: str) -> RuleCount:
        tally, rules = self._tallies[key, rule], self.rules
        limit: float | None = None
        values = len(self._known.get(key, ()))
        if key == ALL_KEYS:
            limit, values = MOST_SETS, self._sets
        elif key == FURTHER_KEYS:
            limit, values = MOST_KEYS, len(self._known)
        elif rule == BUDGET:
            limit = rules.budgets.get(key, rules.budget)
        elif rule == KEEP:
            limit = rules.keep[key]
        return RuleCount(key, rule, limit, values, tally.distinct, len(tally.buckets))


class _Tally:
    """Counts distinct values in bounded memory: never too many, and few too few.

    Of each value one of 2^20 bits is set. Of a thousand values it misses about one
    in two thousand, of a hundred thousand one in twenty, of a million a third.
    """

    __slots__ = ("_bits", "buckets", "distinct")

    _BITS = 20

    def __init__(self) -> None:
        self._bits = bytearray(1 << self._BITS - 3)
        self.buckets: set[str] = set()
        self.distinct = 0

    def add(self, value: object) -> bool:
        """Count a value; return whether it is a new one."""
        place = _hash(value, b"/count") >> 64 - self._BITS
        byte, bit = place >> 3, 1 << (place & 7)
        if self._bits[byte] & bit:
            return False
        self._bits[byte] |= bit
        self.distinct += 1
        return True


def is_kept(value: str, share: float) -> bool:
    """Return whether this value is among the share that keeps its label.

    By the 64-bit FNV-1a hash of the value's UTF-8 followed by "/keep", as a fraction of 2^64.
    """
    return _hash(value, b"/keep") < share * (1 << 64)


def bucket_of(value: str) -> str:
    """Return the text of this value's bucket.

    By the upper 6 bits of the 64-bit FNV-1a hash of its UTF-8 followed by "/bucket".

    >>> bucket_of("session-1")
    '(bucket 20 of 64)'
    """
    return _BUCKET_TEXTS[_hash(value, b"/bucket") * BUCKETS >> 64]


def _hash(value: object, purpose: bytes) -> int:
    # The bytes that follow spread the last ones of the value over all bits: names often
    # differ in a last digit only.
    return fnv1a(purpose, fnv1a(str(value).encode("utf-8", "surrogatepass")))
