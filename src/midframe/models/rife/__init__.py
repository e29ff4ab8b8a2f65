"""RIFE: published weights of its versions, recognised by their tensors."""

from midframe.models.rife.loading import load
from midframe.models.rife.model import Rife

__all__ = ["Rife", "load"]
