"""Maps: tables in the kernel that programs and we both read and write."""

from __future__ import annotations

import ctypes
import errno as errors
import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ....errors import RecordingError
from . import bpf, privileges
from .bpf import Command, Descriptor, KernelError, MapType

_PER_CPU = {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH}

#: Maps that answer in batches: one call for many entries.
_IN_BATCHES = _PER_CPU | {MapType.HASH, MapType.ARRAY, MapType.LRU_HASH}

#: How many entries one batch asks for at first.
_BATCH = 1024

#: The size of ``bpf_map_info`` as far as we read it.
_INFO = struct.Struct("<IIIIII16s")


@functools.cache
def possible_cpus() -> int:
    """Return how many CPUs the kernel may ever have: the values of an entry per CPU.

    Raises
    ------
    RecordingError
        If ``/sys`` is not there to tell.
    """
    path = Path("/sys/devices/system/cpu/possible")
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise RecordingError(f"{path} cannot be read ({error}): mount /sys") from error
    # A list of ranges such as "0-3,8-11". Values are laid out by position in this list.
    ranges = [part.partition("-") for part in text.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of a map, one after the other, to be viewed with `numpy.frombuffer`.

    Attributes
    ----------
    count : int
        How many entries.
    keys, values : bytes
        `count` keys of `key_size` bytes, and as many values of `stride` bytes.
    """

    count: int
    keys: bytes
    values: bytes


class Map(Descriptor):
    """A map in the kernel.

    The kernel frees it when its descriptor, every program that uses it, and every pin of it are
    gone. Any thread may call any method.

    Attributes
    ----------
    type : MapType or int
    key_size, value_size : int
        In bytes. A value of a map per CPU is `value_size` bytes on each CPU.
    stride : int
        Bytes of one entry's value as they come from the kernel: `value_size`, or, per CPU,
        `value_size` rounded up to 8 times the possible CPUs.
    max_entries : int
        Entries, or bytes for a ring.
    name : str
        At most 15 characters.
    """

    def __init__(
        self, fd: int, type: int, key_size: int, value_size: int, max_entries: int, name: str = ""
    ) -> None:
        super().__init__(fd)
        self.type = type
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries
        self.name = name
        self.per_cpu = type in _PER_CPU
        self._each = (value_size + 7) // 8 * 8 if self.per_cpu else value_size
        self.stride = self._each * possible_cpus() if self.per_cpu else value_size

    @classmethod
    def create(
        cls,
        type: MapType,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        name: str = "",
    ) -> Self:
        """Create a map.

        Parameters
        ----------
        type : MapType
        key_size, value_size : int
            In bytes; both 0 for a ring.
        max_entries : int
            Entries, or bytes for a ring: a power of two and at least a page.
        flags : int
            Such as `bpf.F_MMAPABLE`.
        name : str
            Shown by tools; cut to 15 characters.

        Raises
        ------
        PrivilegeError
            If this process may not.
        KernelError
            If the kernel refuses these sizes, or has no memory for them.
        """
        short = bpf.object_name(name)
        attributes = struct.pack(
            "<IIIIIII16s", type, key_size, value_size, max_entries, flags, 0, 0, short
        )
        try:
            fd = bpf.bpf(Command.MAP_CREATE, attributes)
        except KernelError as error:
            if privileges.is_refusal(error.errno):
                raise privileges.refusal(
                    error.errno, f"create the map {name!r}", ("cap_bpf", "cap_perfmon")
                ) from error
            raise KernelError(
                error.errno,
                f"the kernel does not create the map {name!r} ({_kind(type)}, keys of {key_size} "
                f"and values of {value_size} bytes, {max_entries} entries){_why(error.errno)}",
                error.command,
            ) from error
        return cls(fd, type, key_size, value_size, max_entries, short.decode())

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Return the map behind a descriptor, which the map then owns.

        Raises
        ------
        KernelError
            If it is not a map's; the descriptor is left open then.
        """
        fields = _information(fd)
        name = fields[6].rstrip(b"\0").decode()
        return cls(fd, _known(fields[0]), fields[2], fields[3], fields[4], name)

    @property
    def id(self) -> int:
        """The kernel's number of the map, by which tools name it."""
        return int(_information(self.fd)[1])

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of a key, `stride` bytes, or None if the map has no such key.

        An array of programs gives the program's id.
        """
        value = ctypes.create_string_buffer(self.stride)
        try:
            self._element(Command.MAP_LOOKUP_ELEM, key, value)
        except KernelError as error:
            if error.errno == errors.ENOENT:
                return None
            raise
        return value.raw

    def lookup_percpu(self, key: bytes) -> list[bytes] | None:
        """Return the values of a key in a map per CPU, one of `value_size` bytes for each CPU."""
        value = self.lookup(key)
        if value is None:
            return None
        starts = range(0, self.stride, self._each)
        return [value[start : start + self.value_size] for start in starts]

    def update(self, key: bytes, value: bytes, flags: int = bpf.ANY) -> None:
        """Set the value of a key.

        Parameters
        ----------
        key : bytes
            `key_size` bytes.
        value : bytes
            `stride` bytes. For an array of programs, a program's descriptor as ``u32``.
        flags : int
            `bpf.ANY`, `bpf.NOEXIST` or `bpf.EXIST`.

        Raises
        ------
        KernelError
            E2BIG if the map is full, EEXIST or ENOENT by the flags.
        """
        if len(value) != self.stride:
            raise ValueError(f"a value of {self!r} has {self.stride} bytes, not {len(value)}")
        self._element(Command.MAP_UPDATE_ELEM, key, value, flags)

    def delete(self, key: bytes) -> bool:
        """Remove a key, and return whether it was there."""
        try:
            self._element(Command.MAP_DELETE_ELEM, key)
        except KernelError as error:
            if error.errno == errors.ENOENT:
                return False
            raise
        return True

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key with its value (`stride` bytes).

        What programs change meanwhile may be seen or missed; what is not changed is seen once.
        """
        if self.type in _IN_BATCHES:
            try:
                whole = self.read()
            except KernelError as error:
                if error.errno not in (errors.EINVAL, errors.ENOTSUP, bpf.ENOTSUPP):
                    raise
            else:
                for index in range(whole.count):
                    at, value_at = index * self.key_size, index * self.stride
                    yield (
                        whole.keys[at : at + self.key_size],
                        whole.values[value_at : value_at + self.stride],
                    )
                return
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def keys(self) -> Iterator[bytes]:
        """Yield every key, one call for each."""
        following = ctypes.create_string_buffer(self.key_size)
        key: bytes | None = None
        while True:
            try:
                self._element(Command.MAP_GET_NEXT_KEY, key, following)
            except KernelError as error:
                if error.errno == errors.ENOENT:
                    return
                raise
            key = following.raw
            yield key

    def read(self) -> Batch:
        """Return all entries, read in batches.

        Raises
        ------
        KernelError
            EINVAL or ENOTSUPP, if this kind of map has no batches.
        """
        return self._batches(Command.MAP_LOOKUP_BATCH)

    def take(self) -> Batch:
        """Return all entries of a hash and remove them, each in one step: nothing is lost between.

        Raises
        ------
        KernelError
            EINVAL or ENOTSUPP, if this kind of map has no such batches, as arrays.
        """
        return self._batches(Command.MAP_LOOKUP_AND_DELETE_BATCH)

    def _batches(self, command: Command) -> Batch:
        keys, values = [], []
        size, total = min(_BATCH, self.max_entries), 0
        # A hash's position is a bucket's number, an array's an index: a key's room holds both.
        position = ctypes.create_string_buffer(max(self.key_size, 8))
        started = False
        while True:
            key_room = ctypes.create_string_buffer(size * self.key_size)
            value_room = ctypes.create_string_buffer(size * self.stride)
            attributes = ctypes.create_string_buffer(
                struct.pack(
                    "<QQQQIIQQ",
                    ctypes.addressof(position) if started else 0,
                    ctypes.addressof(position),
                    ctypes.addressof(key_room),
                    ctypes.addressof(value_room),
                    size,
                    self.fd,
                    0,
                    0,
                ),
                56,
            )
            done = False
            try:
                bpf.bpf(command, attributes)
            except KernelError as error:
                if error.errno == errors.ENOSPC and size < 2 * self.max_entries:
                    size *= 2  # one bucket of the hash holds more than we had room for
                    continue
                if error.errno != errors.ENOENT:
                    raise
                done = True  # these were the last
            (count,) = struct.unpack_from("<I", attributes, 32)
            keys.append(key_room.raw[: count * self.key_size])
            values.append(value_room.raw[: count * self.stride])
            total += count
            started = True
            if done:
                return Batch(total, b"".join(keys), b"".join(values))

    def _element(
        self,
        command: Command,
        key: bytes | None,
        value: bytes | ctypes.Array[ctypes.c_char] | None = None,
        flags: int = 0,
    ) -> None:
        if key is not None and len(key) != self.key_size:
            raise ValueError(f"a key of {self!r} has {self.key_size} bytes, not {len(key)}")
        attributes = struct.pack("<I4xQQQ", self.fd, _address(key), _address(value), flags)
        bpf.bpf(command, attributes)

    def __repr__(self) -> str:
        return f"<Map {self.name!r} {_kind(self.type)} fd={self._fd}>"


def _address(data: bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Return where bytes lie. The caller holds them for as long as the address is in use."""
    if data is None:
        return 0
    if isinstance(data, bytes):
        return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    return ctypes.addressof(data)


def _information(fd: int) -> tuple[int, int, int, int, int, int, bytes]:
    fields: tuple[int, int, int, int, int, int, bytes] = _INFO.unpack(
        bpf.information(fd, _INFO.size)
    )
    return fields


def _known(type: int) -> int:
    return MapType(type) if type in MapType._value2member_map_ else type


def _kind(type: int) -> str:
    return type.name if isinstance(type, MapType) else str(type)


def _why(errno: int) -> str:
    return {
        errors.ENOMEM: ": no memory for it, or a limit of the container's memory",
        errors.E2BIG: ": too large",
        errors.EINVAL: ": sizes that this kind of map does not have, or a kernel without it",
    }.get(errno, "")
