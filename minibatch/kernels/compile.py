"""The one decorator of all kernels, and the operations on raw memory that Numba lacks.

Kernels are compiled once per machine (`cache=True`), release the GIL, use no fast-math and never touch Python objects.
With `NUMBA_DISABLE_JIT=1` the same source runs as plain Python, for coverage and as a check of the compiler.
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

JIT_DISABLED = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


def kernel(function: F) -> F:
    """Compile `function`: cached on disk, GIL released, exact arithmetic."""
    return compiled(function)


def inlined(function: F) -> F:
    """Like `kernel`, for the few-instruction pieces that must vanish into their caller."""
    return compiled(function, inline="always")


def compiled(function: F, **options: Any) -> F:
    """`function` through Numba with these options; without a cache where there is no folder to write one to."""
    if JIT_DISABLED:  # NumPy warns where 64-bit integers wrap; wrapping is what the hashes are made of
        return np.errstate(over="ignore")(function)
    jit = partial(numba.njit, nogil=True, error_model="numpy", **options)
    try:
        return cast(F, jit(cache=True)(function))
    except RuntimeError:  # a read-only installation and no home: each process compiles for itself
        return cast(F, jit(cache=False)(function))


if JIT_DISABLED:

    def copy_bytes(destination: Any, source: Any, count: Any) -> None:
        """Copy `count` bytes from address `source` to address `destination`; they must not overlap."""
        ctypes.memmove(int(destination), int(source), int(count))

    def prefetch(address: Any) -> None:
        """Ask the processor for the cache line at `address`; nothing happens where it is not mapped."""

    def load_uint8(address: Any) -> Any:
        """The byte at `address`."""
        return np.uint8(ctypes.c_uint8.from_address(int(address)).value)

    def load_int32(address: Any) -> Any:
        """The little-endian 32-bit integer at `address`."""
        return np.int32(ctypes.c_int32.from_address(int(address)).value)

    def load_int64(address: Any) -> Any:
        """The little-endian 64-bit integer at `address`."""
        return np.int64(ctypes.c_int64.from_address(int(address)).value)

    def float32_array(address: Any, count: Any) -> Any:
        """The `count` numbers of 32 bits at `address`, as an array of the same memory."""
        return np.ctypeslib.as_array((ctypes.c_float * int(count)).from_address(int(address)))

else:
    BYTES = ir.IntType(8).as_pointer()

    @intrinsic
    def copy_bytes(typing_context, destination, source, count):  # type: ignore[no-untyped-def]
        """Copy `count` bytes from address `source` to address `destination`; they must not overlap."""

        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            to, origin, size = arguments
            cgutils.raw_memcpy(builder, builder.inttoptr(to, BYTES), builder.inttoptr(origin, BYTES), size, 1)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64, types.int64), codegen

    @intrinsic
    def prefetch(typing_context, address):  # type: ignore[no-untyped-def]
        """Ask the processor for the cache line at `address`; nothing happens where it is not mapped."""

        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            int32 = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [BYTES, int32, int32, int32])
            call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            # read, keep in all cache levels, data (not instructions)
            builder.call(call, [builder.inttoptr(arguments[0], BYTES), int32(0), int32(3), int32(1)])
            return context.get_dummy_value()

        return types.void(types.uint64), codegen

    def _loader(numba_type: Any, bits: int) -> Any:
        @intrinsic
        def load(typing_context, address):  # type: ignore[no-untyped-def]
            def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
                value = builder.load(pointer)
                value.align = 1  # Arrow buffers of other writers may be unaligned
                return value

            return numba_type(types.uint64), codegen

        return load

    load_uint8 = _loader(types.uint8, 8)
    load_int32 = _loader(types.int32, 32)
    load_int64 = _loader(types.int64, 64)

    @intrinsic
    def _float32_pointer(typing_context, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

        return types.CPointer(types.float32)(types.int64), codegen

    @numba.njit(inline="always")
    def float32_array(address, count):  # type: ignore[no-untyped-def]
        """The `count` numbers of 32 bits at `address`, as an array of the same memory."""
        return numba.carray(_float32_pointer(address), (count,))  # type: ignore[attr-defined, call-arg]
