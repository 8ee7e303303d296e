"""Fusery's own targets keep the contract that plugins have to keep."""

from __future__ import annotations

import pytest
from bundle_cases import WRITTEN_HERE

from fusery.registry.bundles import Choices, Target
from fusery.registry.bundles.target import own_targets
from fusery.testing.targets import TargetContract


class TestEachTarget(TargetContract):
    choices = Choices(location="s3://bucket/place", base_name="HuggingFaceTB/SmolLM2-135M-Instruct")

    @pytest.fixture(params=list(WRITTEN_HERE))
    def target(self, request: pytest.FixtureRequest) -> Target:
        return own_targets()[request.param]
