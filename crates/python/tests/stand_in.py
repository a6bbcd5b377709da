"""A stand-in for the official model in PyTorch: the names of its modules, the weights of the demo's checkpoint, f32.

`stand_in_backbone.py` has the vision-language backbone.
"""

import json
import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from stand_in_backbone import Backbone
from torch import nn


class CategoryLinear(nn.Module):
    def __init__(self, slots, inner, outer):
        super().__init__()
        self.W, self.b = nn.Parameter(torch.zeros(slots, inner, outer)), nn.Parameter(torch.zeros(slots, outer))

    def forward(self, x, slot):
        return torch.bmm(x, self.W[slot]) + self.b[slot].unsqueeze(1)


class CategoryMLP(nn.Module):
    def __init__(self, slots, inner, hidden, outer):
        super().__init__()
        self.layer1, self.layer2 = CategoryLinear(slots, inner, hidden), CategoryLinear(slots, hidden, outer)

    def forward(self, x, slot):
        return self.layer2(F.relu(self.layer1(x, slot)), slot)


class ActionEncoder(nn.Module):
    def __init__(self, slots, action_dim, hidden):
        super().__init__()
        self.W1 = CategoryLinear(slots, action_dim, hidden)
        self.W2 = CategoryLinear(slots, 2 * hidden, hidden)
        self.W3 = CategoryLinear(slots, hidden, hidden)

    def forward(self, actions, timesteps, slot):
        x = self.W1(actions, slot)
        half = x.shape[-1] // 2
        frequencies = torch.exp(-torch.arange(half, dtype=torch.float32) * (math.log(10000.0) / half))
        angles = timesteps.float()[:, None, None] * frequencies
        time = torch.cat([angles.sin(), angles.cos()], -1).expand(-1, x.shape[1], -1)
        x = self.W2(torch.cat([x, time], -1), slot)
        return self.W3(x * torch.sigmoid(x), slot)


class AdaNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self, x, time):
        scale, shift = self.linear(F.silu(time)).chunk(2, -1)
        return F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    def __init__(self, dim, memory, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(memory, dim), nn.Linear(memory, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x, memory=None, mask=None):
        memory = x if memory is None else memory
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mask = None if mask is None else mask[:, None, None]
        q, k, v = split(self.to_q(x)), split(self.to_k(memory)), split(self.to_v(memory))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out[0](x.transpose(1, 2).flatten(2))


class Gelu(nn.Module):
    approximate = "tanh"

    def __init__(self, dim, outer):
        super().__init__()
        self.proj = nn.Linear(dim, outer)

    def forward(self, x):
        return F.gelu(self.proj(x), approximate=self.approximate)


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.ModuleList([Gelu(dim, 4 * dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim)])

    def forward(self, x):
        for part in self.net:
            x = part(x)
        return x


class Block(nn.Module):
    def __init__(self, dim, memory, heads):
        super().__init__()
        self.norm1, self.attn1 = AdaNorm(dim), Attention(dim, memory, heads)
        self.norm3 = nn.LayerNorm(dim, elementwise_affine=False)
        self.ff = FeedForward(dim)

    def forward(self, x, time, memory, mask):
        x = self.attn1(self.norm1(x, time), memory, mask) + x
        return self.ff(self.norm3(x)) + x


class TimestepEmbedder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(256, dim), nn.Linear(dim, dim)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class TimestepEncoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(dim)

    def forward(self, timestep):
        exponent = -math.log(10000) * torch.arange(128, dtype=torch.float32) / 127
        angles = timestep.float()[:, None] * torch.exp(exponent)
        return self.timestep_embedder(torch.cat([angles.cos(), angles.sin()], -1))


class DiT(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes = config["diffusion_model_cfg"]
        heads = sizes["num_attention_heads"]
        dim = heads * sizes["attention_head_dim"]
        memory = config["backbone_embedding_dim"]
        self.timestep_encoder = TimestepEncoder(dim)
        blocks = [Block(dim, dim if index % 2 else memory, heads) for index in range(sizes["num_layers"])]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out_1, self.proj_out_2 = nn.Linear(dim, 2 * dim), nn.Linear(dim, sizes["output_dim"])

    def forward(self, hidden_states, encoder_hidden_states, timestep, image_mask):
        time = self.timestep_encoder(timestep)
        x = hidden_states
        for index, block in enumerate(self.transformer_blocks):
            mask = ~image_mask if index % 4 == 0 else image_mask
            x = block(x, time, None, None) if index % 2 else block(x, time, encoder_hidden_states, mask)
        shift, scale = self.proj_out_1(F.silu(time)).chunk(2, -1)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
        return self.proj_out_2(x)


class ActionHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        slots, hidden, token = config["max_num_embodiments"], config["hidden_size"], config["input_embedding_dim"]
        self.config = config
        self.vlln = nn.LayerNorm(config["backbone_embedding_dim"])
        self.state_encoder = CategoryMLP(slots, config["max_state_dim"], hidden, token)
        self.action_encoder = ActionEncoder(slots, config["max_action_dim"], token)
        self.action_decoder = CategoryMLP(slots, hidden, hidden, config["max_action_dim"])
        self.position_embedding = nn.Embedding(config["max_seq_len"], token)
        self.model = DiT(config)

    def remember(self, features):
        return self.vlln(features)

    def get_action(self, features, image_mask, state, slot, noise):
        memory = self.remember(features)
        state = self.state_encoder(state, slot)
        steps, horizon = self.config["num_inference_timesteps"], self.config["action_horizon"]
        actions = noise
        for step in range(steps):
            bucket = torch.tensor([int(step / steps * self.config["num_timestep_buckets"])])
            tokens = self.action_encoder(actions, bucket, slot) + self.position_embedding.weight[:horizon]
            output = self.model(hidden_states=torch.cat([state, tokens], 1), encoder_hidden_states=memory,
                                timestep=bucket, image_mask=image_mask)
            actions = actions + self.action_decoder(output, slot)[:, -horizon:] / steps
        return {"action_pred": actions}


class Gr00t(nn.Module):
    def __init__(self, checkpoint):
        super().__init__()
        config = json.loads((checkpoint / "config.json").read_text())
        self.config = SimpleNamespace(image_token_index=config["eagle_config"]["image_token_index"])
        self.backbone, self.action_head = Backbone(config["eagle_config"]), ActionHead(config)
        tensors = load_file(checkpoint / "model.safetensors")
        tensors.pop("action_head.mask_token", None)
        self.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self.eval()

    @torch.inference_mode()
    def get_action(self, recorded):
        """Actions from what `steady record` wrote of an inference."""
        images = [image for name, image in sorted(recorded.items()) if name.startswith("pixel_values.")]
        features = self.backbone(images, recorded["input_ids"])["backbone_features"]
        image_mask = recorded["input_ids"] == self.config.image_token_index
        slot = recorded["embodiment_id"]
        return self.action_head.get_action(features, image_mask, recorded["action_head.state"], slot, recorded["noise"])
