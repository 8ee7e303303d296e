"""Every choice that changes the bytes of a fused artifact, and the key that names the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fusery.storage.digest import Digest, digest_json

ENGINE = "canonical-1"  # the arithmetic of this package; the number goes up when the bytes change
SEEING = "canonical-2"  # the same on a base with a `vision_config`
BY_CLASS = "canonical-3"  # the same, written under the names of a base that mlx-lm renames or stacks
KEYS = "mlx-keys-2"  # follows the engine's name if keys are added to the configuration
OWN_TOKENS = "own-tokens-1"  # follows it if the adapter's tokenizer may add an end token or replace the base's special tokens
FORMAT = "fusery.key.v1"

USUAL_SEED = 0  # the default seed of random rounding
OWN = 0  # among the bits of `mixed`: the base's own format (mxfp4, nvfp4)
ONCE = "once"  # The rounding of DoRA that is not `mlx_lm.fuse`'s


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a base and adapters become a fused artifact."""

    precision: Precision  # `keep`, `dither`, `mixed` or `dequantize`, resolved: never `auto`
    engine: str = ENGINE  # name and version of the arithmetic, and of libraries that the bits depend on
    quantization: Mapping[str, Any] | None = None  # MLX's parameters of a requantisation of every layer
    scale: float | None = None  # overrides the adapter's own scale
    seed: int | None = None  # of random rounding
    # with `mixed`, of each touched module by path; under "" of all others; `OWN` to keep the base's format.
    bits: Mapping[str, int] = field(default_factory=dict)
    calibration: str | None = None  # digest of the statistics that shape the rounding
    rounding: str | None = None  # of DoRA: `once`, at the end; None as `mlx_lm.fuse` does, after each step
    biases: bool = False  # with `keep`, an update that is constant in groups moves biases alone
    fitted: bool = False  # with `dither` and a calibration, scales and biases follow the codes
    aware: Mapping[str, Any] | None = None  # the format that the adapter was trained through
    extras: tuple[tuple[str, float], ...] = ()  # digests and weights of further adapters of a sum, in order

    @classmethod
    def from_dict(cls, form: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a JSON form; the law: `Recipe.from_dict(recipe.to_dict()) == recipe`."""
        extras = tuple((part["adapter"], part["weight"]) for part in form.get("with", ()))
        named = {name: form[name] for name in cls.__slots__ if name in form}
        return cls(**named, aware=form.get("quantization_aware"), extras=extras)

    def to_dict(self) -> Mapping[str, Any]:
        """Return the JSON form that goes into the key; what came later is left out where it says nothing."""
        form: dict[str, object] = {
            "precision": self.precision,
            "engine": self.engine,
            "quantization": dict(self.quantization) if self.quantization is not None else None,
            "scale": self.scale,
            "seed": self.seed,
        }
        later = {
            "bits": dict(self.bits),
            "calibration": self.calibration,
            "rounding": self.rounding,
            "biases": self.biases,
            "fitted": self.fitted,
            "quantization_aware": dict(self.aware or {}),
            "with": [{"adapter": digest, "weight": weight} for digest, weight in self.extras],
        }
        return form | {name: value for name, value in later.items() if value}


def artifact_key(base_digest: str, adapter_digest: str, recipe: Recipe) -> Digest:
    """Return the key of a fused artifact: equal inputs, equal key, on every machine."""
    inputs = {"base": base_digest, "adapter": adapter_digest, "recipe": recipe.to_dict()}
    return digest_json({"format": FORMAT, **inputs})


def seed_of(key: str) -> int:
    """Return the seed of the generator for random rounding: the first 64 bits of the key."""
    return int(key[:16], 16)


Precision = Literal["keep", "dither", "mixed", "dequantize"]
RequestedPrecision = Literal["auto", "keep", "dither", "mixed", "dequantize"]

KEEP: Final = "keep"
DITHER: Final = "dither"
MIXED: Final = "mixed"
DEQUANTIZE: Final = "dequantize"
PRECISIONS: tuple[Precision, ...] = (KEEP, DITHER, MIXED, DEQUANTIZE)

AUTO: Final = "auto"  # The smallest that passes: what may be asked for besides
CHOICES: tuple[RequestedPrecision, ...] = (AUTO, *PRECISIONS)
PREFERRED = ("size", "speed")  # values of `prefer`

# The values of `--as`, by precision
WRITTEN_AS: Mapping[str, str] = {precision: precision for precision in CHOICES} | {DEQUANTIZE: "16bit"}


def written_as(format: str) -> str:
    """Return a format in words with the name that `--as` has for it."""
    precision, comma, rest = format.partition(",")
    return f"{WRITTEN_AS.get(precision, precision)}{comma}{rest}"
