"""Re-statement of ViT-Adapter, place by place."""

import torch
import torch.nn.functional as F

from support.plain_side import Hidden, bilinear
from support.plain_vit import MAP, standardised

KEY = "peft.vit_adapter.network"
HEADS = 4


def middles(sizes):
    """The places of maps in an image of unit size, as (x, y)."""
    return [((j + 0.5) / w, (i + 0.5) / h) for h, w in sizes for i in range(h) for j in range(w)]


class PlainViTAdapter(Hidden):
    """The prior, injectors, extractors and the maps that are read."""

    def conv(self, key, x, **kwargs):
        return F.conv2d(x, self.weight(key), self.state.get(f"{key}.bias"), **kwargs)

    def batch_norm(self, key, x):
        mean, var = (self.state[f"{key}.running_{name}"].view(-1, 1, 1) for name in ("mean", "var"))
        weight, bias = (self.state[f"{key}.{name}"].view(-1, 1, 1) for name in ("weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def prior(self, image):
        """All maps of the prior; that of stride 4 only where it is stored."""
        key, x = f"{KEY}.prior", image
        for i, stride in enumerate((2, 1, 1)):
            x = F.relu(self.batch_norm(f"{key}.stem.{3 * i + 1}", self.conv(f"{key}.stem.{3 * i}", x, **pad(stride))))
        x = F.max_pool2d(x, 3, 2, 1)
        maps = [self.conv(f"{key}.first", x) if f"{key}.first.weight" in self.state else None]
        for i in range(3):
            x = F.relu(self.batch_norm(f"{key}.steps.{i}.1", self.conv(f"{key}.steps.{i}.0", x, **pad(2))))
            maps.append(self.conv(f"{key}.widen.{i}", x) + self.state[f"{key}.level"][i].view(-1, 1, 1))
        return maps

    def attend(self, key, q, places, v, sizes):
        """Every query, head, level and point by itself."""
        value, points, levels = self.linear(f"{key}.value", v), self.options["points"], len(sizes)
        offsets = self.linear(f"{key}.offsets", q).unflatten(-1, (HEADS, levels, points, 2))
        weights = self.linear(f"{key}.weights", q).unflatten(-1, (HEADS, levels * points)).softmax(-1)
        width, out = value.shape[-1] // HEADS, q.new_zeros(*q.shape[:2], value.shape[-1])
        parts = value.split([h * w for h, w in sizes], 1)
        for b in range(len(q)):
            for n, (x, y) in enumerate(places):
                for head in range(HEADS):
                    cut = slice(head * width, (head + 1) * width)
                    for level, (height, wide) in enumerate(sizes):
                        seen = parts[level][b, :, cut].T.unflatten(1, (height, wide))
                        for p in range(points):
                            dx, dy = offsets[b, n, head, level, p]
                            weight = weights[b, n, head, level * points + p]
                            out[b, n, cut] += weight * bilinear(seen, y * height + dy - 0.5, x * wide + dx - 0.5)
        return self.linear(f"{key}.out", out)

    def extract(self, key, c, sizes, x):
        eps = 1e-6
        query, value = self.affine_norm(f"{key}.query_norm", c, eps), self.affine_norm(f"{key}.value_norm", x, eps)
        c = c + self.attend(f"{key}.attn", query, middles(sizes), value, [MAP])
        hidden = self.linear(f"{key}.fc1", self.affine_norm(f"{key}.norm", c, eps))
        maps = [part.mT.unflatten(2, size) for part, size in zip(hidden.split(areas(sizes), 1), sizes, strict=True)]
        maps = [self.conv(f"{key}.conv", one, padding=1, groups=one.shape[1]).flatten(2).mT for one in maps]
        return c + self.linear(f"{key}.fc2", F.gelu(torch.cat(maps, 1)))

    def inject(self, key, x, c, sizes):
        query = standardised(x, 1e-6) * self.weight(f"{key}.query_norm") + self.state[f"{key}.query_norm.bias"]
        value = self.affine_norm(f"{key}.value_norm", c, 1e-6)
        return x + self.state[f"{key}.gamma"] * self.attend(f"{key}.attn", query, middles([MAP]), value, sizes)

    def maps(self, image):
        """The stream behind the last block, all c_i and all x_i; each of the three blocks is a group."""
        first, *others = self.prior(image)
        sizes = [tuple(one.shape[2:]) for one in others]
        c, seen = torch.cat([one.flatten(2).mT for one in others], 1), []
        x = self.patches(image)
        x = torch.cat([self.state["cls_token"].expand(len(x), -1, -1), x], 1) + self.state["pos_embed"]
        for i in range(self.depth):
            if self.options["inject"]:
                x = torch.cat([x[:, :1], self.inject(f"{KEY}.injectors.{i}", x[:, 1:], c, sizes)], 1)
            x = self.block(i, x)
            for j in range(1 if i < self.depth - 1 else 3):
                c = self.extract(f"{KEY}.extractors.{i}.{j}", c, sizes, x[:, 1:])
            seen.append(x[:, 1:].mT.unflatten(2, MAP))
        maps = [part.mT.unflatten(2, size) for part, size in zip(c.split(areas(sizes), 1), sizes, strict=True)]
        return x, [first, *maps], [*seen, seen[-1]]

    def pyramid(self, image):
        """The four maps."""
        _, c, x = self.maps(image)
        up = F.conv_transpose2d(c[1], self.weight(f"{KEY}.up"), self.state[f"{KEY}.up.bias"], stride=2)
        c[0] = c[0] + up
        sized = [F.interpolate(x_i, c_i.shape[2:], mode="bilinear") for c_i, x_i in zip(c, x, strict=True)]
        return [self.batch_norm(f"{KEY}.norms.{i}", c[i] + sized[i]) for i in range(4)]

    def __call__(self, image):
        x, c, seen = self.maps(image)
        y = self.batch_norm(f"{KEY}.norms.0", c[1] + seen[1])  # stride 8, as the patches have
        return torch.cat([self.norm("ln1", x)[:, :1], y.flatten(2).mT], 1).flatten(1)


def pad(stride):
    return {"stride": stride, "padding": 1}


def areas(sizes):
    return [height * width for height, width in sizes]


SMALL = {"conv_width": 4, "points": 2}
CASES = {
    "vit-adapter": ("ViT-Adapter", {**SMALL, "inject": True}, PlainViTAdapter, None),
}
