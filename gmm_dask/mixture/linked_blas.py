"""scipy's BLAS and LAPACK for compiled code, imported without the rest of `scipy.linalg`."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

import scipy

_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
_pointer_in = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_in.restype, _pointer_in.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


@cache
def import_linked(library: str) -> ModuleType:
    """Import ``cython_blas`` or ``cython_lapack`` of `scipy.linalg`.

    The two are tables of addresses, and load in 10 ms. The package around them, which nothing here
    calls, takes 130 ms; whoever imports it later finds the two in it.
    """
    name = f"scipy.linalg.{library}"
    if name in sys.modules or "scipy.linalg" in sys.modules:
        return import_module(name)
    spec = PathFinder.find_spec(name, [str(Path(scipy.__file__).parent / "linalg")])
    if spec is None or spec.loader is None:
        return import_module(name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    # It enters itself. With an entry, a later import of `scipy.linalg` would not make it an
    # attribute of that; without one, it is this very module that is then loaded again.
    sys.modules.pop(name, None)
    return module


def address_of(library: str, function: str) -> int:
    """Return the address of a function of ``cython_blas`` or ``cython_lapack``."""
    capsule = import_linked(library).__pyx_capi__[function]
    address: int = _pointer_in(capsule, _name_of(capsule))
    return address
