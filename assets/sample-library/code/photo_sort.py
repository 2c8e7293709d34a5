"""整理照片：按拍摄日期分文件夹，找出重复的和拍糊的。"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

Grid = list[list[int]]  # 灰度图，每个像素 0 到 255


def target_folder(root: Path, taken: datetime) -> Path:
    """凌晨四点以前拍的算前一天，因为聚会常常过半夜。"""
    day = taken.toordinal() - (1 if taken.hour < 4 else 0)
    return root / datetime.fromordinal(day).strftime("%Y/%m-%d")


def identical_files(paths: Iterable[Path]) -> list[list[Path]]:
    """内容完全一样的文件分成一组。先比大小，大小相同才读内容，这样快得多。"""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        by_size[path.stat().st_size].append(path)
    groups: dict[bytes, list[Path]] = defaultdict(list)
    for same_size in by_size.values():
        if len(same_size) > 1:
            for path in same_size:
                groups[hashlib.blake2b(path.read_bytes()).digest()].append(path)
    return [group for group in groups.values() if len(group) > 1]


def fingerprint(image: Grid) -> int:
    """图像缩成九乘八后，相邻像素左边亮记一，否则记零，共六十四位。缩放和压缩几乎不改变它。"""
    bits = 0
    for row in image:
        for left, right in zip(row, row[1:], strict=False):
            bits = bits << 1 | (left > right)
    return bits


def looks_alike(first: int, second: int, tolerance: int = 6) -> bool:
    """两个指纹只差几位，就当作同一个画面。"""
    return (first ^ second).bit_count() <= tolerance


def sharpness(image: Grid) -> float:
    """拉普拉斯算子的方差；数值小说明没有清楚的边缘，多半是手抖或没对上焦。"""
    values = [
        4 * image[y][x] - image[y - 1][x] - image[y + 1][x] - image[y][x - 1] - image[y][x + 1]
        for y in range(1, len(image) - 1)
        for x in range(1, len(image[0]) - 1)
    ]
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)
