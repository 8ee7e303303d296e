"""What the log may call what was done: every action that this version records, and in which words."""

from __future__ import annotations

from collections.abc import Mapping

ACTIONS: Mapping[str, str] = {
    "adapter.approved": "somebody approved of an alias holding it",
    "adapter.benched": "its forms were timed on this machine",
    "adapter.exported": "it was written to a folder",
    "adapter.received": "it came from another registry",
    "adapter.registered": "it was registered",
    "adapter.signed": "it was signed",
    "adapter.unapproved": "an approval was taken back",
    "adapter.unyanked": "its withdrawal was lifted",
    "adapter.yanked": "it was withdrawn",
    "alias.moved": "it moved from one adapter to another, or to none",
    "alias.refused": "it was not moved, because rules of it were not fulfilled",
    "base.added": "it was added, or given another name or source",
    "base.calibrated": "a calibration of it was made",
    "base.received": "it came from another registry",
    "blob.quarantined": "a damaged blob was put aside",
    "blob.repaired": "a damaged blob was replaced by a good one",
    "bundle.signed": "it was signed",
    "bundle.written": "it was written",
    "calibration.received": "it came from another registry",
    "deployment.ended": "nothing, or something else, runs at the place now",
    "deployment.recorded": "something runs at the place",
    "fuse.fitted": "what fits into a budget was worked out",
    "fuse.refused": "it was measured and not published",
    "fused.made": "it was made",
    "fused.published": "its files went to the store",
    "fused.received": "it came from another registry",
    "fused.repaired": "a damaged copy in a cache was made again",
    "fused.signed": "it was signed",
    "guards.mended": "what protects the tables had been changed, and was made anew",
    "key.revoked": "its signatures count no more",
    "key.trusted": "its signatures count for some aliases",
    "records.changed": "records changed, and nothing else tells of it",
    "records.sealed": "records from before the log had seals were sealed",
    "registry.made": "the registry was made",
    "rules.removed": "an alias has its rules no more",
    "rules.set": "an alias has these rules",
    "store.collected": "what nothing refers to was removed from the store",
}
"""A new action is a new line here: `events.record` takes no other, and `events --action` knows no other."""
