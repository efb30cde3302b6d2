"""Write all generated parts of the documentation anew: `python -m docs.generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import gallery, pages, run_format

DOCS = Path(__file__).parents[1]

#: The pages whose Python blocks are run in order, and followed by what they return.
EXECUTED = ("tutorial.md", "run-format.md")

#: The pages that have blocks between markers.
FILLED = ("run-format.md", *(f"engines/{page.name}" for page in (DOCS / "engines").iterdir()))


def _costs(heading: str) -> str:
    """Return the table under a heading of `costs.md`, which is the one place with figures."""
    _, _, after = (DOCS / "costs.md").read_text().partition(f"## {heading}\n\n")
    table, _, _ = after.partition("\n\n")
    return table


#: What makes the blocks between markers.
BLOCKS: dict[str, Callable[[], str]] = {
    "manifest": run_format.manifest,
    "cube": run_format.cube_columns,
    "tables": run_format.tables,
    "costs_frames": lambda: _costs("Frames"),
    "costs_gpu_memory": lambda: _costs("GPU memory"),
    "costs_kernel_events": lambda: _costs("Kernel events"),
    "costs_runtime": lambda: _costs("Runtime"),
    "costs_profiles": lambda: _costs("Profiles"),
}


def main() -> None:
    """Write the pages, and draw their pictures."""
    for name in FILLED:
        page = DOCS / name
        page.write_text(pages.filled(page.read_text(), BLOCKS))
    for name in EXECUTED:
        page = DOCS / name
        page.write_text(pages.executed(page.read_text(), draw=DOCS))
    gallery.write(DOCS)


if __name__ == "__main__":
    main()
