"""The fusion network: how much of each warped frame goes into every block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe.models.layers import SLOPE, Residual, convolution
from midframe.models.midnet.architecture import PRIMARY, ZERO, refined_index
from midframe.models.midnet.features import BlockInput, HypothesisInput, fusion_inputs
from midframe.models.midnet.hypotheses import active_tiles, expand_tiles, trivial_tiles
from midframe.models.midnet.types import FLOWS, CoverageChannel

POOLED = 4  # features of the hypotheses that the context sees: their mean, maximum, the primary's and zero motion's
PRIOR = {PRIMARY: 2.0, ZERO: -2.0}  # logit of a hypothesis before training; 1 for the others
INACTIVE_LOGIT = -1e4
# Outputs of the context beside the features of hypotheses: logits of a, of b and of zero motion.
LOGIT_A, LOGIT_B, LOGIT_ZERO, LOGITS = -3, -2, -1, 3


class FusionNetwork(nn.Module):
    """Computes fusion weights from matching features.

    The same small layers see each hypothesis of a block; a U-Net sees the pooled features of all hypotheses and the
    blocks around. So all hypotheses share the learned layers, and an inactive one costs next to nothing.
    """

    def __init__(self, hypotheses: Sequence[str], each: int, context: int, coarse: int) -> None:
        super().__init__()
        self.hypotheses = tuple(hypotheses)
        self.zero = self.hypotheses.index(ZERO)
        self.refined = refined_index(self.hypotheses)
        self.hypothesis_bias = nn.Parameter(torch.zeros(len(hypotheses), each))
        self.input_layer = nn.Linear(len(HypothesisInput), each)
        self.hidden_layer = nn.Linear(each, each)
        self.context_encoder = convolution(POOLED * each + len(BlockInput), context, 1)
        self.encoder8 = convolution(context, coarse, 3, 2)
        self.encoder16 = nn.Sequential(convolution(coarse, coarse, 3, 2), Residual(coarse), Residual(coarse))
        self.decoder8 = nn.Sequential(convolution(coarse, coarse), nn.Conv2d(coarse, each + LOGITS, 1))
        self.context_decoder = nn.Conv2d(context, each + LOGITS, 1)
        self.output_layer = nn.Linear(each, each)
        self.head = nn.Linear(each, 2)
        prior = [PRIOR.get(name, 1.0) for name in hypotheses]
        self.register_buffer("prior", torch.tensor(prior), persistent=False)
        self.prior: Tensor
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming everywhere; every hypothesis starts with the same weight, up to its prior."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.weight.zero_()
            for last in (self.context_decoder, self.decoder8[1]):
                last.weight.mul_(0.3)  # type: ignore[operator]
                last.weight[-LOGITS:].zero_()  # type: ignore[index]

    def forward(self, features: Tensor, coverage: Tensor, t: Tensor) -> Tensor:
        """Fusion weights (N, 2K, h, w) float32 of a under each hypothesis, then of b; their sum is 1.

        Args:
            features: (N, K, 17, h, w), see `FeatureChannel`.
            coverage: (N, 3, h, w), see `CoverageChannel`.
            t: (N, 1, 1, 1).
        """
        each, shared = fusion_inputs(features, coverage, t)
        active = active_tiles(features[:, :, FLOWS], self.hypotheses)
        active = active & ~trivial_tiles(features[:, 0], features[:, self.zero], active, self.refined)
        active = expand_tiles(active)[:, :, None]
        x = self.input_layer(each.movedim(2, -1)) + self.hypothesis_bias.view(1, len(self.hypotheses), 1, 1, -1)
        x = self.hidden_layer(F.leaky_relu_(x, SLOPE)).movedim(-1, 2)  # (N, K, each, h, w)
        y = torch.where(active, F.leaky_relu(x, SLOPE), 0.0)
        mean, any_active = y.sum(1) / active.sum(1).clamp(min=1), active[:, 0]
        maximum = torch.where(any_active, y.masked_fill(~active, -math.inf).amax(1), 0.0)
        context = self.context(torch.cat([mean, maximum, y[:, 0], y[:, self.zero], shared], 1)).float()
        x = F.leaky_relu_(x + context[:, None, :-LOGITS], SLOPE).movedim(2, -1)
        out = self.head(F.leaky_relu_(self.output_layer(x), SLOPE)).float()  # (N, K, h, w, 2)
        out = torch.where(active[:, :, 0, ..., None], out, 0.0)
        visible, prior = coverage[:, CoverageChannel.VISIBILITY :], self.prior.view(1, -1, 1, 1)
        is_zero = F.one_hot(torch.tensor(self.zero), len(self.hypotheses)).to(out).view(1, -1, 1, 1)
        zero = is_zero * context[:, LOGIT_ZERO:]
        of_a = out[..., 0] + context[:, LOGIT_A:LOGIT_B] + zero + prior + torch.log(1.0 - t + 1e-3)
        of_b = out[..., 1] + context[:, LOGIT_B:LOGIT_ZERO] + zero + prior + torch.log(t + 1e-3)
        of_a, of_b = of_a + F.logsigmoid(visible), of_b + F.logsigmoid(-visible)
        inactive = ~active[:, :, 0]
        inactive[:, 0] = False
        return torch.cat([x.masked_fill(inactive, INACTIVE_LOGIT) for x in (of_a, of_b)], 1).softmax(1)

    def context(self, pooled: Tensor) -> Tensor:
        """Context (N, each + LOGITS, h, w) of blocks from the pooled features of their hypotheses and block inputs."""
        fine = F.leaky_relu_(pointwise(self.context_encoder[0], pooled), SLOPE)
        coarse = self.coarse_context(fine)
        return pointwise(self.context_decoder, fine) + F.interpolate(
            coarse, scale_factor=2.0, mode="bilinear", align_corners=False
        )

    def coarse_context(self, fine: Tensor) -> Tensor:
        """Context at 1/8 and 1/16, (N, each + LOGITS, h/2, w/2), from encoded blocks (N, context, h, w)."""
        eighth = self.encoder8(fine)
        eighth = eighth + F.interpolate(self.encoder16(eighth), scale_factor=2.0, mode="nearest")
        out: Tensor = self.decoder8(eighth)
        return out


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product, channels last: a quarter of its time on a CPU."""
    assert isinstance(layer, nn.Conv2d)
    return F.linear(x.movedim(1, -1), layer.weight.flatten(1), layer.bias).movedim(-1, 1)
