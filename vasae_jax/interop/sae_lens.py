"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``; reads version 6 and before, writes 6.

Architectures ``standard`` (ReLU), ``topk`` and ``jumprelu``; SAELens saves a trained BatchTopK,
plain or Matryoshka, as ``jumprelu`` with one threshold. ReLU is written as ``jumprelu`` with
thresholds of 0.

It encodes x or x - b_dec (``apply_b_dec_to_input``): pre_bias 1 and 0 are written as they are, any
other share is folded into b_enc. Layer names lie in its free metadata, which it reads only of a
file that states a SAELens version from 6 on.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.record import SAME_NAMES, ForeignSAE, by_decoder_norm, make_foreign
from vasae_jax.interop.settings import (
    ANY,
    FLAG,
    TABLE,
    TABLE_OR_NONE,
    TEXT_OR_NONE,
    WHOLE,
    WHOLE_OR_NONE,
    check_settings,
    check_sizes,
    harmless,
    only,
    rename_settings,
)
from vasae_jax.sites import hook_name, site_of_hook
from vasae_jax.utils.errors import UserError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_READ = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
"""Architectures that are read, and ours for each."""
_WRITTEN = {"topk": "topk", "jumprelu": "jumprelu", "relu": "jumprelu"}
"""The architecture that each of our activations is written as."""
WRITTEN_FOR = "6.0.0"
"""The first SAELens of the form that is written."""
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
    "activation_fn_params": "activation_fn_kwargs",
}
"""Settings of versions before 6, by their first names."""
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_ALL_POSITIONS: tuple[list[None] | None, ...] = (None, [None], [None, None], [])
_PLACE = {
    "hook_name": TEXT_OR_NONE,
    "hook_head_index": only(None),
    "hook_name_out": only(None),
    "hook_head_index_out": only(None),
    "model_name": TEXT_OR_NONE,
    "model_from_pretrained_kwargs": TABLE_OR_NONE.noted("its model was loaded with {}"),
    "seqpos_slice": ANY.noted(
        "it was trained on positions {} alone", lambda v: v not in _ALL_POSITIONS
    ),
    "exclude_special_tokens": ANY.noted("it was trained without the rows of special tokens"),
}
"""Of which rows it is: among the settings before version 6, in ``metadata`` since."""
_SETTINGS = {
    "architecture": only(*_READ),
    "d_in": WHOLE,
    "d_sae": WHOLE,
    "dtype": only(*_DTYPES, *(f"torch.{name}" for name in _DTYPES)).noted(
        "SAELens computes in {}; here the weights are used in float32", lambda v: "32" not in v
    ),
    "apply_b_dec_to_input": FLAG,
    "normalize_activations": only("none", None, False),
    "reshape_activations": only("none", None),
    "rescale_acts_by_decoder_norm": FLAG,
    "k": ANY,  # SAELens looks at it only for TopK, and so does _k
    "activation_fn": only("relu", "topk", None),
    "activation_fn_kwargs": TABLE_OR_NONE,
    "metadata": TABLE,
    "hook_layer": WHOLE_OR_NONE,
    **_PLACE,
    **dict.fromkeys(("is_transcoder", "use_error_term"), only(False)),
    **dict.fromkeys(("d_out", "out_hook_point", "out_hook_point_layer"), only(None)),
    # A scale is in the weights' file, where read_tensors looks for it.
    **harmless("finetuning_scaling_factor finetuning_tokens finetuning_method"),
    # How it was trained, and on what.
    **harmless(
        """device seed dataset_path dataset_trust_remote_code streaming is_dataset_tokenized
        prepend_bos context_size model_class_name model_kwargs neuronpedia_id hook_eval
        hook_point_eval hf_hook_name hf_hook_name_out sae_lens_version sae_lens_training_version
        disable_concat_sequences sequence_separator_token start_pos_offset end_pos_offset
        use_cached_activations cached_activations_path new_cached_activations_path
        act_store_device tokens_per_buffer n_batches_in_buffer store_batch_size
        store_batch_size_prompts train_batch_size train_batch_size_tokens training_tokens
        total_training_tokens n_eval_batches n_eval_seqs eval_every_n_wandb_logs
        eval_batch_size_prompts autocast autocast_lm compile_llm compile_sae
        llm_compilation_mode sae_compilation_mode
        lr lr_end lr_scheduler_name lr_warm_up_steps lr_decay_steps n_restart_cycles adam_beta1
        adam_beta2 l1_coefficient l1_warm_up_steps l1_warmup_steps lp_norm l0_coefficient l0_lambda
        l0_warm_up_steps sparsity_coefficient pre_act_loss_coefficient target_l0
        aux_loss_coefficient mse_loss_normalization scale_sparsity_penalty_by_decoder_norm
        noise_scale use_ghost_grads use_sparse_activations expansion_factor b_dec_init_method
        decoder_init_norm decoder_heuristic_init decoder_heuristic_init_norm
        decoder_orthogonal_init init_encoder_as_decoder_transpose normalize_sae_decoder
        jumprelu_init_threshold jumprelu_bandwidth jumprelu_sparsity_loss_mode
        jumprelu_tanh_scale jumprelu_ste_to_input topk_threshold_lr matryoshka_widths
        use_matryoshka_aux_loss feature_sampling_window feature_sampling_method
        feature_reinit_scale resample_batches dead_feature_window dead_feature_threshold
        dead_feature_estimation_method log_to_wandb log_activations_store_to_wandb
        log_optimizer_state_to_wandb wandb_project wandb_id wandb_entity wandb_log_frequency
        run_name checkpoint_path n_checkpoints save_final_checkpoint output_path verbose resume
        resume_from_checkpoint from_pretrained_path"""
    ),
}
_ACTIVATION = {"k": ANY, "signed": only(False)}


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    config = rename_settings(common.read_config(where), _RENAMED, where)
    metadata = common.get_table(config, "metadata")
    notes = check_settings(config, _SETTINGS, where)
    # SAELens computes with no metadata, where anything else may be written too.
    notes += check_settings({k: v for k, v in metadata.items() if k in _PLACE}, _PLACE, where)
    architecture = _architecture(config, where)
    weights = _weights(config, architecture, folder / WEIGHTS)
    check_sizes(config, weights["W_dec"], "d_in", "d_sae", where)
    origin = {**config, **metadata}
    return make_foreign(
        str(folder),
        weights,
        library="sae_lens",
        architecture=architecture,
        k=_k(config, where) if architecture == "topk" else None,
        pre_bias=float(config.get("apply_b_dec_to_input", True)),
        site=site_of_hook(common.get_text(origin, "hook_name"), where),
        model=common.get_text(origin, "model_name") or None,
        notes=notes,
    )


def _weights(config: dict[str, Any], architecture: str, where: Path) -> dict[str, np.ndarray]:
    """The weights; where activations are scaled by decoder norms, with the norms folded in."""
    threshold = {"threshold": "threshold"} if architecture == "jumprelu" else {}
    weights = common.pick(common.read_tensors(where), SAME_NAMES | threshold, where)
    weights["W_enc"] = weights["W_enc"].T
    if not config.get("rescale_acts_by_decoder_norm"):
        return weights
    if architecture != "topk":
        raise UserError(
            f"{where.parent / CONFIG} has rescale_acts_by_decoder_norm true, which SAELens has "
            f"only for topk; expected false for {architecture}"
        )
    return by_decoder_norm(weights, str(where))


def _architecture(config: dict[str, Any], where: Path) -> str:
    architecture = str(config.get("architecture", "standard"))
    # Before version 6 the architecture was "standard" for TopK too.
    inner = config.get("activation_fn") or "relu"
    if architecture == "standard" and inner == "topk":
        return "topk"
    if architecture != "topk" and inner != "relu":
        raise UserError(f"{where} has activation {inner!r}; expected relu for {architecture}")
    return _READ[architecture]


def _k(config: dict[str, Any], where: Path) -> int | None:
    """k of a TopK; before version 6 it was among the arguments of the activation function."""
    inner = common.get_table(config, "activation_fn_kwargs")
    check_settings(inner, _ACTIVATION, f"activation_fn_kwargs of {where}")
    stated = {key: each["k"] for key, each in (("k", config), ("kwargs", inner)) if "k" in each}
    return common.as_int(rename_settings(stated, {"kwargs": "k"}, where).get("k"))


def files(dictionary: Dictionary) -> dict[str, bytes]:
    """The files' content by name; UserError for an activation that SAELens does not have."""
    common.check_activation(dictionary, "sae_lens", _WRITTEN)
    architecture = _WRITTEN[dictionary.activation.kind]
    topk = architecture == "topk"
    pre_bias = 1.0 if dictionary.pre_bias == 1 else 0.0
    site, model = common.site_and_model(dictionary)
    provenance = dictionary.meta["provenance"]
    config = {
        "architecture": architecture,
        **({"k": dictionary.k, "rescale_acts_by_decoder_norm": False} if topk else {}),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": pre_bias == 1,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": model,
            "hook_name": hook_name(site),
            "context_size": provenance["context_length"],
            "prepend_bos": provenance["bos"],
            "made_by": dictionary.meta["created_by"],
            "sae_lens_version": WRITTEN_FOR,
            "layer_names": common.layer_naming(dictionary),
        },
    }
    weights = {
        "W_enc": np.ascontiguousarray(dictionary.W_enc),
        "b_enc": common.encoder_bias(dictionary, pre_bias),
        "W_dec": np.ascontiguousarray(dictionary.W_dec),
        "b_dec": dictionary.b_dec,
        **({} if topk else {"threshold": dictionary.threshold}),
    }
    return {CONFIG: common.json_bytes(config), WEIGHTS: save(weights)}
