"""A stand-in for the official model of N1.7: the backbone is Qwen3-VL of the package transformers, as in the official code,
cut to the layers that are used; the action head is that of `stand_in.py` with self-attention over the features. f32.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from stand_in import ActionHead, FeedForward
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration


class Backbone(nn.Module):
    def __init__(self, config, layers):
        super().__init__()
        settings = Qwen3VLConfig.from_dict(config)
        settings._attn_implementation = "sdpa"
        self.model = Qwen3VLForConditionalGeneration(settings)
        language = self.model.model.language_model
        language.layers = language.layers[:layers]
        self.features = None
        # The last layer's output, without the norm that follows.
        language.layers[-1].register_forward_hook(self._keep)

    def _keep(self, _module, _args, output):
        self.features = (output[0] if isinstance(output, tuple) else output).clone()

    def forward(self, input_ids, attention_mask, pixel_values, image_grid_thw):
        self.model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values,
                   image_grid_thw=image_grid_thw)
        return {"backbone_features": self.features}


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Dropout(0.0)])

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn1, self.ff = Attention(dim, heads), FeedForward(dim)

    def forward(self, x):
        x = self.attn1(self.norm1(x)) + x
        return self.ff(self.norm3(x)) + x


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        heads = config["num_attention_heads"]
        blocks = [Block(heads * config["attention_head_dim"], heads) for _ in range(config["num_layers"])]
        self.transformer_blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.transformer_blocks:
            x = block(x)
        return x


class Head(ActionHead):
    def __init__(self, config):
        super().__init__(config)
        self.vl_self_attention = SelfAttention(config["vl_self_attention_cfg"])

    def remember(self, features):
        return self.vl_self_attention(self.vlln(features))


class Gr00t(nn.Module):
    def __init__(self, checkpoint):
        super().__init__()
        config = json.loads((checkpoint / "config.json").read_text())
        self.image_token = config["qwen3vl_config"]["image_token_id"]
        self.backbone = Backbone(config["qwen3vl_config"], config["select_layer"])
        self.action_head = Head(config)
        tensors = {name: tensor.float() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
        missing, unexpected = self.load_state_dict(tensors, strict=False)
        assert not unexpected and set(missing) <= {"backbone.model.lm_head.weight"}, (missing, unexpected)
        self.eval()

    @torch.inference_mode()
    def get_action(self, inputs):
        """Actions from the inputs of a golden."""
        names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
        features = self.backbone(**{name: inputs[name] for name in names})["backbone_features"]
        image_mask = inputs["input_ids"] == self.image_token
        return self.action_head.get_action(features, image_mask, inputs["state"], inputs["embodiment_id"], inputs["noise"])
