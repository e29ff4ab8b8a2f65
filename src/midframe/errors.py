"""What can go wrong, as types. Every message says what was given, what is allowed, and what to try.

MidframeError                  exit code
├── InputError                 2   an invalid option, rate or frame, or combination of them
├── MediaError                 3   a file that cannot be read or written
│   └── UnsupportedError       4   a codec or container that this build does not know
├── WeightsError               3   weights missing, damaged, or of another architecture
├── DeviceError                5   a device that is absent, or out of memory after every step down
└── JobError                   1   a run that could not go on: two runs on one target, a failed worker
    └── Interrupted            130 stopped on request; the same command resumes
"""


class MidframeError(Exception):
    """Root of everything midframe raises on purpose. Its text is one line a user can act on."""

    exit_code = 1


class InputError(MidframeError, ValueError):
    """An invalid option, rate or frame, or combination of them."""

    exit_code = 2


class MediaError(MidframeError):
    """A file that cannot be read or written: missing, not a video, damaged, disk full."""

    exit_code = 3


class UnsupportedError(MediaError):
    """A codec, pixel format or container that this build cannot read or write."""

    exit_code = 4


class WeightsError(MidframeError):
    """Weights that are missing, damaged, not tensors only, or of another architecture."""

    exit_code = 3


class DeviceError(MidframeError):
    """A device that is absent, or out of memory after every step down."""

    exit_code = 5


class JobError(MidframeError):
    """A run that could not go on."""


class Interrupted(JobError):
    """Stopped on request. What is finished is kept, and the same command goes on from there."""

    exit_code = 130
