"""A JupyterLab of one's own: on a free port of this machine, with its settings in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import VidlabError

#: How long JupyterLab may take to answer, and to end, in seconds.
_PATIENCE, _PATIENCE_AT_END = 120.0, 10.0

#: Ports below those that Linux gives to whoever asks for any, and how many of them are tried.
_PORTS, _TRIES = range(20_000, 32_000), 100

_SETTINGS = {"fetchNews": "false", "checkForUpdates": False}


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Run JupyterLab on the notebooks of a folder; yields its address, with `{path}` in it.

    Nothing of the user's own settings, extensions or running servers is touched, and nothing
    is asked of the network.

    Parameters
    ----------
    folder : Path
        Where notebooks are; a folder `.jupyter` in it takes settings and the log.

    Raises
    ------
    VidlabError
        If it does not start; the message ends with the end of its log.
    """
    own = folder / ".jupyter"
    notices = own / "settings" / "@jupyterlab" / "apputils-extension"
    notices.mkdir(parents=True)
    (notices / "notification.jupyterlab-settings").write_text(json.dumps(_SETTINGS))
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    environment = {**os.environ, **{name: str(own / place) for name, place in places.items()}}
    for name in ("VIDLAB_RUN", "VIDLAB_HOSTCUDA"):  # its kernels are no part of a recording
        environment.pop(name, None)
    token = secrets.token_hex(16)
    port = _free_port()
    log = own / "log"
    options = [
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}",
        "--allow-root",
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(f"http://127.0.0.1:{port}/api?token={token}", server, log)
        yield f"http://127.0.0.1:{port}/lab/tree/{{path}}?reset&token={token}"
    finally:
        _ask_to_end(f"http://127.0.0.1:{port}/api/shutdown", token)
        try:
            server.wait(_PATIENCE_AT_END)
        except subprocess.TimeoutExpired:  # kernels end by themselves when it is gone
            server.kill()
            server.wait()


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook of these cells of code."""
    body: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": body, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")


def _ask_to_end(address: str, token: str) -> None:
    """Ask the server to end its kernels and itself; its answer may be cut off."""
    headers = {"Authorization": f"token {token}"}
    request = urllib.request.Request(address, method="POST", headers=headers)
    with contextlib.suppress(OSError):
        urllib.request.urlopen(request, timeout=_PATIENCE_AT_END).close()


def _free_port() -> int:
    """Return a port that nobody is given by chance, as those for connections are, meanwhile."""
    for port in random.sample(_PORTS, _TRIES):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise VidlabError(f"no port of {_PORTS} is free on this machine")


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while server.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    end = log.read_text(errors="replace")[-800:]
    raise VidlabError(f"JupyterLab did not start within {_PATIENCE:g} s; its log ends:\n{end}")
