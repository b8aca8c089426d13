"""A comparison of sparse autoencoders as data: which SAEs, on which model, over which texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from whatchanged.config_blocks import Block, parse_block
from whatchanged.config_file import LoadedConfig, read_values
from whatchanged.model_config import Auto, ModelConfig
from whatchanged.run_config import RunConfig
from whatchanged.sae_source import SaeSource

# The grammar of the embedded pair, as a text file's name.
DEMO_TEXTS = "demo:categories"
_PATHS = (
    ("model", "model"), ("model", "adapter"), ("model", "steering"),
    ("intervention", "model"), ("intervention", "adapter"), ("intervention", "steering"),
    ("saes", "folder"), ("texts", "file"),
)  # fmt: skip


class CategorizedTextsConfig(Block):
    """JSONL rows `{"text": ..., "category": ...}`, or `demo:categories`: texts that the embedded
    base model was trained to write, by topic. At most `n_per_category` are read, null for all."""

    file: str = DEMO_TEXTS
    n_per_category: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _grammar_has_an_end(self) -> Self:
        if self.file == DEMO_TEXTS and self.n_per_category is None:
            raise ValueError(f"{DEMO_TEXTS} has no end and needs `n_per_category`, such as 40")
        return self


class ThresholdsConfig(Block):
    """When a feature fires on a text: above zero, and above these quantiles of the SAE's own
    positive activations, which make SAEs of different scales comparable."""

    quantiles: tuple[float, ...] = (0.5, 0.9)

    @model_validator(mode="after")
    def _are_quantiles(self) -> Self:
        if not all(0 < quantile < 1 for quantile in self.quantiles):
            raise ValueError("quantiles must hold numbers between 0 and 1")
        if len(set(self.quantiles)) < len(self.quantiles):
            raise ValueError("quantiles must differ")
        return self


class AblationConfig(Block):
    """The best specialists of each category, taken out of the model on up to `texts_per_category`
    of its texts, beside `n_controls` features that fire as often there; 0 specialists: none."""

    specialists_per_category: int = Field(3, ge=0)
    n_controls: int = Field(5, ge=1)
    texts_per_category: int = Field(20, ge=2)


class SaeComparisonConfig(Block):
    """A whole comparison. With an `intervention`, features of the two models are compared as well.

    `concepts` are sets of texts by name; features are searched that are more active on them than
    on the categorized texts. `dashboard`: whether a run ends by writing its page.
    """

    model: ModelConfig
    intervention: ModelConfig | None = None
    saes: tuple[SaeSource, ...] = Field(min_length=1)
    texts: CategorizedTextsConfig
    pooling: Literal["last", "max", "mean"] = "max"
    batch_size: int | Auto = "auto"
    thresholds: ThresholdsConfig = ThresholdsConfig()
    concepts: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    ablation: AblationConfig = AblationConfig()
    alpha: float = Field(0.05, gt=0, lt=1)
    dashboard: bool = True
    run: RunConfig = RunConfig()
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        for side in (self.model, self.intervention):
            if side and (side.system_prompt is not None or side.thinking != "keep"):
                raise ValueError(
                    "texts are read as they are: `system_prompt` and `thinking` mean nothing here"
                )
            if side and side.engine is not None:
                raise ValueError("SAEs read inside a model and decode nothing: remove `engine`")
        if self.run.is_spread:
            raise ValueError("SAEs are compared in one process: `run.runner` must be threads")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError("batch_size must be auto or at least 1")
        for name, texts in self.concepts.items():
            if not texts or not all(text.strip() for text in texts):
                raise ValueError(f"the concept {name!r} must hold texts, none of them empty")
        return self


def load_comparison(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig[SaeComparisonConfig]:
    """The comparison in a YAML file, with `a.b=c` overrides applied on top.

    Raises ConfigError as `config_file.load_config` does.
    """
    raw, origins = read_values(path, overrides, _PATHS)
    config = parse_block(SaeComparisonConfig, raw, str(path))
    return LoadedConfig(config, origins, path.stem)
