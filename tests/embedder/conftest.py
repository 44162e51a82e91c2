"""Fixtures of the embedder's tests: a tiny LVLM instead of the shipped one."""

import pytest
from tiny import tiny_lvlm


@pytest.fixture
def lvlm():
    """Return a fresh tiny LVLM with emoji-llava's processor."""
    return tiny_lvlm()
