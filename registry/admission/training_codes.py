"""What can be found about a training run; the codes are those of admission, which weighs and lists them."""

from __future__ import annotations

from .code import Code

BEST_NOT_LAST = Code(
    "best_not_last",
    "info",
    "the checkpoint with the best validation loss is not the last one, and is the one that is registered",
    "the trainer keeps the last weights as `adapters.safetensors`, which may have learned their examples by heart",
    "--checkpoint last takes the last one",
)
BETTER_UNSAVED = Code(
    "better_unsaved",
    "warning",
    "the run was validated with a lower loss where it saved no checkpoint",
    "the best weights of the run are lost",
    "save what is validated: --save-every with the same number as --steps-per-eval; save_steps with that of eval_steps",
)
WORSE_THAN_START = Code(
    "worse_than_start",
    "warning",
    "the validation loss of the checkpoint is not below that of the model before training",
    "the run made the model worse on what it was to learn",
    "train with a smaller learning rate",
)
LOSS_NOT_FINITE = Code(
    "loss_not_finite",
    "warning",
    "a loss of the run was NaN or infinite",
    "training diverged there, or a batch had nothing to learn from",
    "train with a smaller learning rate",
)
LOSS_NEGATIVE = Code(
    "loss_negative",
    "warning",
    "the validation loss of the checkpoint is negative, and is not recorded for the adapter",
    "a cross-entropy is never negative: the number is another loss, such as that of reinforcement learning",
    "give the cross-entropy on the validation set with --val-loss LOSS",
)
STALE_CHECKPOINT = Code(
    "stale_checkpoint",
    "info",
    "a checkpoint has more iterations than the run, or another history",
    "it is of an earlier run in the same folder, and is not used",
)
CHECKPOINT_UNUSABLE = Code(
    "checkpoint_unusable",
    "warning",
    "a checkpoint of the run lacks the trainer's state, or its weights end too early, and is not used",
    "a run that is killed leaves its last checkpoint half written",
    "register another: --checkpoint ITER",
)
FINAL_WEIGHTS_UNCLEAR = Code(
    "final_weights_unclear",
    "warning",
    "it cannot be told from which iteration of its run the folder's own weights are, and they are none of its checkpoints",
    "it may be of an earlier run, so nothing that was measured is taken for it",
    "register a checkpoint that has a number: --checkpoint ITER",
)
TRAINING_CONFLICT = Code(
    "training_conflict",
    "warning",
    "the log or the record of the run says other than the configuration, the hand-written file or a flag",
    "one of them is of another run, or was copied wrongly",
    "take log, record and configuration of one run, and leave out flags that they answer",
)
RECORD_UNUSABLE = Code(
    "record_unusable",
    "warning",
    "`fusery_run.json` or a trainer's `trainer_state.json` cannot be read, and is not used",
    "what the run recorded of itself is missing from the registration",
    "give what the trainer printed instead: --log FILE",
)
OTHER_LOG = Code(
    "log_of_another_run",
    "warning",
    "a log in the folder goes on after the configured number of iterations, and is not used",
    "its curve would be that of another run",
    "give the log of this run with --log FILE",
)

ALL = (
    BEST_NOT_LAST,
    BETTER_UNSAVED,
    WORSE_THAN_START,
    LOSS_NOT_FINITE,
    LOSS_NEGATIVE,
    STALE_CHECKPOINT,
    CHECKPOINT_UNUSABLE,
    FINAL_WEIGHTS_UNCLEAR,
    TRAINING_CONFLICT,
    RECORD_UNUSABLE,
    OTHER_LOG,
)
