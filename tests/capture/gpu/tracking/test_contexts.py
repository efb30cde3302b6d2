"""Which context is written down: never one that there is not, and never none for good."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vidlab.capture.gpu.tracking.contexts import Contexts


class Driver:
    """A stand-in, for host memory's context is there from the first."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def ctxGetCurrent(self) -> int:  # noqa: N802
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)


def contexts(driver: Driver) -> Contexts:
    device = SimpleNamespace(get_device_id=lambda: 0)
    return Contexts(SimpleNamespace(cuda=SimpleNamespace(device=device, driver=driver)))


def test_a_context_that_is_made_later_is_found() -> None:
    driver = Driver(0, 4711)
    known = contexts(driver)
    assert [known[0], known[0], known[0]] == [0, 4711, 4711]
    assert driver.asked == 2


def test_another_device_than_the_current_one_is_not_asked_about() -> None:
    driver = Driver()
    assert contexts(driver)[1] == 0
    assert driver.asked == 0


def test_where_nobody_tells_it_is_asked_once() -> None:
    driver = Driver(RuntimeError("no driver"))
    known = contexts(driver)
    assert [known[0], known[0]] == [0, 0]
