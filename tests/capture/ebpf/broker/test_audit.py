"""The audit log: for its owner's eyes, appended to, and written before what it tells of."""

from __future__ import annotations

import json
import os
import threading

import pytest

from vidlab.capture.ebpf.broker.audit import MOST_REFUSALS, Audit
from vidlab.errors import InputError, RecordingError


def test_lines_are_appended_at_once(tmp_path) -> None:
    path = tmp_path / "log"
    for n in range(2):
        audit = Audit(path)
        assert path.stat().st_mode & 0o777 == 0o600
        audit.write("attached", n=n, text='a "quoted"\nline')
        assert len(path.read_text().splitlines()) == n + 1
        audit.close()
        audit.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["n"] for line in lines] == [0, 1]
    assert lines[0]["event"] == "attached"
    assert lines[0]["text"] == 'a "quoted"\nline'
    assert lines[0]["t_ns"] < lines[1]["t_ns"]


def test_what_is_no_log_of_ones_own_is_refused(tmp_path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.touch(0o644)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, why in (
        (open_to_all, "chmod 600"),
        (link, "cannot be written"),
        (tmp_path / "pipe", "cannot be written"),
        (tmp_path, "cannot be written"),
        (tmp_path / "none" / "log", "cannot be written"),
    ):
        with pytest.raises(InputError, match=why):
            Audit(path)
    assert not (tmp_path / "other").exists()
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.touch(0o600)
        os.chown(theirs, 65534, 65534)
        with pytest.raises(InputError, match="belongs to user 65534"):
            Audit(theirs)


def test_what_cannot_be_written_is_an_error() -> None:
    audit = Audit.__new__(Audit)
    audit.path, audit._lock = "/dev/full", threading.Lock()  # type: ignore[assignment]
    audit._fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(RecordingError, match="nothing is attached"):
        audit.write("attached")
    os.close(audit._fd)


def test_threads_do_not_mix_their_lines(tmp_path) -> None:
    audit = Audit(tmp_path / "log")
    threads = [
        threading.Thread(target=lambda: [audit.write("x", a="y" * 5000) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 200


def test_refusals_are_counted_beyond_a_bound(tmp_path) -> None:
    audit = Audit(tmp_path / "log")
    for n in range(MOST_REFUSALS + 5):
        audit.refused(reason="no", n=n)
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == MOST_REFUSALS + 1
    assert lines[-1]["count"] == 5
