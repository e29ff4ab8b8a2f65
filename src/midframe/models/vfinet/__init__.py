"""The ModelScope network `cv_raft_video-frame-interpolation`: loads its official weights, gives its pictures."""

from midframe.models.vfinet.cuts import FlowCuts, Remembering
from midframe.models.vfinet.loading import load
from midframe.models.vfinet.network import Features, Flows, VFINet

__all__ = ["Features", "FlowCuts", "Flows", "Remembering", "VFINet", "load"]
