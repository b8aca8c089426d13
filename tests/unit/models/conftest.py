from pathlib import Path

import pytest

from tests.unit.models.tiny_models import CHAT_TEMPLATE, save_causal_model


@pytest.fixture(scope="module", autouse=True)
def _few_threads(_threads_are_set_back: None) -> None:
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal_model(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal_model(tmp_path_factory.mktemp("chat"), chat_template=CHAT_TEMPLATE)
