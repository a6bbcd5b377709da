"""Modules of the official models by their names, and the reference's taps that they give (MODEL.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

STAGES = ("vision", "connector", "language", "action_head")
"""Parts that are recorded, in the order of execution."""


@dataclass(frozen=True)
class Place:
    """A module's result under a tap's name, and those of its arguments that are taps too."""

    stage: str
    output: str | None
    inputs: tuple[tuple[int, str, str], ...] = ()
    """Place among the arguments, name of the parameter, tap."""
    in_step: bool = False
    windows: bool = False
    """Whether rows are patches in the order of N1.6's windows."""


Made = Callable[[re.Match[str]], Place]


def places(names: Iterable[str]) -> list[tuple[str, Place]]:
    """Those of a model's modules that are known, by name."""
    names = list(names)
    deepstack = sum(re.search(r"visual\.deepstack_merger_list\.\d+$", name) is not None for name in names)
    known = [(re.compile(rf"(?:.*\.)?{name}"), made) for name, made in [
        *_vision_of_n1_6(), *_vision_of_n1_7(), *_language(deepstack), *_self_attention(), *_action_head()]]
    matched = ((name, made, pattern.fullmatch(name)) for name in names for pattern, made in known)
    return [(name, made(found)) for name, made, found in matched if found is not None]


def _always(place: Place) -> Made:
    return lambda _: place


def _inside(stage: str, layer: str, windows: bool = False) -> Callable[..., Made]:
    """Of operations of a layer: their results, and their arguments where those are taps, by names behind the layer's."""
    def inside(output: str, before: str | None = None, parameter: str = "input") -> Made:
        def made(found: re.Match[str]) -> Place:
            tap = layer + found[1]
            return Place(stage, tap + output, () if before is None else ((0, parameter, tap + before),), windows=windows)

        return made

    return inside


def _vision_of_n1_6() -> list[tuple[str, Made]]:
    """SigLIP 2 of Eagle, and the connector `mlp1`."""
    tower = r"backbone\.model\.vision_model\.vision_model"
    layer = tower + r"\.encoder\.layers\.(\d+)"

    def whole(found: re.Match[str]) -> Place:
        embeddings = ((0, "hidden_states", "vision.embeddings"),) if found[1] == "0" else ()
        return Place("vision", f"vision.layer.{found[1]}", embeddings, windows=True)

    inside = _inside("vision", "vision.layer.", windows=True)

    def connector(output: str, before: str | None = None) -> Made:
        inputs = () if before is None else ((0, "input", before),)
        return _always(Place("connector", output, inputs))

    return [
        (layer, whole),
        (layer + r"\.layer_norm1", inside(".norm1")),
        (layer + r"\.self_attn\.q_proj", inside(".query")),
        (layer + r"\.self_attn\.k_proj", inside(".key")),
        (layer + r"\.self_attn\.v_proj", inside(".value")),
        (layer + r"\.self_attn\.out_proj", inside(".output", ".attention")),
        (layer + r"\.layer_norm2", inside(".norm2", ".residual1")),
        (layer + r"\.mlp\.fc1", inside(".fc1")),
        (layer + r"\.mlp\.fc2", inside(".fc2", ".gelu")),
        (tower + r"\.post_layernorm", _always(Place("vision", "vision.post_layernorm", windows=True))),
        (r"backbone\.model\.mlp1\.0", connector("connector.norm")),
        (r"backbone\.model\.mlp1\.1", connector("connector.fc1")),
        (r"backbone\.model\.mlp1\.3", connector("connector", "connector.gelu")),
    ]


def _vision_of_n1_7() -> list[tuple[str, Made]]:
    """Qwen3-VL's tower and its mergers, of which one is the connector."""
    tower = r"backbone\.model\.model\.visual"
    block = tower + r"\.blocks\.(\d+)"

    def whole(found: re.Match[str]) -> Place:
        embeddings = ((0, "hidden_states", "vision.embeddings"),) if found[1] == "0" else ()
        return Place("vision", f"vision.layer.{found[1]}", embeddings)

    inside = _inside("vision", "vision.layer.")

    def merger(module: str, stage: str, tap: Callable[[re.Match[str]], str]) -> list[tuple[str, Made]]:
        return [
            (module + r"\.norm", lambda found: Place(stage, tap(found) + ".norm")),
            (module + r"\.linear_fc1", lambda found: Place(stage, tap(found) + ".fc1")),
            (module + r"\.linear_fc2", lambda found: Place(stage, tap(found), ((0, "input", tap(found) + ".gelu"),))),
        ]

    return [
        (tower + r"\.patch_embed", _always(Place("vision", "vision.patch_embedding", ((0, "hidden_states", "vision.patches"),)))),
        (block, whole),
        (block + r"\.norm1", inside(".norm1")),
        (block + r"\.attn\.qkv", inside(".qkv")),
        (block + r"\.attn\.proj", inside(".output", ".attention")),
        (block + r"\.norm2", inside(".norm2", ".residual1")),
        (block + r"\.mlp\.linear_fc1", inside(".fc1")),
        (block + r"\.mlp\.linear_fc2", inside(".fc2", ".gelu")),
        *merger(tower + r"\.merger", "connector", lambda _: "vision.merger"),
        *merger(tower + r"\.deepstack_merger_list\.(\d+)", "connector", lambda found: f"vision.deepstack.{found[1]}"),
    ]


def _language(deepstack: int) -> list[tuple[str, Made]]:
    """Qwen3, whose layers behind the first ones read features of the tower's layers too where there are `deepstack` of them."""
    model = r"backbone\.model\.(?:language_model\.model|model\.language_model)"
    layer = model + r"\.layers\.(\d+)"

    def whole(found: re.Match[str]) -> Place:
        index = int(found[1])
        read = "language.inputs" if index == 0 else f"language.deepstack.{index - 1}" if index <= deepstack else None
        return Place("language", f"language.layer.{index}", () if read is None else ((0, "hidden_states", read),))

    inside = _inside("language", "language.layer.")

    return [
        (model + r"\.embed_tokens", _always(Place("language", "language.embedding"))),
        (layer, whole),
        (layer + r"\.input_layernorm", inside(".norm1")),
        (layer + r"\.self_attn\.q_proj", inside(".query")),
        (layer + r"\.self_attn\.k_proj", inside(".key")),
        (layer + r"\.self_attn\.v_proj", inside(".value")),
        (layer + r"\.self_attn\.q_norm", inside(".query_norm")),
        (layer + r"\.self_attn\.k_norm", inside(".key_norm")),
        (layer + r"\.self_attn\.o_proj", inside(".output", ".attention")),
        (layer + r"\.post_attention_layernorm", inside(".norm2", ".residual1", "hidden_states")),
        (layer + r"\.mlp\.gate_proj", inside(".gate")),
        (layer + r"\.mlp\.up_proj", inside(".up")),
        (layer + r"\.mlp\.act_fn", inside(".silu")),
        (layer + r"\.mlp\.down_proj", inside(".down", ".gated")),
        # N1.7 takes the features before this norm, which the reference does not compute.
        (r"backbone\.model\.language_model\.model\.norm", _always(Place("language", "language.norm"))),
        (r"backbone", _always(Place("action_head", "backbone_features"))),
    ]


def _self_attention() -> list[tuple[str, Made]]:
    """N1.7's layers over the features."""
    block = r"action_head\.vl_self_attention\.transformer_blocks\.(\d+)"

    inside = _inside("action_head", "action_head.vl_self_attention.layer.")

    return [
        (block, inside("")),
        (block + r"\.norm1", inside(".norm1")),
        (block + r"\.attn1\.to_q", inside(".query")),
        (block + r"\.attn1\.to_k", inside(".key")),
        (block + r"\.attn1\.to_v", inside(".value")),
        (block + r"\.attn1\.to_out\.0", inside(".attention_output", ".attention")),
        (block + r"\.norm3", inside(".norm2", ".residual1")),
        (block + r"\.ff\.net\.0\.proj", inside(".fc1")),
        (block + r"\.ff\.net\.0", inside(".gelu")),
        (block + r"\.ff\.net\.2", inside(".fc2")),
    ]


def _action_head() -> list[tuple[str, Made]]:
    """State and action encoders, the DiT, the decoder; N1.6 and N1.7 name them alike."""
    block = r"action_head\.model\.transformer_blocks\.(\d+)"

    def head(output: str | None, *inputs: tuple[int, str, str], step: bool = False) -> Made:
        return _always(Place("action_head", output, inputs, in_step=step))

    def of_block(tap: str) -> Made:
        return lambda found: Place("action_head", f"dit.block.{found[1]}{tap}", in_step=True)

    def own_tokens(tap: str) -> Made:
        # Keys and values of the other blocks are masked here and left out by the reference: not the same tensors.
        def made(found: re.Match[str]) -> Place:
            return Place("action_head", f"dit.block.{found[1]}{tap}" if int(found[1]) % 2 else None, in_step=True)

        return made

    return [
        (r"action_head\.vlln", head("action_head.vl_norm", (0, "input", "backbone_features"))),
        (r"action_head\.state_encoder", head("action_head.state_features", (0, "x", "action_head.state"))),
        (r"action_head\.action_encoder", head(
            "action_features", (0, "actions", "actions_in"), (1, "timesteps", "timestep"), step=True)),
        (r"action_head\.model", head("dit.output", (0, "hidden_states", "dit.tokens"), step=True)),
        (r"action_head\.model\.timestep_encoder", head("timestep_embedding", step=True)),
        (block, of_block("")),
        (block + r"\.norm1", of_block(".modulated")),
        (block + r"\.norm1\.linear", of_block(".modulation")),
        (block + r"\.attn1\.to_q", of_block(".query")),
        (block + r"\.attn1\.to_k", own_tokens(".key")),
        (block + r"\.attn1\.to_v", own_tokens(".value")),
        (block + r"\.attn1", of_block(".attention_output")),
        (block + r"\.norm3", of_block(".norm2")),
        (block + r"\.ff\.net\.0\.proj", of_block(".fc1")),
        (block + r"\.ff\.net\.0", of_block(".gelu")),
        (block + r"\.ff\.net\.2", of_block(".fc2")),
        (r"action_head\.action_decoder", head("decoder", step=True)),
    ]
