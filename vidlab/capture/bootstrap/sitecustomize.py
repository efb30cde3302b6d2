"""Join the run that `VIDLAB_RUN` names, before a recorded program starts.

`vidlab record` puts this file's folder in front of `PYTHONPATH`, so that every
Python process of the recorded program runs it while it starts. It leaves no
trace in what the program sees of the interpreter: its folder goes from
`sys.path`, and the environment's own `sitecustomize`, if there is one, runs and
is what `sys.modules` holds.
"""

import sys


def _join() -> None:
    import contextlib
    import importlib.util
    import os
    import pathlib

    package = pathlib.Path(__file__).parents[2]
    with contextlib.suppress(ValueError):
        sys.path.remove(str(pathlib.Path(__file__).parent))
    if not os.environ.get("VIDLAB_RUN"):
        return
    # This very vidlab, whether or not it is installed here, and without touching sys.path.
    spec = importlib.util.spec_from_file_location(
        package.name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[package.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # which joins


try:
    _join()
except Exception:  # a Python without numpy, say: it runs as it would without vidlab
    for _name in [name for name in sys.modules if name.partition(".")[0] == "vidlab"]:
        del sys.modules[_name]

# Now the environment's own, under its own name. Where there is none, the import's error
# tells `site` just that, and the name is free again.
del sys.modules[__name__]
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401
