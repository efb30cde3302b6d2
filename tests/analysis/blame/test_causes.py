"""The words of causes."""

from __future__ import annotations

from vidlab.analysis import blame


def test_every_cause_says_what_it_is_and_what_to_do():
    for name, cause in blame.CAUSES.items():
        assert cause.name == name
        assert "{" not in cause.said("decode") + cause.said(None)
        assert cause.advice
        assert not cause.advice.endswith(".")
    assert blame.CAUSES["queue_wait"].said("before encode") == "queue wait before encode"
    assert blame.CAUSES["queue_wait"].said("decoded") == "queue wait in 'decoded'"
    assert blame.CAUSES["garbage_collection"].said("before decode") == (
        "garbage collection before decode"
    )
    assert blame.CAUSES["gil"].said("filter") == "wait for the GIL in filter"
    assert blame.CAUSES["gil"].said(None) == "wait for the GIL"
