"""The plan of one run, for `probe` and `--dry-run`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from midframe.options import Options
    from midframe.plan import Plan

PathLike = str | os.PathLike[str]


def plan_of(source: PathLike, target: PathLike | None, options: Options) -> Plan:
    """Return the plan of a run on this machine; imports torch only where that is needed."""
    from midframe.planning import plan_without_torch

    if (plan := plan_without_torch(source, target, options)) is not None:
        return plan
    from midframe import pipeline

    return pipeline.plan(source, target, options=options)
