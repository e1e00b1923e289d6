"""SAEs on disk as their libraries write them, made by hand, and what they must compute."""

import json

import numpy as np
from safetensors.numpy import save_file

D, F, K = 16, 48, 5


def weights(seed=0, norms=False):
    """A small SAE, W_enc [D, F] as the libraries have it; its decoder rows have norm 1, or not."""
    rng = np.random.default_rng(seed)
    W_dec = rng.normal(size=(F, D)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    if norms:
        W_dec *= rng.uniform(0.5, 2, (F, 1)).astype(np.float32)
    return {
        "W_enc": np.ascontiguousarray(W_dec.T + 0.1 * rng.normal(size=(D, F)), np.float32),
        "b_enc": (0.3 * rng.normal(size=F)).astype(np.float32),
        "W_dec": W_dec,
        "b_dec": rng.normal(size=D).astype(np.float32),
        "threshold": rng.uniform(0.2, 2.0, F).astype(np.float32),
    }


def rows(n=200, seed=5):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32) * 3


def slow(w, x, *, k=None, threshold=0.0, taken=0.0, rescale=False):
    """Activations and rows in float64, by the libraries' own formula."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    norm = np.linalg.norm(w["W_dec"], axis=1) if rescale else 1.0
    pre = ((x - taken * w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm
    z = np.where((pre > 0) & (pre > threshold), pre, 0.0)
    if k is not None:
        z[z < np.sort(z, axis=1)[:, [-k]]] = 0
    return z, (z / norm) @ w["W_dec"] + w["b_dec"]


def write_sae_lens(folder, w, architecture, **config):
    folder.mkdir(parents=True, exist_ok=True)
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    names += ["threshold"] if architecture == "jumprelu" else []
    save_file({name: w[name] for name in names}, folder / "sae_weights.safetensors")
    values = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": "tiny", "hook_name": "blocks.3.hook_resid_post"},
    }
    if architecture == "topk":
        values["k"] = K
    (folder / "cfg.json").write_text(json.dumps(values | config), encoding="utf-8")
    return folder


def write_sparsify(folder, w, **config):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "encoder.weight": np.ascontiguousarray(w["W_enc"].T),
        "encoder.bias": w["b_enc"],
        "W_dec": w["W_dec"],
        "b_dec": w["b_dec"],
    }
    save_file(arrays, folder / "sae.safetensors")
    values = {"activation": "topk", "num_latents": F, "k": K, "d_in": D, "transcode": False}
    (folder / "cfg.json").write_text(json.dumps(values | config), encoding="utf-8")
    return folder


LINEAR = {
    "AutoEncoderTopK": "b_dec",
    "BatchTopKSAE": "b_dec",
    "AutoEncoder": "bias",
    "AutoEncoderNew": "decoder.bias",
}


def write_dictionary_learning(folder, w, kind, **trainer):
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    if kind in LINEAR:
        state = {
            "encoder.weight": w["W_enc"].T,
            "encoder.bias": w["b_enc"],
            "decoder.weight": w["W_dec"].T,
            LINEAR[kind]: w["b_dec"],
        }
    else:
        state = {name: w[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if kind in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        state |= {"k": np.array(K, np.int32), "threshold": np.array(0.7, np.float32)}
    if kind == "MatryoshkaBatchTopKSAE":
        state["group_sizes"] = np.array([F // 2, F // 2])
    if kind == "JumpReluAutoEncoder":
        state["threshold"] = w["threshold"]
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    torch.save(tensors, folder / "ae.pt")
    values = {"dict_class": kind, "k": K, "layer": 3, "lm_name": "tiny"}
    values |= {"submodule_name": "resid_post_layer_3"} | trainer
    (folder / "config.json").write_text(json.dumps({"trainer": values}), encoding="utf-8")
    return folder


def write_gemma_scope(root, w, kind="npz", place="layer_3/width_48/average_l0_9"):
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "npz":
        np.savez(folder / "params.npz", **w)
    else:
        lower = {name.replace("W_", "w_"): value for name, value in w.items()}
        save_file(lower, folder / "params.safetensors")
    return folder
