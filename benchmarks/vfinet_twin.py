"""The slow twin of vfinet: the published network written down plainly, under its published tensor names.

What `benchmarks/vfinet.py` measures against and what the tests check RAFT (basic and small) against: batch
norms are batch norms, the whole comparison volume is kept per direction, every iteration brings its flow to
full size, flows are found anew for every frame, four directions each. Float32, memory as PyTorch lays it out.
Arithmetic after github.com/modelscope/modelscope (Apache-2.0) and github.com/princeton-vl/RAFT (BSD), in our words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = torch.tensor([0.429, 0.431, 0.397]).view(1, 3, 1, 1)


def norm_layer(kind: str, channels: int) -> nn.Module:
    return {
        "batch": lambda: nn.BatchNorm2d(channels),
        "instance": lambda: nn.InstanceNorm2d(channels),
        "none": nn.Identity,
    }[kind]()


class Block(nn.Module):
    """Residual block of an encoder; `small` goes through a quarter of the channels."""

    def __init__(self, inputs, outputs, kind, stride, small):
        super().__init__()
        inner = outputs // 4 if small else outputs
        if small:
            self.conv1 = nn.Conv2d(inputs, inner, 1)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1)
            self.conv3 = nn.Conv2d(inner, outputs, 1)
            self.norm3 = norm_layer(kind, outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1)
            self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1)
        self.norm1, self.norm2 = norm_layer(kind, inner), norm_layer(kind, inner)
        self.small, self.downsample = small, None
        if stride != 1:
            last = norm_layer(kind, outputs)
            setattr(self, "norm4" if small else "norm3", last)
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), last)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        if self.small:
            y = F.relu(self.norm3(self.conv3(y)))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class Encoder(nn.Module):
    def __init__(self, widths, outputs, kind, small):
        super().__init__()
        self.norm1 = norm_layer(kind, widths[0])
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3)
        for i in range(3):
            stage = nn.Sequential(
                Block(widths[i], widths[i + 1], kind, 1 if i == 0 else 2, small),
                Block(widths[i + 1], widths[i + 1], kind, 1, small),
            )
            setattr(self, f"layer{i + 1}", stage)
        self.conv2 = nn.Conv2d(widths[3], outputs, 1)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    def __init__(self, taps, small):
        super().__init__()
        self.small = small
        self.convc1 = nn.Conv2d(taps, 96 if small else 256, 1)
        if not small:
            self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 64 if small else 128, 7, padding=3)
        self.convf2 = nn.Conv2d(64 if small else 128, 32 if small else 64, 3, padding=1)
        self.conv = nn.Conv2d(128 if small else 256, 80 if small else 126, 3, padding=1)

    def forward(self, flow, look):
        c = F.relu(self.convc1(look))
        if not self.small:
            c = F.relu(self.convc2(c))
        f = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([c, f], 1))), flow], 1)


class Gru(nn.Module):
    def __init__(self, hidden, inputs, small):
        super().__init__()
        self.passes = [""] if small else ["1", "2"]
        for p, k in zip(self.passes, [(3, 3)] if small else [(1, 5), (5, 1)], strict=True):
            for gate in "zrq":
                pad = (k[0] // 2, k[1] // 2)
                setattr(self, f"conv{gate}{p}", nn.Conv2d(hidden + inputs, hidden, k, padding=pad))

    def forward(self, h, x):
        for p in self.passes:
            hx = torch.cat([h, x], 1)
            z = torch.sigmoid(getattr(self, f"convz{p}")(hx))
            r = torch.sigmoid(getattr(self, f"convr{p}")(hx))
            q = torch.tanh(getattr(self, f"convq{p}")(torch.cat([r * h, x], 1)))
            h = (1 - z) * h + z * q
        return h


class Head(nn.Module):
    def __init__(self, inputs, inner):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, 2, 3, padding=1)

    def forward(self, x):
        return self.conv2(F.relu(self.conv1(x)))


class Update(nn.Module):
    def __init__(self, taps, hidden, context, small):
        super().__init__()
        self.encoder = MotionEncoder(taps, small)
        self.gru = Gru(hidden, context + (82 if small else 128), small)
        self.flow_head = Head(hidden, 128 if small else 256)
        if not small:
            self.mask = nn.Sequential(nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 576, 1))


def pixel_grid(h, w):
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([x, y])[None].float()


class Raft(nn.Module):
    """RAFT; frames 0..255."""

    def __init__(self, small=False):
        super().__init__()
        self.small, self.radius = small, 3 if small else 4
        self.hidden, self.fed = (96, 64) if small else (128, 128)
        widths = (32, 32, 64, 96) if small else (64, 64, 96, 128)
        self.fnet = Encoder(widths, 128 if small else 256, "instance", small)
        self.cnet = Encoder(widths, self.hidden + self.fed, "none" if small else "batch", small)
        self.update_block = Update(4 * (2 * self.radius + 1) ** 2, self.hidden, self.fed, small)

    def volumes(self, a, b):
        n, c, h, w = a.shape
        volume = torch.matmul(a.view(n, c, h * w).transpose(1, 2), b.view(n, c, h * w))
        volume = (volume / torch.sqrt(torch.tensor(c).float())).reshape(n * h * w, 1, h, w)
        out = [volume]
        for _ in range(3):
            out.append(F.avg_pool2d(out[-1], 2, stride=2))
        return out

    def look(self, volumes, where):
        n, _, h, w = where.shape
        r = self.radius
        d = torch.linspace(-r, r, 2 * r + 1)
        window = torch.stack(torch.meshgrid(d, d, indexing="ij"), -1)[None]  # first axis moves x: the paper's code does
        out = []
        for i, volume in enumerate(volumes):
            places = where.permute(0, 2, 3, 1).reshape(n * h * w, 1, 1, 2) / 2**i + window
            height, width = volume.shape[-2:]
            x, y = 2 * places[..., 0] / (width - 1) - 1, 2 * places[..., 1] / (height - 1) - 1
            found = F.grid_sample(volume, torch.stack([x, y], -1), align_corners=True)
            out.append(found.view(n, h, w, -1))
        return torch.cat(out, -1).permute(0, 3, 1, 2).contiguous()

    def upsample(self, flow, mask):
        n, _, h, w = flow.shape
        mask = torch.softmax(mask.view(n, 1, 9, 8, 8, h, w), dim=2)
        near = F.unfold(8 * flow, [3, 3], padding=1).view(n, 2, 9, 1, 1, h, w)
        return torch.sum(mask * near, dim=2).permute(0, 1, 4, 2, 5, 3).reshape(n, 2, 8 * h, 8 * w)

    def forward(self, image1, image2, iterations=12, flow_init=None):
        """Flow at 1/8 and at full size."""
        image1, image2 = 2 * (image1 / 255.0) - 1.0, 2 * (image2 / 255.0) - 1.0
        a, b = self.fnet(torch.cat([image1, image2])).chunk(2)
        volumes = self.volumes(a, b)
        state, context = self.cnet(image1).split([self.hidden, self.fed], 1)
        state, context = torch.tanh(state), torch.relu(context)
        start = pixel_grid(image1.shape[2] // 8, image1.shape[3] // 8).repeat(len(image1), 1, 1, 1)
        now = start if flow_init is None else start + flow_init
        for _ in range(iterations):
            look = self.look(volumes, now)
            motion = self.update_block.encoder(now - start, look)
            state = self.update_block.gru(state, torch.cat([context, motion], 1))
            now = now + self.update_block.flow_head(state)
            flow = now - start
            if self.small:
                size = (8 * flow.shape[2], 8 * flow.shape[3])
                fine = 8 * F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
            else:
                fine = self.upsample(flow, 0.25 * self.update_block.mask(state))
        return now - start, fine


def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


def windows(x):
    b, h, w, c = x.shape
    return x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)


def wide_windows(x):
    b, c = x.shape[0], x.shape[-1]
    x = F.interpolate(x.permute(0, 3, 1, 2).contiguous(), scale_factor=0.5, mode="bilinear", align_corners=False)
    x = F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), 4, stride=2)
    return x.view(b, c, 16, -1).permute(0, 3, 2, 1).reshape(-1, 16, c)


def masks(h, w):
    region = torch.zeros(1, h, w, 1)
    count = 0
    cuts = (slice(0, -4), slice(-4, -2), slice(-2, None))
    for rows in cuts:
        for columns in cuts:
            region[:, rows, columns] = count
            count += 1
    own, wide = windows(region)[..., 0], wide_windows(region)[..., 0]
    return [(keys[:, None] - own[:, :, None] != 0).float() * -100.0 for keys in (own, wide)]


class Attention(nn.Module):
    def __init__(self, c, cross):
        super().__init__()
        self.cross, self.scale = cross, (c // 2) ** -0.5
        for suffix in ("_x", "_y") if cross else ("",):
            self.register_parameter(f"relative_position_bias_table{suffix}", nn.Parameter(torch.zeros(49, 2)))
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        if cross:
            self.kv, self.merge1, self.merge2 = nn.Linear(c, 2 * c), nn.Linear(2 * c, c), nn.Linear(c, c)
        place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = (place[:, :, None] - place[:, None, :]).permute(1, 2, 0) + 3
        self.index = apart[..., 0] * 7 + apart[..., 1]

    def attend(self, q, k, v, suffix, mask):
        table = getattr(self, f"relative_position_bias_table{suffix}")
        logits = q @ k.transpose(-2, -1) + table[self.index.view(-1)].view(16, 16, 2).permute(2, 0, 1)[None]
        if mask is not None:
            logits = (logits.view(-1, len(mask), 2, 16, 16) + mask[None, :, None]).view(-1, 2, 16, 16)
        return (logits.softmax(-1) @ v).transpose(1, 2).reshape(len(q), 16, -1)

    def forward(self, x, shifted):
        b, h, w, c = x.shape
        mask = masks(h, w) if shifted else (None, None)
        q, k, v = self.qkv(windows(x)).view(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        q = q * self.scale
        out = self.attend(q, k, v, "_x" if self.cross else "", mask[0])
        if self.cross:
            k, v = self.kv(wide_windows(x)).view(-1, 16, 2, 2, c // 2).permute(2, 0, 3, 1, 4)
            wide = self.attend(q, k, v, "_y", mask[1])
            out = self.merge2(F.leaky_relu(self.merge1(torch.cat([out, wide], -1)), 0.2)) + out
        out = self.proj(out)
        return out.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, c, cross, shifted):
        super().__init__()
        self.shifted = shifted
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.attn, self.mlp = Attention(c, cross), Mlp(c)

    def forward(self, x):
        y = self.norm1(x)
        if self.shifted:
            y = torch.roll(y, (-2, -2), (1, 2))
        y = self.attn(y, self.shifted)
        if self.shifted:
            y = torch.roll(y, (2, 2), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Group(nn.Module):
    def __init__(self, c, cross):
        super().__init__()
        self.residual_group = nn.ModuleDict({"blocks": nn.Sequential(*(Layer(c, cross, i == 1) for i in range(3)))})
        self.conv = nn.Conv2d(c, c, 3, 1, 1)

    def forward(self, x):
        y = self.residual_group["blocks"](x).permute(0, 3, 1, 2).contiguous()
        return self.conv(y).permute(0, 2, 3, 1).contiguous() + x


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(c)})
        self.layers0 = nn.Sequential(Group(c, False), Group(c, True))
        self.norm = nn.LayerNorm(c)

    def forward(self, x):
        x = self.patch_embed["norm"](x.permute(0, 2, 3, 1).contiguous())
        return self.norm(self.layers0(x)).permute(0, 3, 1, 2).contiguous()


def zoom(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class Stage(nn.Module):
    def __init__(self, scale, c, swin):
        super().__init__()
        self.scale, self.swin = scale, swin
        first = [conv(16, c // 2, 2), conv(c // 2, c, 2)]
        if swin:
            self.conv0 = nn.Sequential(*first, conv(c, c))
            self.trans = Transformer(c)
            self.conv1 = nn.Sequential(conv(c, c), conv(c, c))
        else:
            self.conv0 = nn.Sequential(*first)
            self.convblock1 = nn.Sequential(*(conv(c, c) for _ in range(3)))
            self.convblock2 = nn.Sequential(*(conv(c, c) for _ in range(3)))
        self.up, self.conv2 = nn.ConvTranspose2d(c, 4, 4, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x, there, back):
        s = self.scale
        if s != 1:
            x, there, back = zoom(x, 1.0 / s), zoom(there, 1.0 / s) * (1.0 / s), zoom(back, 1.0 / s) * (1.0 / s)
        x = self.conv0(torch.cat([x, there, back], 1))
        if self.swin:
            x = self.trans(x)
            x = self.conv1(x) + x
        else:
            x = self.convblock1(x) + x
            x = self.convblock2(x) + x
        flow = zoom(self.conv2(self.up(x)), 2.0) * 2.0
        if s != 1:
            flow = zoom(flow, s) * s
        return flow[:, :2], flow[:, 2:]


def refine_warp(image, flow):
    h, w = image.shape[-2:]
    x = torch.linspace(-1.0, 1.0, w).view(1, 1, 1, w).expand(len(flow), 1, h, w)
    y = torch.linspace(-1.0, 1.0, h).view(1, 1, h, 1).expand(len(flow), 1, h, w)
    move = torch.cat([flow[:, :1] / ((w - 1.0) / 2.0), flow[:, 1:] / ((h - 1.0) / 2.0)], 1)
    grid = torch.clamp((torch.cat([x, y], 1) + move).permute(0, 2, 3, 1), -1, 1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


class Refine(nn.Module):
    def __init__(self):
        super().__init__()
        self.block1, self.block2, self.block3 = Stage(4, 128, False), Stage(2, 64, True), Stage(1, 32, True)

    def forward(self, a, b, there, back):
        f, g = there, back
        total = []
        for block in (self.block1, self.block2, self.block3):
            df, dg = block(torch.cat([a, b, refine_warp(b, f), refine_warp(a, g)], 1), f, g)
            f, g = f + df, g + dg
            total.append((df, dg))
        (f1, g1), (f2, g2), (f3, g3) = total
        return there + (f1 + f2 + f3), back + (g1 + g2 + g3)


def warp(image, flow):
    h, w = image.shape[-2:]
    place = pixel_grid(h, w) + flow
    x, y = 2 * (place[:, 0] / (w - 1) - 0.5), 2 * (place[:, 1] / (h - 1) - 0.5)
    return F.grid_sample(image, torch.stack([x, y], 3), padding_mode="border", align_corners=True)


def reverse(flow):
    small = F.interpolate(flow, scale_factor=1.0 / 3, mode="nearest") / 3
    n, c, h, w = small.shape
    total, weight = torch.zeros(n * c * h * w), torch.zeros(n * c * h * w)
    u, v = small[:, :1].expand(-1, c, -1, -1), small[:, 1:].expand(-1, c, -1, -1)
    lane = torch.arange(n * c).view(n, c, 1, 1)
    for left in (torch.floor(u), torch.floor(u) + 1):
        for top in (torch.floor(v), torch.floor(v) + 1):
            share = torch.exp(-((v - top) ** 2 + (u - left) ** 2))
            x, y = left.long() + torch.arange(w), top.long() + torch.arange(h).view(-1, 1)
            inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
            target = (lane * h * w + y * w + x)[inside]
            total.put_(target, (small * share)[inside], accumulate=True)
            weight.put_(target, share[inside], accumulate=True)
    total, weight = -total.view_as(small), weight.view_as(small)
    out = torch.where(weight > 0, total / weight, -small)
    box = F.conv2d(out.view(n * c, 1, h, w), torch.ones(1, 1, 7, 7) / 49, padding=3).view_as(out)
    box = F.interpolate(box, size=(h // 4, w // 4), mode="bilinear", align_corners=False)
    box = F.interpolate(box, size=(h, w), mode="bilinear", align_corners=False)
    out = torch.where(weight > 0, out, box)
    return F.interpolate(out, size=list(flow.shape[2:]), mode="nearest") * 3


def leaky(x):
    return F.leaky_relu(x, 0.1)


class Two(nn.Module):
    def __init__(self, inputs, outputs, size, up):
        super().__init__()
        self.up = up
        self.conv1 = nn.Conv2d(inputs, outputs, size, padding=size // 2)
        self.conv2 = nn.Conv2d(2 * outputs if up else outputs, outputs, size, padding=size // 2)

    def forward(self, x, skip=None):
        if not self.up:
            return leaky(self.conv2(leaky(self.conv1(F.avg_pool2d(x, 2)))))
        x = leaky(self.conv1(F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)))
        return leaky(self.conv2(torch.cat([x, skip], 1)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1_1, self.conv1_2 = nn.Conv2d(20, 32, 5, padding=2), nn.Conv2d(32, 32, 3, padding=1)
        self.conv2_1, self.conv2_2 = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.down1, self.down2, self.down3 = Two(32, 64, 5, False), Two(64, 128, 3, False), Two(128, 128, 3, False)
        self.up1, self.up2, self.up3 = Two(128, 128, 3, True), Two(128, 64, 3, True), Two(64, 32, 3, True)
        self.conv3, self.conv4 = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x):
        top = leaky(self.conv1_2(leaky(self.conv1_1(x))))
        s1 = leaky(self.conv2_2(leaky(self.conv2_1(zoom(top, 0.5)))))
        s2 = self.down1(s1)
        s3 = self.down2(s2)
        x = self.up3(self.up2(self.up1(self.down3(s3), s3), s2), s1)
        x = F.interpolate(x, size=top.shape[2:], mode="bilinear", align_corners=False)
        x = leaky(self.conv3(x))
        return self.conv4(x), x


class MaskNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(38, 32, 5, padding=2), nn.Conv2d(32, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x):
        return self.conv3(leaky(self.conv2(leaky(self.conv1(x)))))


class StaticNet(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for a, b in ((56, 32), (32, 32), (32, 16), (16, 16), (16, 1)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.1)]
        self.body = nn.Sequential(*layers[:-1], nn.Sigmoid())


def slopes(image):
    v = F.conv2d(image.flatten(0, 1)[:, None], torch.tensor([[[[0.0, -1, 0], [0, 0, 0], [0, 1, 0]]]]), padding=1)
    h = F.conv2d(image.flatten(0, 1)[:, None], torch.tensor([[[[0.0, 0, 0], [-1, 0, 1], [0, 0, 0]]]]), padding=1)
    return torch.sqrt(v**2 + h**2 + 1e-6).view_as(image)


class Inter(nn.Module):
    def __init__(self):
        super().__init__()
        self.refinenet, self.masknet, self.staticnet = UNet(), MaskNet(), StaticNet()

    def forward(self, f10, f12, f21, f23, a, b, t, full_a=None, full_b=None):
        s = 1 - t
        if f10 is None or f23 is None:
            f1t, f2t = t * f12, s * f21
        else:
            f1t = 0.5 * ((t + t**2) * f12 - (t - t**2) * f10)
            f2t = 0.5 * ((s + s**2) * f21 - (s - s**2) * f23)
        ft1, ft2 = reverse(f1t), reverse(f2t)
        out, features = self.refinenet(torch.cat([a, b, warp(a, ft1), warp(b, ft2), f12, f21, ft1, ft2], 1))
        ft1 = warp(ft1, 10 * torch.tanh(out[:, 4:6])) + out[:, :2]
        ft2 = warp(ft2, 10 * torch.tanh(out[:, 6:8])) + out[:, 2:4]
        wa, wb, ga, gb = warp(a, ft1), warp(b, ft2), slopes(a), slopes(b)
        mask = torch.sigmoid(self.masknet(torch.cat([wa, wb, features], 1))).repeat(1, 3, 1, 1)
        static = torch.cat([wa, wb, warp(ga, ft1), warp(gb, ft2), a, b, ga, gb, features], 1)
        static = self.staticnet.body(static)
        for _ in range(2):
            static = F.max_pool2d(F.pad(static, (2, 2, 2, 2)), 5, stride=1)
        if full_a is not None:
            a, b = full_a, full_b
            wa, wb = warp(a, zoom(ft1 * 2, 2)), warp(b, zoom(ft2 * 2, 2))
            mask, static = zoom(mask, 2), zoom(static, 2)
        moving = (s * mask * wa + t * (1 - mask) * wb) / (s * mask + t * (1 - mask))
        return (1 - static) * moving + static * (s * a + t * b)


class InterpNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.ifnet, self.internet = Refine(), Inter()


class Twin(nn.Module):
    """The whole network; frames 0..255 in the network's own channel order, sides as it wants them."""

    def __init__(self):
        super().__init__()
        self.flownet, self.interpnet = Raft(), InterpNet()

    def load(self, flownet: dict[str, Tensor], interpnet: dict[str, Tensor]) -> Twin:
        """Fill from the two checkpoints' tensors; constants may be missing."""
        self.flownet.load_state_dict(flownet, strict=False)
        self.interpnet.load_state_dict(interpnet, strict=False)
        return self.eval()

    @torch.no_grad()
    def forward(self, frames: list[Tensor], t: float, large: bool = False) -> Tensor:
        """The frame at t between the middle two of four frames, or between two; flows found anew each time."""
        pad = [None, *frames, None] if len(frames) == 2 else frames
        full = [x / 255.0 - MEAN for x in pad[1:3]] if large else [None, None]
        if large:
            pad = [None if x is None else zoom(x, 0.5) for x in pad]
        zero, one, two, three = pad
        f10 = None if zero is None else self.flownet(one, zero)[1]
        f12, f21 = self.flownet(one, two)[1], self.flownet(two, one)[1]
        f23 = None if three is None else self.flownet(two, three)[1]
        a, b = one / 255.0 - MEAN, two / 255.0 - MEAN
        f12, f21 = self.interpnet.ifnet(a, b, f12, f21)
        return self.interpnet.internet(f10, f12, f21, f23, a, b, t, *full) + MEAN
