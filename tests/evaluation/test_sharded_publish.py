"""Names and evaluation over every mesh are those of one device, ties included."""

import jax.numpy as jnp
import numpy as np
import pytest

from vasae_jax.activations import TopK
from vasae_jax.config import MeshConfig, SAEConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.evaluation.evaluate import evaluate_rows as evaluate
from vasae_jax.evaluation.evaluate import measure_program
from vasae_jax.evaluation.metrics import NearestAnchors
from vasae_jax.names.by_embedding import nearest_tokens
from vasae_jax.stream.source import Batch

MESHES = [(1, 8), (2, 4), (4, 2), (8, 1)]
F, V, D, K, ROWS = 64, 50, 8, 6, 96


@pytest.mark.parametrize("mesh", MESHES)
def test_names_over_a_mesh_are_those_of_one_device(mesh):
    rng = np.random.default_rng(0)
    anchors = rng.integers(-2, 3, (V, D)).astype(np.float32)  # many equal rows and directions
    w_dec = rng.integers(-2, 3, (F - 3, D)).astype(np.float32)  # not a multiple of the devices
    w_dec[5] = 0
    one = nearest_tokens(w_dec, anchors, 7)
    many = nearest_tokens(w_dec, anchors, 7, mesh=make_mesh(MeshConfig(*mesh)))
    np.testing.assert_array_equal(many.ids, one.ids)
    np.testing.assert_array_equal(many.cosines, one.cosines)


def make_params():
    """Small whole numbers, so that equal activations abound and sums are exact."""
    rng = np.random.default_rng(1)
    W_dec = rng.integers(-2, 3, (F, D)).astype(np.float32)
    W_dec[F // 2 :] = W_dec[: F // 2]
    ones = np.ones(D, np.float32)
    return {"W_enc": W_dec, "b_enc": np.zeros(F, np.float32), "W_dec": W_dec, "b_dec": ones}


def make_batches():
    rng = np.random.default_rng(2)
    for start in (0, ROWS):
        x = rng.integers(-3, 4, (ROWS, D)).astype(np.float32)
        docs = np.arange(start, start + ROWS, dtype=np.int32)
        if start:
            x[80:], docs[80:] = 0, -1
        yield Batch(x, rng.random(ROWS) > 0.2, docs)


def evaluation(mesh=None, *, screened=False):
    params = {name: jnp.asarray(value) for name, value in make_params().items()}
    anchors = np.random.default_rng(3).normal(size=(V, D)).astype(np.float32)
    by = NearestAnchors(
        "made up", *(part[:, 0] for part in nearest_tokens(params["W_dec"], anchors, 1)), V
    )
    sae = SAEConfig(k=K, pre_bias=1.0)
    found = evaluate(params, sae, make_batches(), (by,), mesh=mesh, screened=screened)
    return found.to_json()


@pytest.mark.parametrize("mesh", MESHES)
def test_evaluation_over_a_mesh_is_that_of_one_device(mesh):
    assert_close(evaluation(make_mesh(MeshConfig(*mesh))), evaluation())


@pytest.mark.parametrize("mesh", [(1, 1), (2, 4)])
def test_an_evaluation_by_the_screen_is_that_of_the_whole_product(mesh):
    assert evaluation(make_mesh(MeshConfig(*mesh)), screened=True) == evaluation(
        make_mesh(MeshConfig(*mesh))
    )


def assert_close(found, expected):
    """Equal counts and names; sums over devices may differ in float32 rounding."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            assert_close(left, right)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("mesh", MESHES)
def test_the_winners_of_a_row_are_those_of_one_device(mesh):
    batch = next(make_batches())
    weights = np.stack([batch.keep, np.ones_like(batch.keep)])
    programs = [measure_program(make_mesh(MeshConfig(*m)), TopK(K), K, 1.0) for m in (mesh, (1, 1))]
    many, one = (program(make_params(), batch.x, weights) for program in programs)
    np.testing.assert_array_equal(many.values, one.values)
    np.testing.assert_array_equal(many.ids, one.ids)
    assert (np.diff(one.values, axis=1) == 0).any()  # there were ties to break
