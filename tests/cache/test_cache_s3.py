"""The same cache in an S3 bucket: TensorStore's S3 driver against moto's server on loopback."""

import json
from dataclasses import replace

import pytest
from cache_fixtures import append, make_plan, make_rows, make_vocabulary

from vasae_jax.cache import Cache, CacheWriter, verify
from vasae_jax.cache import store as waiting
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.config.presets import embedding
from vasae_jax.training.loop import train
from vasae_jax.utils.errors import UserError

moto = pytest.importorskip("moto.server", reason="needs pip install 'moto[s3,server]'")
boto3 = pytest.importorskip("boto3")


@pytest.fixture(scope="module")
def bucket():
    """An empty bucket, as another client of its server sees it."""
    with pytest.MonkeyPatch.context() as patch:
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        bucket = boto3.resource("s3", endpoint_url=address).create_bucket(Bucket="bucket")
        bucket.stop = server.stop
        yield bucket
        server.stop()


def write(url, share=1.0, finish=True):
    """Append the first ``share`` of the rows of both splits that the cache lacks."""
    plan = make_plan()
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        for split, rows in (
            ("train", make_rows(plan, 300)),
            ("heldout", make_rows(plan, 80, 1, 10_000)),
        ):
            append(writer, split, rows.part(0, int(share * len(rows.tokens))), start=0)
        if finish:
            writer.finish()


@pytest.fixture(scope="module")
def stored(bucket):
    """A complete cache, whose writing was given up once and taken up again."""
    url = "s3://bucket/some/cache"
    write(url, 0.6, finish=False)
    with pytest.raises(UserError, match="unfinished"):
        Cache.open(url)
    write(url)
    return url


def test_s3_holds_the_files_of_a_directory(bucket, stored, tmp_path):
    local = tmp_path / "local"
    write(str(local))
    files = {str(p.relative_to(local)): p.read_bytes() for p in local.rglob("*") if p.is_file()}
    objects = {item.key: item.get()["Body"].read() for item in bucket.objects.all()}
    assert objects == {f"some/cache/{name}": data for name, data in files.items()}
    assert verify(stored) == []
    with pytest.raises(UserError, match="complete cache"):
        write(stored)


def test_a_run_reads_s3_as_it_reads_a_directory(stored, tmp_path):
    write(str(tmp_path / "cache"))
    losses = []
    for number, url in enumerate((stored, str(tmp_path / "cache"))):
        out = train(
            Config(
                data=DataConfig(cache=url, layer=1, batch=32, readers=4, shuffle_chunks=2),
                sae=SAEConfig(d_sae=32, k=3),
                anchor=replace(embedding().anchor, search_fraction=0.1),
                mesh=MeshConfig(1, 1),
                run=RunConfig(out=str(tmp_path / f"run{number}"), steps=4, log_every=1),
            )
        )
        lines = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 4 and losses[0] == losses[1]


def test_damage_in_s3_is_named(bucket, stored):
    name = "train/acts/layers.1.resid_post/c/1/0"
    shard = bucket.Object(f"some/cache/{name}")
    data = shard.get()["Body"].read()
    shard.put(Body=data[:-9] + b"x" + data[-8:])
    assert any(f"{name} has SHA-256" in problem for problem in verify(stored))
    shard.delete()
    assert any(f"{name} is missing" in problem for problem in verify(stored))
    with pytest.raises(UserError, match=r"train/acts/layers\.1\.resid_post"):
        Cache.open(stored).acts(1, "train").read(64, 80)


@pytest.mark.fault
def test_a_server_that_stops_under_its_reader_is_the_cause(bucket, stored, monkeypatch, capsys):
    for name, value in {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"}.items():
        monkeypatch.setitem(waiting.RETRIES, name, value)
    acts = Cache.open(stored).acts(3, "train")
    bucket.stop()  # the last test here: nothing starts it again
    with pytest.raises(UserError, match=r"rows 0 to 300 of .*: .*All 3 retry attempts failed: "):
        acts.read(0, 300)
    assert "request(s) made again" in capsys.readouterr().err
