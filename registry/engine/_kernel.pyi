from typing_extensions import Buffer

def fuse(
    weight: Buffer,
    scales: Buffer | None,
    biases: Buffer | None,
    out_weight: Buffer,
    out_scales: Buffer | None,
    out_biases: Buffer | None,
    left: Buffer | None,
    right: Buffer | None,
    sizes: tuple[int, int, int, int, int, int],
    base: tuple[int, int, int],
    target: tuple[int, int, int],
) -> tuple[float, float, float, float] | None: ...
def shape(
    codes: Buffer,
    steps: Buffer,
    wanted: Buffer,
    directions: Buffer,
    gains: Buffer,
    out: Buffer,
    sizes: tuple[int, int, int],
    top: float,
) -> None: ...
def fit(
    directions: Buffer,
    rest: Buffer,
    codes: Buffer,
    wanted: Buffer,
    by_scale: Buffer,
    by_bias: Buffer,
    sizes: tuple[int, int, int, int],
    ridge: float,
) -> None: ...
