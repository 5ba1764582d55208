"""Rows and clips that lie elsewhere: in memory, behind file:// and http:// addresses, in the shards of a WebDataset."""

import io
import json
import tarfile

import fsspec
import pytest
from loopback_clips import serve_clips

from hf_emotion.cli import main
from hf_emotion.curation.stages import Runner
from hf_emotion.curation.stages import Settings as ReviewSettings
from hf_emotion.data.files import DataError
from hf_emotion.data.remote import local_copy, local_media
from hf_emotion.data.rows import read_rows
from hf_emotion.evaluation import evaluate
from hf_emotion.processing.media import MediaError
from hf_emotion.training.cache import is_unchanged, key_of, root_of, stamp_of

ROW = {"id": "a", "video": "memory://store/a.mp4", "audio": None, "utterances": None}


@pytest.fixture
def store():
    """`memory://store`, with a clip and tables that name it."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe("/store/a.mp4", b"a clip")
    system.pipe("/store/rows.jsonl", b'{"id": "a", "video": "a.mp4", "label": "happy"}\n')
    yield system
    system.store.clear()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_are_read_from_a_store_and_relative_clips_lie_beside_them(suffix, store):
    if suffix == "parquet":
        import pyarrow
        from pyarrow import parquet

        content = io.BytesIO()
        parquet.write_table(pyarrow.table({"id": ["a"], "video": ["a.mp4"], "label": ["happy"]}), content)
        store.pipe("/store/rows.parquet", content.getvalue())
    [row] = read_rows(f"memory://store/rows.{suffix}", allow_urls=True)
    assert (row["video"], row["label"]) == ("memory://store/a.mp4", "happy")
    [row] = read_rows(f"memory://store/rows.{suffix}", media_root="memory://clips", allow_urls=True)
    assert row["video"] == "memory://clips/a.mp4"


def test_no_address_is_read_without_consent(store, tmp_path):
    with pytest.raises(DataError, match="this is an address; add --allow-urls"):
        read_rows("memory://store/rows.jsonl")
    table = tmp_path / "rows.jsonl"
    table.write_text('{"id": "a", "video": "memory://store/a.mp4"}\n')
    with pytest.raises(DataError, match=r"row 'a' names 'memory://store/a\.mp4'; add --allow-urls"):
        read_rows(table)
    assert read_rows(table, allow_urls=True)[0]["video"] == "memory://store/a.mp4"
    with pytest.raises(MediaError, match="only with allow_urls=True"), local_media(ROW):
        pass


def test_a_name_that_leads_out_of_the_store_is_refused(store):
    store.pipe("/store/rows.jsonl", b'{"id": "a", "video": "../secret.mp4"}\n')
    with pytest.raises(DataError, match="leads out of memory://store"):
        read_rows("memory://store/rows.jsonl", allow_urls=True)


def test_a_clip_is_here_only_while_it_is_worked_on(store, tmp_path):
    with local_media(ROW, allow_urls=True) as local:
        path = local["video"]
        assert path.endswith("a.mp4")
        with open(path, "rb") as file:
            assert file.read() == b"a clip"
    with pytest.raises(FileNotFoundError), open(path, "rb"):
        pass
    (tmp_path / "b.mp4").write_bytes(b"a file")
    with local_copy(f"file://{tmp_path}/b.mp4") as copy:
        assert copy.read_bytes() == b"a file"
    with pytest.raises(MediaError, match=r"'memory://store/none\.mp4' cannot be read"):
        local_copy("memory://store/none.mp4").__enter__()


def test_a_clip_behind_http_is_described_and_named_by_its_address(tmp_path):
    def describe(clips, utterances, question):
        with open(clips[0], "rb") as file:
            return [{"clip": clips[0], "description": file.read().decode()}]

    server = serve_clips(b"served")
    try:
        rows = [{"id": name, "video": f"{server.url}/{name}.mp4"} for name in ("clip", "none")]
        path = tmp_path / "results.jsonl"
        allowed = list(evaluate.predict(rows, describe, path, {}, batch_size=2, allow_urls=True))
        assert (allowed[0]["clip"], allowed[0]["description"]) == (f"{server.url}/clip.mp4", "served")
        assert "cannot be read" in allowed[1]["error"]
        seen = len(server.seen)
        [refused] = evaluate.predict(rows[:1], describe, tmp_path / "other.jsonl", {})
        assert "only with allow_urls=True" in refused["error"]
        assert len(server.seen) == seen
    finally:
        server.shutdown()


def test_features_of_a_remote_clip_are_those_of_its_address_until_the_store_has_another(store):
    assert json.loads(key_of(ROW, root_of([ROW])))[0] == {"video": ROW["video"]}
    stamp = stamp_of(ROW["video"])
    assert is_unchanged(ROW["video"], stamp)
    store.pipe("/store/a.mp4", b"another clip")
    assert not is_unchanged(ROW["video"], stamp)


def test_a_review_reads_a_clip_from_a_store(store, tmp_path):
    row = {"id": "a", "source": None, "label": "happy", **ROW}
    failed = Runner(tmp_path, {}, ReviewSettings()).run(row)
    assert "only with allow_urls=True" in failed.reason
    failed = Runner(tmp_path, {}, ReviewSettings(), allow_urls=True).run(row)
    assert failed.status == "failed"  # it was fetched, and is no film
    assert "allow_urls" not in failed.reason


def test_shards_of_a_webdataset_become_rows_and_are_unpacked_once(tmp_path, monkeypatch):
    shard = tmp_path / "train-0.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("x/one", "two"):
            about = json.dumps({"label": "happy", "id": name}).encode()
            for ending, content in (("wav", name.encode()), ("json", about), ("txt", b"hello")):
                entry = tarfile.TarInfo(f"{name}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(DataError, match="--media-root FOLDER is needed"):
        read_rows(shard)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = read_rows(shard, media_root=tmp_path / "clips")
    assert [(row["id"], row["label"], row["subtitle"]) for row in rows] == [
        ("x/one", "happy", "hello"),
        ("two", "happy", "hello"),
    ]
    for row in rows:
        with open(row["audio"], "rb") as file:
            assert file.read().decode() == row["id"]
    shard.unlink()
    assert read_rows(shard, media_root=tmp_path / "clips") == rows


def test_the_command_line_asks_for_consent(store, tmp_path, capsys):
    data, output = "memory://store/rows.jsonl", str(tmp_path / "out.json")
    assert main(["export", "llama-factory", "--data", data, "--output", output]) == 2
    assert "--allow-urls" in capsys.readouterr().err
