"""What of a model's configs goes into bundles and exported folders."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tundish.models.config_file import token_ids


def told(settings: dict[str, Any] | None, **config: Any) -> Any:
    text = SimpleNamespace(**config)
    own = None if settings is None else SimpleNamespace(**settings)
    return SimpleNamespace(generation_config=own, config=SimpleNamespace(get_text_config=lambda: text))


def test_settings_for_generation_come_before_the_config():
    module = told({"eos_token_id": [7, 8], "bos_token_id": None}, eos_token_id=2, bos_token_id=1, pad_token_id=None)
    assert token_ids(module) == {"eos": [7, 8], "bos": 1}


def test_id_0_is_one_and_a_model_may_have_none():
    assert token_ids(told({"pad_token_id": 0}, pad_token_id=5)) == {"pad": 0}
    assert token_ids(told(None)) == {}
