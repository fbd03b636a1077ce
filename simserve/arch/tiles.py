"""Into which tiles the processors of InternVL, MiniCPM-V and Llama 3.2 Vision cut an image.

[known: `dynamic_preprocess` of InternVL's model card, `slice_image` of MiniCPM-V-2_6's image processor,
`get_optimal_tiled_canvas` of transformers' MllamaImageProcessor; read from memory, checked on the published cases.]
"""

from __future__ import annotations

from math import ceil, log, sqrt

from simserve.spec.vision import TilingSpec

Grid = tuple[int, int]  # columns, rows


def tile_grid(tiling: TilingSpec, height: int, width: int) -> Grid:
    """Columns and rows of tiles; (1, 1) for an image that is not cut."""
    rules = {"internvl": _nearest_ratio, "minicpmv": _slices, "mllama": _canvas}
    return rules[tiling.rule](tiling, height, width)


def tiles(tiling: TilingSpec, height: int, width: int) -> int:
    """Tiles of an image, its thumbnail included, which only an image that is cut has."""
    columns, rows = tile_grid(tiling, height, width)
    return columns * rows + (tiling.thumbnail and columns * rows > 1)


def slice_patches(tiling: TilingSpec, height: int, width: int, patch_size: int) -> tuple[int, ...]:
    """Patches of each slice of MiniCPM-V, the whole image scaled down first where it is cut."""
    columns, rows = tile_grid(tiling, height, width)
    if columns * rows == 1:
        return (_patches(tiling, height, width, patch_size, upscale=True),)
    high, wide = (_divided(side, count) / count for side, count in ((height, rows), (width, columns)))
    whole = _patches(tiling, height, width, patch_size, upscale=False)
    return (whole, *[_patches(tiling, high, wide, patch_size, upscale=True)] * (columns * rows))


def _nearest_ratio(tiling: TilingSpec, height: int, width: int) -> Grid:
    """The grid whose shape is nearest to the image's; of two alike the larger one, if the image fills half of it."""
    most = tiling.max_tiles
    grids = [(i, j) for i in range(1, most + 1) for j in range(1, most // i + 1)]
    best, nearest, ratio = (1, 1), float("inf"), width / height
    for i, j in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[0])):
        off = abs(ratio - i / j)
        fills = height * width > 0.5 * tiling.tile_size**2 * i * j
        if off < nearest or (off == nearest and fills):
            best, nearest = (i, j), off
    return best


def _slices(tiling: TilingSpec, height: int, width: int) -> Grid:
    """As many slices as the image has areas of tile_size^2, one more or less, in the shape nearest to the image's."""
    most = tiling.max_tiles
    wanted = min(ceil(height * width / tiling.tile_size**2), most)
    if wanted <= 1:
        return 1, 1
    counts = [n for n in (wanted - 1, wanted, wanted + 1) if 1 < n <= most]
    grids = [(m, n // m) for n in counts for m in range(1, n + 1) if n % m == 0]
    ratio = log(width / height)
    return min(grids, key=lambda grid: abs(ratio - log(grid[0] / grid[1])))


def _canvas(tiling: TilingSpec, height: int, width: int) -> Grid:
    """The canvas of whole tiles that enlarges an image least, else shrinks it least; of several the smallest."""
    most, side = tiling.max_tiles, tiling.tile_size
    grids = [(i, j) for i in range(1, most + 1) for j in range(1, most // i + 1)]
    scale = {(i, j): min(i * side / width, j * side / height) for i, j in grids}
    larger = [s for s in scale.values() if s >= 1]
    chosen = min(larger) if larger else max(scale.values())
    return min((grid for grid in grids if scale[grid] == chosen), key=lambda grid: grid[0] * grid[1])


def _patches(tiling: TilingSpec, height: float, width: float, patch_size: int, *, upscale: bool) -> int:
    """Of an image scaled to the area of a slice, sides rounded to patches; smaller ones stay unless `upscale`."""
    if upscale or width * height > tiling.tile_size**2:
        ratio = width / height
        height = int(tiling.tile_size / sqrt(ratio))
        width = int(height * ratio)
    return (_divided(height, patch_size) // patch_size) * (_divided(width, patch_size) // patch_size)


def _divided(length: float, by: int) -> int:
    """The multiple of `by` nearest to a length, at least one."""
    return max(round(length / by) * by, by)
