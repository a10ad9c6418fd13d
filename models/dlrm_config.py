"""Sizes of recommendation models (DLRM), as MLPerf publishes them, and tiny ones of the same shape for tests."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DlrmConfig:
    """Everything that decides a DLRM graph; ValueError if the sizes do not fit together.

    Table t has `table_rows[t]` rows of `dim` elements, of which a sample adds up `hot[t]`. With `cross_layers`, the
    features meet in that many low-rank cross layers of rank `cross_rank` (DCNv2), else in pairwise products.
    """

    name: str
    table_rows: tuple[int, ...]
    hot: tuple[int, ...]
    dim: int
    dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    cross_layers: int = 0
    cross_rank: int = 0

    def __post_init__(self) -> None:
        sizes = (*self.table_rows, *self.hot, self.dim, self.dense, *self.bottom, *self.top)
        if min(sizes) < 1:
            raise ValueError(f"{self.name}: every size must be at least 1")
        if len(self.table_rows) != len(self.hot):
            raise ValueError(f"{self.name}: {len(self.table_rows)} tables, and {len(self.hot)} counts of indices")
        if self.bottom[-1] != self.dim:
            raise ValueError(f"{self.name}: the dense feature has {self.bottom[-1]} elements, rows have {self.dim}")
        if bool(self.cross_layers) != bool(self.cross_rank):
            raise ValueError(f"{self.name}: cross layers need a rank, and a rank cross layers")

    @property
    def features(self) -> int:
        """Vectors of `dim` elements that meet: one per table and the dense one."""
        return len(self.table_rows) + 1

    @property
    def interaction_width(self) -> int:
        """Elements that the top layers get."""
        if self.cross_layers:
            return self.features * self.dim
        return self.dim + self.features * (self.features - 1) // 2

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of all fully connected layers, bottom ones first."""
        bottom, top = (self.dense, *self.bottom), (self.interaction_width, *self.top)
        return (*itertools.pairwise(bottom), *itertools.pairwise(top))

    @property
    def parameters(self) -> int:
        """Number of weights: tables, layers and cross layers."""
        width = self.features * self.dim
        cross = self.cross_layers * (2 * width * self.cross_rank + width)
        return sum(self.table_rows) * self.dim + sum((inputs + 1) * outputs for inputs, outputs in self.layers) + cross


# MLPerf inference, DLRM (v1): Criteo Terabyte with at most 40 million rows per table, one index each.
# github.com/mlcommons/inference, recommendation/dlrm/pytorch: bottom 13-512-256-128, top 479-1024-1024-512-256-1.
_MLPERF_ROWS = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208, 11938, 155, 4, 976, 14,
    39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip
_MLPERF = DlrmConfig(
    "dlrm-mlperf", _MLPERF_ROWS, (1,) * 26, 128, 13, bottom=(512, 256, 128), top=(1024, 1024, 512, 256, 1)
)
# MLPerf training and inference, DLRM-DCNv2: the multi-hot Criteo set.
# github.com/mlcommons/training, recommendation_v2/torchrec_dlrm: --num_embeddings_per_feature, --multi_hot_sizes,
# --dense_arch_layer_sizes 512,256,128, --over_arch_layer_sizes 1024,1024,512,256,1, --dcn_num_layers 3,
# --dcn_low_rank_dim 512.
_DCNV2_ROWS = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10, 2209, 11938, 155, 4, 976, 14,
    40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip
_DCNV2_HOT = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
_DCNV2 = DlrmConfig(
    "dlrm-dcnv2", _DCNV2_ROWS, _DCNV2_HOT, 128, 13, bottom=(512, 256, 128), top=(1024, 1024, 512, 256, 1),
    cross_layers=3, cross_rank=512,
)  # fmt: skip

# Sizes for tests: the same parts, tables of a few rows, bags of one and of many.
_TINY = DlrmConfig("dlrm-tiny", (100, 37, 3, 260, 64), (1, 1, 1, 1, 1), 16, 13, (48, 16), (40, 24, 1))
_DCNV2_TINY = DlrmConfig(
    "dlrm-dcnv2-tiny", (100, 37, 3, 260), (3, 1, 2, 40), 32, 13, (48, 32), (40, 24, 1), cross_layers=2, cross_rank=24
)

DLRM_MODELS: dict[str, DlrmConfig] = {config.name: config for config in (_TINY, _MLPERF, _DCNV2_TINY, _DCNV2)}
