"""The ModelScope network `cv_raft_video-frame-interpolation`: with its official weights."""

from midframe.models.vfinet.cuts import FlowCuts, Memoising
from midframe.models.vfinet.loading import load
from midframe.models.vfinet.network import Features, Flows, VFINet

__all__ = ["Features", "FlowCuts", "Flows", "Memoising", "VFINet", "load"]
