"""What rules have done to labels, written into the run: rows of `label_rules`, and findings."""

from __future__ import annotations

from typing import Any, Protocol

from .. import labelsets
from ..labelrules import ALL_KEYS, BUCKETS, BUDGET, FURTHER_KEYS, LabelRules, RuleCount

#: What is to be said of a key that is changed without having been asked for.
_MESSAGES = {
    ALL_KEYS: "more than {limit:,} label sets were made: in further ones the values of all keys "
    "are (others). Take off a label that changes all the time, or keep a share of its values: "
    "label_rules=LabelRules(keep={{'session': 0.1}})",
    FURTHER_KEYS: "labels have more than {limit:,} keys: further ones are left out. Give what "
    "changes all the time as a label's value, not as its key",
    BUDGET: "the label {key!r} has more than {limit:,} distinct values: further ones fold into "
    f"{BUCKETS} buckets. Where they are needed, give it a larger budget: "
    "label_rules=LabelRules(budgets={{{key!r}: 2000}})",
}


class Writer(Protocol):
    """What takes rows and findings: `writer.RunWriter`."""

    def row(self, table: str, /, **columns: Any) -> None: ...
    def finding(
        self,
        kind: str,
        message: str,
        severity: str = "warning",
        frame: int = 0,
        labels: int | None = None,
        **evidence: Any,
    ) -> None: ...


class Rulings:
    """Puts rules in force, and writes down what they do to labels.

    Rows are cumulative: of each process, key and rule the last one counts.
    """

    def __init__(self, rules: LabelRules) -> None:
        self._writer: Writer | None = None
        self._early: list[RuleCount] = []
        self._end = labelsets.under(rules, self._told)

    def begin(self, writer: Writer) -> None:
        """Write to this run, also what was told before."""
        self._writer = writer
        early, self._early = self._early, []
        for count in early:
            self._told(count)

    def sum_up(self) -> None:
        """Write down what the rules have come to."""
        if self._writer is not None:
            for count in labelsets.rule_counts():
                self._row(self._writer, count)

    def end(self) -> None:
        """Have the rules in force no more."""
        self._end()

    def _told(self, count: RuleCount) -> None:
        """Write down that a rule has changed further values of a key."""
        if self._writer is None:
            self._early.append(count)
            return
        self._row(self._writer, count)
        unasked = count.key if count.key in _MESSAGES else count.rule
        if count.folded == 1 and unasked in _MESSAGES:
            self._writer.finding(
                "labels_folded",
                _MESSAGES[unasked].format(key=count.key, limit=int(count.limit or 0)),
                labels=labelsets.EMPTY,
                key=count.key,
                limit=count.limit,
            )

    def _row(self, writer: Writer, count: RuleCount) -> None:
        writer.row("label_rules", labels=labelsets.EMPTY, **vars(count))
