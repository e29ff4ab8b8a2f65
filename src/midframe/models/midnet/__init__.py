"""midnet: classical flow, motion hypotheses at t, learned fusion. Start with `model`."""

from midframe.models.midnet.architecture import SIZES, Architecture
from midframe.models.midnet.checkpoint import load_midnet, save_midnet
from midframe.models.midnet.model import Midnet

__all__ = ["SIZES", "Architecture", "Midnet", "load_midnet", "save_midnet"]
