"""Tiny random models of every family of transformers that is tested, made from a configuration."""

from functools import cache

import pytest
import torch
import transformers

from contextual_rnn import FreeState
from contextual_rnn.language import initial_cache, language_model_spec

transformers.logging.set_verbosity_error()  # kernels that are not installed are named with every model

VOCABULARY = 64
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED_EXPERT = {"linear_num_key_heads": 2, "head_dim": 8, "shared_expert_intermediate_size": 16}
SSM = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 4}
PURE = {key: COMMON[key] for key in ("vocab_size", "hidden_size", "bos_token_id", "eos_token_id", "pad_token_id")}
MAMBA1 = {"mamba_d_state": 4, "mamba_dt_rank": 4}
SHARED = {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"]}

# Causal language models, by the prefix of their class.
FAMILIES = {
    "Qwen3Next": {**COMMON, **DELTA, **EXPERTS, **SHARED_EXPERT},
    "Qwen3_5": {**COMMON, **DELTA, "linear_num_key_heads": 2, "head_dim": 8},
    "FalconH1": {**COMMON, **SSM, "num_hidden_layers": 2, "mamba_d_ssm": 64, "head_dim": 8},
    "Mamba2": {**PURE, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "num_hidden_layers": 2,
               "chunk_size": 4},
    "Bamba": {**COMMON, **SSM, "num_hidden_layers": 3, "attn_layer_indices": [1]},
    "GraniteMoeHybrid": {**COMMON, **SSM, "num_hidden_layers": 2, "layer_types": DELTA["layer_types"][:2],
                         "num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 16},
    "NemotronH": {**COMMON, "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 8,
                  "mamba_head_dim": 8, "n_groups": 1, "ssm_state_size": 8, "chunk_size": 4, "head_dim": 8},
    "Zamba2": {**COMMON, **SHARED, "mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 4, "mamba_headdim": 16,
               "chunk_size": 4, "num_mem_blocks": 1, "time_step_min": 1e-6},
    "OlmoHybrid": {**COMMON, **DELTA},
    "KimiLinear": {**COMMON, **EXPERTS, "num_key_value_heads": 4, "num_hidden_layers": 2, "num_local_experts": 4,
                   "layer_types": DELTA["layer_types"][:2], "mlp_layer_types": ["dense", "sparse"],
                   "linear_head_dim": 8, "linear_num_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8,
                   "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
    "Mamba": {**PURE, "state_size": 4, "num_hidden_layers": 2},
    "FalconMamba": {**PURE, "state_size": 4, "num_hidden_layers": 2},
    "Jamba": {**COMMON, **MAMBA1, **EXPERTS, "num_hidden_layers": 3, "attn_layer_period": 3, "attn_layer_offset": 1,
              "expert_layer_period": 2, "expert_layer_offset": 1},
    "Zamba": {**COMMON, **SHARED, **MAMBA1, "n_mamba_heads": 2, "attention_head_dim": 16},
    "Qwen3_5Moe": {**COMMON, **DELTA, **EXPERTS, **SHARED_EXPERT},
    "Qwen4Exp": {**COMMON, **DELTA, **EXPERTS, **SHARED_EXPERT, "eos_token_id": 63, "hc_count": 2, "hc_lowrank": 8,
                 "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 128,
                 "indexer_compress_ratio": 4, "ple_layer_ids": [1], "heads_per_ngram": 2,
                 "ngram_vocab_size_base": 100, "make_ngram_vocab_size_divisible_by": 4, "split_ngram_parts": 4},
    "LaraMini": {**COMMON, **DELTA, **EXPERTS, **SHARED_EXPERT},
    "BailingHybrid": {**COMMON, **EXPERTS, "num_key_value_heads": 4, "num_hidden_layers": 2, "num_local_experts": 4,
                      "n_group": 2, "topk_group": 1, "layer_types": DELTA["layer_types"][:2], "head_dim": 8,
                      "mlp_layer_types": ["dense", "sparse"], "q_lora_rank": 8, "kv_lora_rank": 8,
                      "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "num_mtp_layers": 0},
    "Zaya": {**COMMON, "num_hidden_layers": 2, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16,
             "router_hidden_size": 16},
    "MiniMax": {**COMMON, "num_hidden_layers": 2, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2,
                "layer_types": DELTA["layer_types"][:2], "block_size": 4},
    "xLSTM": {**PURE, "hidden_size": 64, "num_heads": 4, "qk_dim_factor": 1.0, "num_hidden_layers": 2},
    "RWKV7": {**PURE, "head_dim": 8, "intermediate_size": 48, "decay_low_rank_dim": 4, "gate_low_rank_dim": 4,
              "a_low_rank_dim": 4, "v_low_rank_dim": 4, "num_hidden_layers": 2},
}  # fmt: skip
PARTS = {family: f"{family}TextConfig" for family in ("Qwen3_5", "Qwen3_5Moe", "Qwen4Exp")}
PACKAGES = {"RWKV7": "rwkv7_hf"}
BEGIN_WITH_ZEROS = ("Qwen4Exp", "RWKV7", "Zaya")  # weights that hide a state before training


def new_model(family, seed=0, **changes):
    """A model in evaluation mode, frozen; its weights are larger than at the start of training, so states matter."""
    package = pytest.importorskip(PACKAGES.get(family, "transformers"), reason="RWKV-7 comes with `make integrations`")
    config = getattr(package, PARTS.get(family, f"{family}Config"))(**{**FAMILIES[family], **changes})
    torch.manual_seed(seed)
    model = getattr(package, f"{family}ForCausalLM")(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(3)
        if family in BEGIN_WITH_ZEROS and not parameter.any():
            parameter.normal_(std=0.5)
    return model


model_of = cache(new_model)


def empty_cache(model):
    """What a call of the model begins with where it gets none."""
    match type(model).__name__:
        case "RWKV7ForCausalLM":  # whose own cache has another name as an argument
            return initial_cache(model, FreeState(language_model_spec(model))(batch_size=2))
        case "MiniMaxForCausalLM":
            return transformers.models.minimax.modeling_minimax.MiniMaxCache()
        case "xLSTMForCausalLM":
            return transformers.models.xlstm.modeling_xlstm.xLSTMCache(
                model.config, max_batch_size=2, dtype=model.dtype
            )
    return transformers.DynamicCache(config=model.config)


def tokens(rows=2, length=7, seed=0):
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def random_state(spec, rows=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {leaf.name: torch.randn(rows, *leaf.shape, generator=generator).to(leaf.dtype) for leaf in spec}


def assert_beams_go_on(model):
    """The scores of beams from random states are those of their tokens in one pass from the same states."""
    ids, state = tokens(), random_state(language_model_spec(model))
    wide = {name: tensor.repeat_interleave(2, 0) for name, tensor in state.items()}
    options = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 3, "return_dict_in_generate": True}
    beams = model.generate(ids, cache=initial_cache(model, wide), do_sample=False, output_scores=True, **options)
    logits = model(beams.sequences[:, :-1], cache=initial_cache(model, wide)).logits[:, 6:]
    scores = logits.log_softmax(-1).gather(-1, beams.sequences[:, 7:, None]).sum((1, 2))
    torch.testing.assert_close(beams.sequences_scores * 3, scores, rtol=1e-4, atol=1e-4)
