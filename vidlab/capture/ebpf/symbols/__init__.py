"""From names to places in files: what a process has mapped, and the symbols that are in it."""

from .files import ElfError
from .libraries import Process, Target, UnknownSymbolError, UsdtTarget, find, find_usdt
from .mappings import Library, Mapping, mapped_libraries
from .names import near, near_text
from .tables import Symbol, SymbolTable, symbols
from .usdt import UsdtArgument, UsdtProbe, probes

__all__ = [
    "ElfError",
    "Library",
    "Mapping",
    "Process",
    "Symbol",
    "SymbolTable",
    "Target",
    "UnknownSymbolError",
    "UsdtArgument",
    "UsdtProbe",
    "UsdtTarget",
    "find",
    "find_usdt",
    "mapped_libraries",
    "near",
    "near_text",
    "probes",
    "symbols",
]
