"""The records of TensorBoard event files: framing, checksums and the few protocol-buffer fields that hold scalars.

An event file is a sequence of records: length (8 bytes, little endian), masked CRC-32C of the length, data, masked
CRC-32C of the data. The data is a protocol buffer `Event`, whose layout is public. Reading it here keeps TensorBoard
itself out of the requirements.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

LARGEST_RECORD = 1 << 30
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
# Numeric types of a TensorProto, by the value of its enum: how they are packed, and the field of unpacked values.
_FLOAT, _DOUBLE, _INT32, _INT64, _HALF = 1, 2, 3, 9, 19
_TENSOR_TYPES: dict[int, str] = {_FLOAT: "<f4", _DOUBLE: "<f8", _INT32: "<i4", _INT64: "<i8", _HALF: "<f2"}
_VALUE_FIELDS = {_FLOAT: 5, _DOUBLE: 6, _INT32: 7, _INT64: 10, _HALF: 13}


class DamagedRecordError(ValueError):
    """A record whose checksum, length or layout is wrong."""


class Scalar(NamedTuple):
    """One value of a tag at a step."""

    step: int
    tag: str
    value: float


def _crc_table() -> tuple[int, ...]:
    """The 256 remainders of the Castagnoli polynomial."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC-32C of `data`, rotated and shifted as event files want it."""
    crc, table = 0xFFFFFFFF, _CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def starts_like_event_file(head: bytes) -> bool:
    """Whether the first bytes are the frame of a record."""
    if len(head) < _HEADER.size:
        return False
    length, checksum = _HEADER.unpack_from(head)
    return bool(length < LARGEST_RECORD and masked_crc(head[:8]) == checksum)


def records(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """The data of each record with its stored checksum, which is not compared yet: images and graphs are long.

    Raises:
        DamagedRecordError: the file ends inside a record, or a length's checksum is wrong.
    """
    position = 0
    while position < size:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise DamagedRecordError("the file ends inside a record")
        length, checksum = _HEADER.unpack(header)
        if masked_crc(header[:8]) != checksum:
            raise DamagedRecordError("the checksum of a record's length is wrong")
        position += _HEADER.size + length + _CHECKSUM.size
        if position > size:
            raise DamagedRecordError("the file ends inside a record")
        if length > LARGEST_RECORD:
            raise DamagedRecordError(f"a record of {length} bytes is too long")
        data = file.read(length)
        yield data, _CHECKSUM.unpack(file.read(_CHECKSUM.size))[0]


def scalars(data: bytes) -> list[Scalar]:
    """The scalars that an event holds; images, histograms, text and graphs are passed over.

    Raises:
        DamagedRecordError: the data is no event.
    """
    step = 0
    found: list[tuple[str, float]] = []
    for field, kind, value in _fields(data):
        if field == 2 and kind == _VARINT:
            step = _signed(value)
        elif field == 5 and kind == _BYTES:
            found += [
                scalar
                for number, inner, item in _fields(value)
                if number == 1 and inner == _BYTES
                for scalar in _value(item)
            ]
    return [Scalar(step, tag, value) for tag, value in found]


def _value(data: bytes) -> Iterator[tuple[str, float]]:
    """The tag and number of a `Summary.Value`, if it holds one."""
    tag, plugin = "", b""
    number: float | None = None
    tensor: bytes | None = None
    for field, kind, value in _fields(data):
        if field == 1 and kind == _BYTES:
            tag = value.decode("utf-8", errors="replace")
        elif field == 2 and kind == _FIXED32:
            number = float(np.frombuffer(value, "<f4")[0])
        elif field == 8 and kind == _BYTES:
            tensor = value
        elif field == 9 and kind == _BYTES:
            plugin = _plugin(value)
    if number is None and tensor is not None and plugin in (b"", b"scalars"):
        number = _single_number(tensor)
    if number is not None:
        yield tag, number


def _plugin(metadata: bytes) -> bytes:
    for field, kind, value in _fields(metadata):
        if field == 1 and kind == _BYTES:
            return next((name for number, inner, name in _fields(value) if number == 1 and inner == _BYTES), b"")
    return b""


def _single_number(tensor: bytes) -> float | None:
    """The number in a TensorProto of one element; None for any other tensor."""
    fields = [(field, kind, value) for field, kind, value in _fields(tensor)]
    dtype = next((value for field, kind, value in fields if field == 1 and kind == _VARINT), 0)
    if dtype not in _TENSOR_TYPES:
        return None
    for field, kind, value in fields:
        if field == 4 and kind == _BYTES and value:
            width = np.dtype(_TENSOR_TYPES[dtype]).itemsize
            return float(np.frombuffer(value, _TENSOR_TYPES[dtype])[0]) if len(value) == width else None
        if field == _VALUE_FIELDS[dtype]:
            return _unpacked(dtype, kind, value)
    return None


def _unpacked(dtype: int, kind: int, value: Any) -> float | None:
    """The number in the unpacked values of a tensor, which may be packed into bytes or stand alone."""
    if dtype in (_FLOAT, _DOUBLE):
        form = np.dtype(_TENSOR_TYPES[dtype])
        alone = kind in (_FIXED32, _FIXED64, _BYTES) and len(value) == form.itemsize
        return float(np.frombuffer(value, form)[0]) if alone else None
    if kind == _BYTES:
        if not value:
            return None
        packed = value
        value, end = _varint(packed, 0)
        if end != len(packed):
            return None
    if dtype == _HALF:
        return float(np.frombuffer(struct.pack("<H", value & 0xFFFF), "<f2")[0])
    return float(_signed(value))


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field: integers for varints, bytes for the rest."""
    position, size = 0, len(data)
    while position < size:
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            value: Any
            value, position = _varint(data, position)
        else:
            if kind == _BYTES:
                length, position = _varint(data, position)
            elif kind in _FIXED_WIDTHS:
                length = _FIXED_WIDTHS[kind]
            else:
                raise DamagedRecordError(f"an event has a field of the unknown kind {kind}")
            value = data[position : position + length]
            position += length
            if position > size:
                raise DamagedRecordError("a field of an event is longer than the event")
        yield key >> 3, kind, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise DamagedRecordError("an event ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise DamagedRecordError("a number of an event is too long")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
