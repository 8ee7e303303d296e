"""What has come is looked at as if it were made here: its bytes say what it is, and this registry's rules what is wrong with it.

Everything here happens before anything is stored or recorded.  What comes out takes the place of what was claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import BlobCorruptError, FuseryError
from fusery.storage.manifest import Manifest, file_entry
from fusery.storage.safetensors import BASE_HEADER_LIMIT, read_header

from ..adapters.files import CONFIG, METADATA, PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import Finding, verdict
from ..adapters.folder import AdapterFolder, read_adapter_folder
from ..adapters.other_forms import other_forms
from ..adapters.render import Form
from ..adapters.tokenizer_files import is_tokenizer_file, refusal
from ..admission.examine import examine, unreadable
from ..admission.refusal import AdmissionError
from ..admission.submission import TrainedOn
from ..admission.training_codes import ALL as TRAINING_CODES
from ..bases.add import is_model_file
from ..bases.contents import learn_contents
from ..errors import BadInputError
from ..models.architecture import WEIGHTS as WEIGHTS_OF_MODELS
from ..models.identity import identify_base
from ..records.bases import recorded_architecture
from ..records.derived import (
    adapter_columns,
    alpha_of,
    base_columns,
    describe_base,
    differing,
    require_recordable,
    require_sensible,
)
from ..records.references import resolve_base
from ..training.checkpoint import Choice, choice_findings
from ..training.conflicts import conflicts
from ..training.curve import Curve, Point
from ..training.run_folder import Checkpoint, Run
from .claims import submission_of
from .package import Adapter, Base, Calibration, Fused, Item

if TYPE_CHECKING:
    from ..admission.submission import Submission
    from ..engine.calibration import Calibration as CalibrationFile
    from ..models.architecture import Architecture
    from ..registration.ground import Ground
    from ..registration.unrecorded import Unrecorded
    from ..workspace import Workspace

ADAPTER_FILES = (WEIGHTS, CONFIG, METADATA, PEFT_WEIGHTS)
_HINT = "nothing of it was recorded; fusery audit, there"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a thing is by its bytes, and what was found about it.

    Attributes:
        values: columns, in the place of those that are claimed.
        corrected: names of columns that said something else.
        findings: about an adapter.
        forms: its other forms, computed here.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    corrected: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    forms: tuple[tuple[Form, Manifest], ...] = ()


def require_names(item: Item) -> None:
    """Refuse files that would not be kept if the thing were made here, before any of them is fetched.

    Raises:
        BadInputError: there is one.
    """
    names = [entry.path for entry in item.files.manifest]
    if isinstance(item, Base | Fused):
        _require_kept(item, filter(is_model_file, names))
    elif isinstance(item, Adapter):
        _require_kept(item, {*ADAPTER_FILES, *filter(is_tokenizer_file, names)})
        for entry in item.files.manifest:
            if is_tokenizer_file(entry.path) and (why := refusal(entry.path, entry.size)) is not None:
                raise BadInputError(f"{item.name}: {why}", hint=_HINT)
    elif isinstance(item, Calibration) and len(names) != 1:
        raise BadInputError(f"{item.name} is {len(names)} files, and a calibration is one", hint=_HINT)


def look_at_base(
    workspace: Workspace, item: Base, paths: Mapping[str, Path], say: Callable[[str], None]
) -> Seen:
    """Return what a base is by its bytes.

    Args:
        workspace: the registry that receives it.
        item: the base.
        paths: its files.
        say: called with the name of each base that is read to find out whether it is the same.

    Raises:
        BadInputError: it claims a digest or a content that its bytes do not have, or holds what is no part of a model.
        FuseryError: it cannot be read as a model.
    """
    require_sensible(paths)
    architecture = describe_base(paths)
    require_recordable(architecture)
    identity = identify_base(paths, architecture.config)
    _require_same(item, identity.manifest)
    said = item.values.get("content")
    if said is not None and said != identity.content:
        raise BadInputError(
            f"{item.name} is on record there with the content {said[:12]}, and its bytes have the content "
            f"{identity.content[:12]}: it is not the model that it says it is",
            hint=_HINT,
        )
    learn_contents(workspace, identity, architecture, say)
    values = base_columns(architecture, identity)
    return Seen(values, tuple(differing(item.values, values)))


def look_at_calibration(item: Calibration, paths: Mapping[str, Path], base: Architecture | None) -> Seen:
    """Return what a calibration is by its file.

    Args:
        item: the calibration.
        paths: its file.
        base: what is on record here of the base's layers, None where it is gone.

    Raises:
        BadInputError: it is of another base, or not what it is said to be.
        FormatError: it is no calibration, or holds numbers that none has.
    """
    from ..engine.calibration import read_calibration

    _require_same(item, _manifest(paths))
    (path,) = paths.values()
    found = read_calibration(path)
    if found.base != item.base.digest:
        raise BadInputError(f"{item.name} was made of another base: {found.base[:12]}", hint=_HINT)
    if base is not None and (fault := _misfit(found, base)) is not None:
        raise BadInputError(f"{item.name} does not fit its base: {fault}", hint=_HINT)
    for module in {known: module for module, known in found.modules.items()}.values():
        found.of(module)  # raises where its numbers cannot be used
    values = {"tokens": found.tokens, "prompts_digest": found.prompts, "adapter": None}
    learned = found.learned
    if item.values["adapter"] != (learned.adapter if learned is not None else None):
        raise BadInputError(
            f"{item.name} was learned for another adapter than the package declares", hint=_HINT
        )
    if learned is not None:
        values = {
            "tokens": learned.tokens,
            "prompts_digest": learned.prompts,
            "adapter": learned.adapter,
        }
    return Seen(values, tuple(differing(item.values, values)))


def _misfit(found: CalibrationFile, base: Architecture) -> str | None:
    """Say of which module a calibration knows other inputs than it has, as far as rounding would be shaped by them."""
    for path in found.modules:
        width, weight = found.width_of(path), base.weights.get(path)
        # Plain numbers are not rounded, and may lie in the file the other way round than in the model.
        if weight is None or weight.bits is None:
            continue
        if len(weight.shape) != 2:
            return f"{path[:80]} is no linear layer"
        if weight.shape[1] != width:
            return f"{path[:80]} has {weight.shape[1]} inputs, and not {width}"
    return None


def look_at_fused(item: Fused, paths: Mapping[str, Path]) -> Seen:
    """See that the files of a fused artifact are those that are claimed, and say themselves that they are under its key.

    Whether they are what comes out of its recipe is not known before it is made here.

    Raises:
        BadInputError: they are not.
    """
    _require_same(item, _manifest(paths))
    for name, path in paths.items():
        if not WEIGHTS_OF_MODELS.fullmatch(name):
            continue
        key = read_header(path, limit=BASE_HEADER_LIMIT).metadata.get("fusery.key")
        if key != item.values["key"]:
            raise BadInputError(
                f"{name} of {item.name} says that it is of the fused artifact {str(key)[:12]}, and not of "
                f"{item.values['key'][:12]}",
                hint=_HINT,
            )
    return Seen()


def look_at_adapter(
    workspace: Workspace,
    item: Adapter,
    paths: Mapping[str, Path],
    *,
    base: str,
    parent: str | None,
    scratch: Path,
    beside: Sequence[Unrecorded] = (),
    ground: Ground | None = None,
) -> Seen:
    """Return what an adapter is by its bytes, and what admission finds about it here.

    Args:
        workspace: the registry that receives it.
        item: the adapter.
        paths: its files, hashed on their way, under their own names in a folder that is called nothing that means something
            and that nobody else enters.
        base: the name of its base here.
        parent: the name of its parent here.
        scratch: an empty folder.
        beside: adapters of its task that came before it and are recorded with it.
        ground: what it is to stand on, where others before it were looked at on the same.

    Raises:
        AdmissionError: admission found an error, as it would if somebody registered it.
        BadInputError: its files are not those that it claims.
    """
    from ..registration.evidence import candidate_for, policy_of

    folder = _folder(workspace, item, paths, base, ground)
    _require_kept(item, folder.kept)
    values = {**adapter_columns(folder, item.digest), "alpha": alpha_of(folder)}
    if item.run is None:
        values["iterations"] = folder.config.iters
    said = item.values["alpha"]
    alpha = None if said is None or said == values["alpha"] else said
    submission = _said(item, folder, submission_of(item, base=base, parent=parent, alpha=alpha))
    hashed = {entry.path: entry.sha256 for entry in item.files.manifest}
    candidate = candidate_for(
        workspace,
        folder,
        submission,
        ground=ground,
        weights=hashed.get(WEIGHTS) if folder.originals is None else None,
        training=_training(item, folder, submission),
        beside=beside,
    )
    findings = examine(candidate, policy_of(workspace))
    if verdict(findings) == "fail":
        raise AdmissionError.of(item.name, findings, _HINT)
    if alpha is not None:
        values["alpha"] = alpha  # as with --alpha: admission has said what it thinks of that
    architecture = candidate.base.architecture
    return Seen(
        values,
        tuple(differing(item.values, values)),
        tuple(findings),
        tuple(_forms(item, folder, architecture, scratch)),
    )


def _said(item: Adapter, folder: AdapterFolder, submission: Submission) -> Submission:
    """Return what was said; where nobody knows the base it was trained on any more, its files may call it what they do."""
    told = submission.trained_on
    if not isinstance(told, TrainedOn) or item.trained_on:
        return submission
    declared = (folder.config.model, folder.metadata.base_model)
    return replace(submission, trained_on=replace(told, known_as=frozenset(filter(None, declared))))


def _forms(
    item: Adapter, folder: AdapterFolder, base: Architecture, scratch: Path
) -> Iterator[tuple[Form, Manifest]]:
    wanted = {values["form"] for values, _ in item.renderings} | ({"mlx"} if folder.form == "peft" else set())
    yield from other_forms(folder.kept, base, wanted, scratch)


def _folder(
    workspace: Workspace, item: Adapter, paths: Mapping[str, Path], base: str, ground: Ground | None
) -> AdapterFolder:
    if ground is not None:
        architecture = ground.facts.architecture
    else:
        with workspace.database.read() as session:
            architecture = recorded_architecture(resolve_base(session, base))
    try:
        return read_adapter_folder(_top(paths), base=architecture)
    except FuseryError as error:
        raise AdmissionError.of(item.name, [unreadable(error)], _HINT) from error


def _top(paths: Mapping[str, Path]) -> Path:
    """Return the outermost folder of files."""
    name = min(paths, key=lambda path: path.count("/"))
    return paths[name].parents[name.count("/")]


def _training(item: Adapter, folder: AdapterFolder, submission: Submission) -> list[Finding]:
    """Return what there is to say about a training run of which only the record is here.

    What was found there is found here as well, in our words: it can only make matters worse for the adapter.
    """
    found = list(_contradictions(item, folder, submission)) if item.run is not None else []
    known = {finding.code for finding in found}
    there = {finding["code"] for finding in item.findings}
    found += (
        code.found("training", "this was found where it was registered, of files that are not kept")
        for code in TRAINING_CODES
        if code.name in there - known
    )
    return found


def _contradictions(item: Adapter, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
    assert item.run is not None
    told, end = item.run, item.run["checkpoint"]
    points = [
        Point(point["iteration"], point["train_loss"], point["val_loss"], point["learning_rate"])
        for point in item.curve
    ]
    measured = None if end is None else Curve.of(points).validations.get(end)
    for name in ("best", "last"):
        at, loss = told[f"{name}_iteration"], told[f"{name}_val_loss"]
        if at is not None and loss is not None:
            points.append(Point(at, val_loss=loss))
    curve = Curve.of(points)
    saved = sorted({*curve.validations, *({end} if end is not None else ())})
    run = Run(
        name=item.name,
        checkpoints=tuple(Checkpoint(at, f"{at:07d}_adapters.safetensors") for at in saved),
        curve=curve,
        source=told["source"],
        state=told["state"],
        log="its training curve",
    )
    is_last = end is None or not saved or end == saved[-1]
    choice = Choice(Checkpoint(end, folder.path.name), told["chosen"], measured, is_last)
    yield from choice_findings(run, choice)
    yield from conflicts(run, choice, folder, submission)


def _manifest(paths: Mapping[str, Path]) -> Manifest:
    return Manifest.of(file_entry(name, path) for name, path in paths.items())


def _require_same(item: Item, found: Manifest) -> None:
    if found != item.files.manifest:
        there = {entry.path: entry for entry in item.files.manifest}
        name = next((entry.path for entry in found if there.get(entry.path) != entry), "a file")
        raise BlobCorruptError(
            f"{name} of {item.name} has other bytes than its record says: the digest {item.digest[:12]} is not theirs",
            hint=_HINT,
        )


def _require_kept(item: Item, kept: Iterable[str]) -> None:
    if strange := sorted({entry.path for entry in item.files.manifest} - set(kept)):
        raise BadInputError(
            f"{item.name} has a file that is not kept with such a thing: {strange[0]}", hint=_HINT
        )
