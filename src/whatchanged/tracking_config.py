"""Which trackers of experiments are told of a run: a block of a config."""

from __future__ import annotations

from whatchanged.config_blocks import Block


class TrackingConfig(Block):
    """Who is told of a run at its end: a project of Weights & Biases (`name` or `entity/name`), an
    experiment of MLflow (on the server in MLFLOW_TRACKING_URI). Keys come from the environment, as
    these libraries read them. `statements`: the findings' statements as well, which may quote texts
    of the models."""

    wandb: str | None = None
    mlflow: str | None = None
    statements: bool = False
