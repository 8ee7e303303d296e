"""What an adapter costs on this machine in each form it could be shipped as, measured, and which form to ship."""

from .bench import BenchReport, bench, recorded

__all__ = ["BenchReport", "bench", "recorded"]
