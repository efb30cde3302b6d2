"""Uncaught errors are printed without vidlab's own lines; all else about them stays."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture import tracebacks

OURS = Path(tracebacks.__file__).with_name("wrapper.py")


@pytest.fixture
def hidden() -> Iterator[None]:
    stop = tracebacks.hide()
    yield
    stop()


def through_us(function: Any, *arguments: Any) -> Any:
    """Call a function as a wrapper of vidlab's would."""
    namespace: dict[str, Any] = {}
    code = "def wrapper(function, *arguments):\n    return function(*arguments)\n"
    exec(compile(code, str(OURS), "exec"), namespace)
    return namespace["wrapper"](function, *arguments)


def fail() -> None:
    raise ValueError("wrong")


def fail_because() -> None:
    try:
        through_us(fail)
    except ValueError as error:
        raise KeyError("worse") from error


def caught(function: Any) -> BaseException:
    try:
        through_us(function)
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("function", [fail, fail_because])
def test_no_line_of_ours_is_left(function: Any) -> None:
    error = caught(function)
    assert str(OURS) in "".join(traceback.format_exception(error))
    text = "".join(traceback.format_exception(tracebacks.cleaned(error)))
    assert str(OURS) not in text
    assert text.count("in fail") == (1 if function is fail else 3)
    assert "in caught" in text


def test_errors_in_a_group_and_in_a_circle_are_cleaned() -> None:
    first, second = caught(fail), caught(fail)
    first.__context__, second.__context__ = second, first
    group = tracebacks.cleaned(ExceptionGroup("several", [first]))
    assert str(OURS) not in "".join(traceback.format_exception(group))


def test_an_error_of_ours_alone_keeps_its_lines() -> None:
    code = compile("raise ValueError('ours')", str(OURS), "exec")
    with pytest.raises(ValueError, match="ours") as raised:
        exec(code)
    ours = raised.tb.tb_next
    assert ours is not None
    alone = raised.value.with_traceback(ours)
    assert str(OURS) in "".join(traceback.format_exception(tracebacks.cleaned(alone)))


@pytest.mark.usefixtures("hidden")
def test_what_is_printed_is_what_python_would_print(capsys: pytest.CaptureFixture[str]) -> None:
    error = caught(fail)
    sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert "ValueError: wrong" in printed
    assert str(OURS) not in printed


def test_so_it_is_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.ExceptHookArgs] = []
    look = seen.append
    monkeypatch.setattr(threading, "excepthook", look)
    stop = tracebacks.hide()
    try:
        thread = threading.Thread(target=through_us, args=(fail,))
        thread.start()
        thread.join()
    finally:
        stop()
    assert threading.excepthook is look
    (args,) = seen
    assert args.thread is thread
    text = "".join(traceback.format_exception(args.exc_value))
    assert "in fail" in text
    assert str(OURS) not in text


def test_a_hook_of_the_program_s_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    stop = tracebacks.hide()

    def own(*_: object) -> None: ...

    sys.excepthook = own
    stop()
    assert sys.excepthook is own
