"""The method in plain NumPy float64: the slow twin that every fast path must equal."""

import numpy as np


def top_k(pre, k):
    """ids [B, k], largest first, ties by lowest id."""
    return np.argsort(-pre, axis=1, kind="stable")[:, :k]


def forward(params, x, k, pre_bias):
    """x_hat [B, d], z [B, F], pre [B, F] from feature-major params."""
    pre = (x - pre_bias * params["b_dec"]) @ params["W_enc"].T + params["b_enc"]
    rectified = np.maximum(pre, 0)
    z = np.zeros_like(pre)
    rows = np.arange(len(x))[:, None]
    ids = top_k(rectified, k)
    z[rows, ids] = rectified[rows, ids]
    return z @ params["W_dec"] + params["b_dec"], z, pre


def unit(rows):
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm == 0, 1, norm)


def alignment(W_dec, anchors, mode, weight, target_cosine=1.0):
    """sum_i w_i min(s_i, target_cosine) and its gradient [F, d]; anchors are unit rows.

    ``weight`` sums to 1.

    ``target_cosine`` is for the mode nearest alone.
    """
    norm = np.linalg.norm(W_dec, axis=1, keepdims=True)
    d = W_dec / norm
    cos = d @ anchors.T
    count = 1 if mode == "nearest" else min(10, len(anchors))
    ids = top_k(cos, count)
    c = np.take_along_axis(cos, ids, axis=1)
    soft = np.exp(c) / np.exp(c).sum(axis=1, keepdims=True)
    if mode == "nearest":
        s, ds = np.minimum(c[:, 0], target_cosine), (c < target_cosine).astype(c.dtype)
    elif mode == "logsumexp":
        s, ds = np.log(np.exp(c).sum(axis=1)), soft
    else:
        s = (soft * c).sum(axis=1)
        ds = soft * (1 + c - s[:, None])
    pull = np.einsum("fc,fcd->fd", ds, anchors[ids])
    along = (pull * d).sum(axis=1, keepdims=True)
    return float(weight @ s), weight[:, None] * (pull - along * d) / norm


def loss_and_grads(
    params,
    x,
    keep,
    *,
    k,
    pre_bias,
    unit_of_loss,
    lam,
    anchors,
    mode,
    weight,
    target_cosine=1.0,
    relative=False,
    pulled="W_dec",
):
    """The training loss and the gradient of every parameter."""
    x_hat, z, _ = forward(params, x, k, pre_bias)
    residual = (x_hat - x) * keep[:, None]
    scale = 1 / (keep.sum() * unit_of_loss)
    loss = scale * (residual**2).sum()
    g = 2 * scale * residual
    d_pre = (g @ params["W_dec"].T) * (z > 0)
    grads = {
        "W_dec": z.T @ g,
        "W_enc": d_pre.T @ (x - pre_bias * params["b_dec"]),
        "b_enc": d_pre.sum(axis=0),
        "b_dec": g.sum(axis=0) - pre_bias * (d_pre @ params["W_enc"]).sum(axis=0),
    }
    if lam:
        lam = lam * loss if relative else lam
        aligned, pull = alignment(params[pulled], anchors, mode, weight, target_cosine)
        loss -= lam * aligned
        grads[pulled] -= lam * pull
    return loss, grads


def across(grad, rows):
    """What of each row of grad is at right angles to the unit row of rows."""
    return grad - (grad * rows).sum(axis=1, keepdims=True) * rows


def adam(params, grads, m, v, t, optim):
    """torch.optim.Adam's update number t (from 1), in place of m and v; new params."""
    b1, b2 = optim.b1, optim.b2
    out = {}
    for name, g in grads.items():
        lr = optim.lr * (optim.encoder_lr_ratio if name in ("W_enc", "b_enc") else 1.0)
        m[name] = b1 * m[name] + (1 - b1) * g
        v[name] = b2 * v[name] + (1 - b2) * g**2
        m_hat, v_hat = m[name] / (1 - b1**t), v[name] / (1 - b2**t)
        out[name] = params[name] - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
    return out
