"""scipy's BLAS and LAPACK for compiled code, imported without the rest of `scipy.linalg`."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import scipy


def import_linked(library: str) -> str:
    """Import ``cython_blas`` or ``cython_lapack`` of `scipy.linalg`; return its full name.

    The two are tables of addresses, and load in 10 ms. The package around them, which nothing here
    calls, takes 130 ms; whoever imports it later finds the two as they are.
    """
    name = f"scipy.linalg.{library}"
    if name not in sys.modules and "scipy.linalg" not in sys.modules:
        spec = PathFinder.find_spec(name, [str(Path(scipy.__file__).parent / "linalg")])
        if spec is not None and spec.loader is not None:
            sys.modules[name] = module = module_from_spec(spec)
            spec.loader.exec_module(module)
    import_module(name)
    return name
