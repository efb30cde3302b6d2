"""The real agent, in a process of its own: it reads the memory of all that a process has.

In a test process that has run thousands of tests it is far too slow to say anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("agent_checks.py")


def test_the_agent_in_a_process_of_its_own() -> None:
    pytest.importorskip("pyroscope")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    alone = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=alone, cwd=CHECKS.parents[3]
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
