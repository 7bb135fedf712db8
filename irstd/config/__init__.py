"""One typed configuration tree: what a run computes.

Values come from, each over the one before: the defaults here, `params.yaml`, a recipe, `key=value` on the command line (or
a flow's parameters). An unknown key or a wrong type is refused with one line. What is not here (workers, addresses,
paths) lies in `settings.toml` and never changes a result.
"""

from irstd.config.networks import (
    MODELS,
    NETWORKS,
    AdapterConfig,
    BPFPNConfig,
    DGRConfig,
    ForeignConfig,
    GGLNetConfig,
    GILSConfig,
    ModelConfig,
)
from irstd.config.paths import check_path, flatten, is_path, nest, paths, read_yaml
from irstd.config.recipes import METRICS, Expected, Recipe
from irstd.config.sources import load, parse_overrides
from irstd.config.training import LossConfig, TrainConfig
from irstd.config.tree import (
    MEASURES,
    Config,
    DataConfig,
    DeriveConfig,
    EvaluateConfig,
    GradientConfig,
    Interpolation,
    RegistryConfig,
    ShardConfig,
    SplitConfig,
)
from irstd.config.waivers import WAIVABLE, Waiver

__all__ = [
    "AdapterConfig",
    "BPFPNConfig",
    "Config",
    "DGRConfig",
    "DataConfig",
    "DeriveConfig",
    "EvaluateConfig",
    "Expected",
    "ForeignConfig",
    "GGLNetConfig",
    "GILSConfig",
    "GradientConfig",
    "Interpolation",
    "LossConfig",
    "MEASURES",
    "METRICS",
    "MODELS",
    "ModelConfig",
    "NETWORKS",
    "Recipe",
    "RegistryConfig",
    "ShardConfig",
    "SplitConfig",
    "TrainConfig",
    "WAIVABLE",
    "Waiver",
    "check_path",
    "flatten",
    "is_path",
    "load",
    "nest",
    "parse_overrides",
    "paths",
    "read_yaml",
]
