"""Plans of sources, with the time they take; without a network, and where possible without torch.

Importing torch takes longer than everything else that a plan needs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial

from midframe import devices, machine_speed
from midframe.machine_speed import RunSpeed
from midframe.models import BUILT_IN, check_name
from midframe.options import Options
from midframe.plan import Plan, make_plan
from midframe.video.probe import key_times, probe
from midframe.weights import shipped

PathLike = str | os.PathLike[str]

# Options whose other values only a network can check.
_CHECKED_BY_NETWORK = ("weights", "flow_scale", "mask", "compat")


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a plan says of an engine."""

    model: str
    device: str
    precision: str


def plan_run(
    src: PathLike,
    dst: PathLike | None,
    options: Options,
    *,
    model: str,
    device: str,
    precision: str,
    segment_outputs: int | None = None,
) -> Plan:
    """Plan a run with this model, device and precision. Writes nothing."""
    info = probe(src, in_rate=options.in_fps)
    return make_plan(
        info,
        dst,
        options,
        keys=partial(key_times, src, info),
        model=model,
        device=device,
        precision=precision,
        segment_outputs=segment_outputs,
    )


def plan_without_torch(src: PathLike, dst: PathLike | None, options: Options) -> Plan | None:
    """Plan a run with a built-in model on a CPU, as `pipeline.plan` does; None where that needs torch.

    Raises:
        InputError, MediaError, WeightsError: as `pipeline.plan`.
    """
    facts = engine_facts(options)
    if facts is None:
        return None
    made = plan_run(src, dst, options, model=facts.model, device=facts.device, precision=facts.precision)
    return replace(made, seconds=estimate(made))


def engine_facts(options: Options) -> EngineFacts | None:
    """Return what the engine for these options would be, or None where only torch or a network can tell.

    Raises:
        InputError: no model of that name.
        WeightsError: shipped weights are damaged.
    """
    check_name(options.model)
    default = Options()
    by_network = any(getattr(options, name) != getattr(default, name) for name in _CHECKED_BY_NETWORK)
    if options.model not in BUILT_IN or by_network or options.scene == "modelscope" or options.runtime == "openvino":
        return None
    if options.device != "cpu" and (options.device != "auto" or devices.accelerator_possible()):
        return None
    if options.model.startswith("midnet") and shipped(options.model) is None:
        return None
    return EngineFacts(options.model, "cpu", "fp32" if options.precision == "auto" else options.precision)


def estimate(plan: Plan) -> float | None:
    """Estimate the seconds that a plan takes, from earlier runs on this machine; None before the first one."""
    if not plan.frames_out or plan.frames_in is None:
        return None
    each = machine_speed.seconds_per_frame(run_speed(plan, 0.0))
    return None if each is None else each * plan.frames_out


def run_speed(plan: Plan, seconds: float) -> RunSpeed:
    """Return the record of `machine_speed` for a plan, at `seconds` per output frame."""
    out = plan.frames_out or 1
    blurred = plan.shutter > 0
    share = 1.0 if blurred else max(0, out - (plan.frames_in or 0)) / out
    pixels = min(plan.info.width * plan.info.height, plan.scaling.width * plan.scaling.height)
    runtime = plan.options.runtime
    device = plan.device + (f" {runtime}" if runtime != "auto" else "")
    return RunSpeed(plan.model, device, plan.precision, plan.encoding.codec, pixels, share, seconds, blurred)
