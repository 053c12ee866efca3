"""A million strings in two arrays, and files by video id in such strings."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt


class Strings:
    """Many strings without an object for each: UTF-8, one behind the other.

    Args:
        ends: ``(n + 1,)`` where string k ends and the next begins; the first is where string 0 begins.
        data: bytes of all strings.
    """

    def __init__(self, ends: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> None:
        self.ends, self.data = ends, data

    @classmethod
    def of(cls, strings: Iterable[str]) -> Strings:
        """Pack strings; half a character (a lone surrogate) becomes a question mark."""
        packed, ends = bytearray(), [0]
        for string in strings:
            packed += string.encode("utf-8", "replace")
            ends.append(len(packed))
        return cls(np.array(ends, dtype=np.int64), np.frombuffer(bytes(packed), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[str]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> str:
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self.data[self.ends[k] : self.ends[k + 1]].tobytes().decode()


class FileTable(Mapping[str, Path]):
    """Files by video id, without an object for each: workers share it, and it is quickly handed to them."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        ids = sorted(files)
        self._ids = Strings.of(ids)
        self._paths = Strings.of(os.fspath(files[video_id]) for video_id in ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __getitem__(self, video_id: str) -> Path:
        k = bisect.bisect_left(self._ids, video_id)
        if k == len(self._ids) or self._ids[k] != video_id:
            raise KeyError(video_id)
        return Path(self._paths[k])
