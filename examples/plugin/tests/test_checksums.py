from __future__ import annotations

from pathlib import Path

import pytest
from fusery_example.checksums import LIST

from fusery.registry.bundles import LayoutError, Target
from fusery.testing.targets import MakeSource, TargetContract


class TestChecksums(TargetContract):
    name = "checksums"

    def test_a_file_that_is_not_as_listed_is_found(
        self, target: Target, source: MakeSource, tmp_path: Path
    ) -> None:
        self.write(source("fused"), target, tmp_path / "bundle")
        (tmp_path / "bundle" / LIST).write_text(f"{'0' * 64}  config.json\n")
        with pytest.raises(LayoutError, match="config.json"):
            target.check(tmp_path / "bundle")
