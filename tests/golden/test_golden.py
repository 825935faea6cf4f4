"""A golden run: every step's loss is what it was when curve.json was made (make_curve.py)."""

from __future__ import annotations

import json

import pytest

from golden.make_curve import CURVE, curves
from llama_recipes.kernels import library


@pytest.mark.parametrize("kernels", [False, True])
def test_the_loss_curves_are_those_on_file(tmp_path, kernels):
    """Within 1e-5 relative: rounding differs from processor to processor, and the kernels'."""
    golden = json.loads(CURVE.read_text())
    found = curves(tmp_path, kernels=kernels)
    assert (library.enabled() is not None) == kernels
    assert found.keys() == golden.keys() == {"full", "lora"}
    for name, losses in golden.items():
        assert len(losses) == 20
        assert found[name] == pytest.approx(losses, rel=1e-5)
        assert losses[-1] < losses[0]
