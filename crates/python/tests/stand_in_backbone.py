"""N1.6's vision-language backbone in PyTorch for the stand-in: names and order of computation of the official modules.

A tower that keeps patches window by window between its layers, the connector `mlp1`, and Qwen3 up to its last norm. f32.
"""

import torch
import torch.nn.functional as F
from torch import nn

PATCH, WINDOW = 14, 14


class VisionAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x, images):
        """`images`: patches of each image, which attend to each other alone."""
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        parts = [split(p(x)).split(images, 2) for p in (self.q_proj, self.k_proj, self.v_proj)]
        x = torch.cat([F.scaled_dot_product_attention(q, k, v) for q, k, v in zip(*parts)], 2)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    approximate = "tanh"

    def __init__(self, dim, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class VisionLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, eps = config["hidden_size"], config["layer_norm_eps"]
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.self_attn = VisionAttention(dim, config["num_attention_heads"])
        self.mlp = VisionMLP(dim, config["intermediate_size"])

    def forward(self, hidden_states, images):
        x = hidden_states + self.self_attn(self.layer_norm1(hidden_states), images)
        return x + self.mlp(self.layer_norm2(x))


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, self.side = config["hidden_size"], int(config["num_patches"] ** 0.5)
        self.patch_embedding = nn.Linear(3 * PATCH * PATCH, dim)
        self.position_embedding = nn.Embedding(config["num_patches"], dim)

    def forward(self, image):
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        patches = image.reshape(3, rows, PATCH, columns, PATCH).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        table = self.position_embedding.weight.T.reshape(1, -1, self.side, self.side)
        table = F.interpolate(table, (rows, columns), mode="bilinear", antialias=True, align_corners=False)
        return self.patch_embedding(patches) + table[0].flatten(1).T


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([VisionLayer(config) for _ in range(config["num_hidden_layers"])])


class Tower(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(config), Encoder(config)
        self.post_layernorm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])

    def forward(self, pixel_values):
        """Of each image its patches, row by row."""
        grids = [(image.shape[-2] // PATCH, image.shape[-1] // PATCH) for image in pixel_values]
        x = torch.cat([self.embeddings(image)[windows(*grid)] for image, grid in zip(pixel_values, grids)])[None]
        images = [rows * columns for rows, columns in grids]
        for layer in self.encoder.layers:
            x = layer(x, images)
        parts = self.post_layernorm(x)[0].split(images)
        return [part[windows(*grid).argsort()].unflatten(0, grid) for part, grid in zip(parts, grids)]


def windows(rows, columns):
    """Places of patches, window by window."""
    places = torch.arange(rows * columns).reshape(rows, columns)
    return torch.cat([part.flatten() for band in places.split(WINDOW, 0) for part in band.split(WINDOW, 1)])


class Vision(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.vision_model = Tower(config)

    def forward(self, pixel_values):
        return self.vision_model(pixel_values)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, hidden_states):
        return self.weight * (hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, width, eps = config["hidden_size"], config["head_dim"], config["rms_norm_eps"]
        self.width, self.theta = width, config["rope_theta"]
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        self.repeat = heads // groups
        self.q_proj = nn.Linear(dim, heads * width, bias=False)
        self.k_proj = nn.Linear(dim, groups * width, bias=False)
        self.v_proj = nn.Linear(dim, groups * width, bias=False)
        self.o_proj = nn.Linear(heads * width, dim, bias=False)
        self.q_norm, self.k_norm = RMSNorm(width, eps), RMSNorm(width, eps)

    def forward(self, x):
        split = lambda t: t.unflatten(-1, (-1, self.width))
        positions = torch.arange(x.shape[1], dtype=torch.float32)
        frequencies = self.theta ** (-torch.arange(0, self.width, 2, dtype=torch.float32) / self.width)
        angles = torch.cat([positions[:, None] * frequencies] * 2, -1)

        def rotated(t):
            low, high = t.chunk(2, -1)
            return t * angles.cos() + torch.cat([-high, low], -1) * angles.sin()

        q = rotated(self.q_norm(split(self.q_proj(x))).transpose(1, 2))
        k = rotated(self.k_norm(split(self.k_proj(x))).transpose(1, 2))
        v = split(self.v_proj(x)).transpose(1, 2)
        k, v = (t.repeat_interleave(self.repeat, 1) for t in (k, v))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj, self.up_proj = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.down_proj, self.act_fn = nn.Linear(inner, dim, bias=False), nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.self_attn, self.mlp = Attention(config), MLP(config)

    def forward(self, hidden_states):
        x = hidden_states + self.self_attn(self.input_layernorm(hidden_states))
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList([Layer(config) for _ in range(config["num_hidden_layers"])])
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])


class Language(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = Qwen3(config)


class Eagle(nn.Module):
    def __init__(self, config):
        super().__init__()
        vision, text = config["vision_config"], config["text_config"]
        self.image_token = config["image_token_index"]
        joined = 4 * vision["hidden_size"]
        self.vision_model, self.language_model = Vision(vision), Language(text)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(joined), nn.Linear(joined, text["hidden_size"]), nn.GELU(),
            nn.Linear(text["hidden_size"], text["hidden_size"]),
        )

    def forward(self, pixel_values, input_ids):
        # Feature c * 4 + dy * 2 + dx of a token is feature c of the patch at (dy, dx).
        joined = [
            image.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).permute(0, 2, 4, 1, 3).flatten(2).flatten(0, 1)
            for image in self.vision_model(pixel_values)
        ]
        tokens = self.mlp1(torch.stack(joined))
        model = self.language_model.model
        x = model.embed_tokens(input_ids).clone()
        x[input_ids == self.image_token] = tokens.flatten(0, 1)
        for layer in model.layers:
            x = layer(x)
        return model.norm(x)


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = Eagle(config)

    def forward(self, pixel_values, input_ids):
        return {"backbone_features": self.model(pixel_values, input_ids)}
