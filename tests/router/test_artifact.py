import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.artifact import PARTS, DamagedArtifact, fingerprint_of, pack, unpack
from router.version import RouterVersion
from router.version_cache import read_cache, write_cache
from tests.router.samples import build_version

VERSION = build_version(values=True)
ARTIFACT = pack(VERSION)


def same(a: RouterVersion, b: RouterVersion) -> bool:
    arrays = ("vectors", "owners", "mass", "values")
    return (
        (a.fleet, a.parameters, a.encoder, dict(a.training)) == (b.fleet, b.parameters, b.encoder, dict(b.training))
        and all(np.array_equal(getattr(a.centroids, n), getattr(b.centroids, n)) for n in arrays)
        and all(np.array_equal(a.splitter[n], b.splitter[n]) for n in {*a.splitter, *b.splitter})
    )


def test_what_was_packed_comes_back():
    version = replace(VERSION, splitter={"w": np.ones((2, 3), np.float32), "a": np.zeros(1, np.float32)})
    artifact = pack(version)
    back = unpack(artifact.manifest, artifact.parts, fingerprint=artifact.fingerprint, number=3)
    assert same(version, back)
    assert (back.number, back.fingerprint) == (3, artifact.fingerprint)


def test_the_same_version_gives_the_same_bytes_whatever_its_number():
    again = pack(replace(build_version(values=True), number=99, fingerprint="x"))
    assert again == ARTIFACT
    assert pack(unpack(ARTIFACT.manifest, ARTIFACT.parts)) == ARTIFACT


def test_the_order_of_the_arrays_does_not_matter():
    w, a = np.ones((2, 3), np.float32), np.zeros(1, np.float32)
    assert pack(replace(VERSION, splitter={"w": w, "a": a})) == pack(replace(VERSION, splitter={"a": a, "w": w}))


def test_another_parent_is_another_version():
    assert pack(VERSION, parent="f" * 64).fingerprint != ARTIFACT.fingerprint


@pytest.mark.fault("corrupt part")
@settings(max_examples=200, deadline=None)
@given(data=st.data(), part=st.sampled_from(PARTS))
def test_a_flipped_bit_anywhere_is_refused(data, part):
    at = data.draw(st.integers(0, len(ARTIFACT.parts[part]) - 1))
    damaged = bytearray(ARTIFACT.parts[part])
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedArtifact) as error:
        unpack(ARTIFACT.manifest, {**ARTIFACT.parts, part: bytes(damaged)})
    assert error.value.part == part


@pytest.mark.fault("corrupt part")
@settings(max_examples=50, deadline=None)
@given(data=st.data(), part=st.sampled_from(PARTS))
def test_a_truncated_part_is_refused(data, part):
    kept = data.draw(st.integers(0, len(ARTIFACT.parts[part]) - 1))
    with pytest.raises(DamagedArtifact, match=part):
        unpack(ARTIFACT.manifest, {**ARTIFACT.parts, part: ARTIFACT.parts[part][:kept]})


@pytest.mark.fault("corrupt part")
@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_refused(part):
    with pytest.raises(DamagedArtifact, match=part):
        unpack(ARTIFACT.manifest, {name: data for name, data in ARTIFACT.parts.items() if name != part})


def test_an_additional_part_is_refused():
    with pytest.raises(DamagedArtifact, match="more"):
        unpack(ARTIFACT.manifest, {**ARTIFACT.parts, "more": b""})


@pytest.mark.parametrize("part", PARTS[:3])
def test_a_part_of_another_version_is_refused(part):
    other = pack(build_version(seed=5, values=True, names=["a", "b", "c", "d", "e"])).parts[part]
    with pytest.raises(DamagedArtifact, match=part):
        unpack(ARTIFACT.manifest, {**ARTIFACT.parts, part: other})


@pytest.mark.fault("corrupt part")
def test_swapped_parts_are_refused():
    a, b = PARTS[1], PARTS[2]
    with pytest.raises(DamagedArtifact):
        unpack(ARTIFACT.manifest, {**ARTIFACT.parts, a: ARTIFACT.parts[b], b: ARTIFACT.parts[a]})


@pytest.mark.parametrize(
    "change", [{"encoder": "other"}, {"format": "trimtab-router-2"}, {"parts": {}}, {"parts": 3}, {"more": 1}]
)
def test_a_changed_manifest_is_refused(change):
    manifest = {**ARTIFACT.manifest, **change}
    with pytest.raises(DamagedArtifact, match="manifest"):
        unpack(manifest, ARTIFACT.parts, fingerprint=ARTIFACT.fingerprint)


@pytest.mark.parametrize("entry", [None, {}, {"bytes": "x", "sha256": 1}, 7])
def test_a_manifest_with_garbage_inside_is_refused_even_where_its_hash_fits(entry):
    manifest = {**ARTIFACT.manifest, "parts": dict.fromkeys(PARTS, entry)}
    with pytest.raises(DamagedArtifact):
        unpack(manifest, ARTIFACT.parts, fingerprint=fingerprint_of(manifest))


CENTROIDS = VERSION.centroids


@pytest.mark.parametrize(
    ("centroids", "problem"),
    [
        (replace(CENTROIDS, vectors=CENTROIDS.vectors * 2), "length one"),
        (replace(CENTROIDS, vectors=CENTROIDS.vectors * np.float32("nan")), "finite"),
        (replace(CENTROIDS, owners=CENTROIDS.owners * 0.5), "sum to one"),
        (replace(CENTROIDS, owners=CENTROIDS.owners[:, :3]), "shapes"),
        (replace(CENTROIDS, mass=CENTROIDS.mass[:3]), "shapes"),
        (replace(CENTROIDS, mass=-CENTROIDS.mass), "negative"),
        (replace(CENTROIDS, values=CENTROIDS.mass), "values"),
    ],
)
def test_centroids_that_make_no_sense_are_never_packed(centroids, problem):
    with pytest.raises(DamagedArtifact, match=problem):
        pack(replace(VERSION, centroids=centroids))


@pytest.mark.parametrize(
    "change",
    [
        {"routes": ("a", "b", "c", "d", "e")},
        {"success": (0.5,)},
        {"cost": ((1.0,),) * 5},
        {"length_bins": (240, 60)},
        {"beta": float("nan")},
        {"beta": 0.0},
        {"neighbours": 0},
    ],
)
def test_parameters_that_make_no_sense_are_never_packed(change):
    with pytest.raises(DamagedArtifact, match="parameters"):
        pack(replace(VERSION, parameters=replace(VERSION.parameters, **change)))


def test_the_cache_gives_back_what_was_written(tmp_path):
    path = tmp_path / "cache" / "router-version"
    assert read_cache(path) is None
    write_cache(path, ARTIFACT, number=12)
    back = read_cache(path)
    assert same(back, VERSION)
    assert back.number == 12
    assert [file.name for file in path.parent.iterdir()] == ["router-version"]


def test_a_cache_that_cannot_be_written_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "cache" / "router-version"
    (path / "in the way").mkdir(parents=True)
    for _ in range(3):
        with pytest.raises(OSError, match="directory"):
            write_cache(path, ARTIFACT, number=12)
    assert [file.name for file in path.parent.iterdir()] == ["router-version"]


def test_what_a_killed_process_had_begun_to_write_goes_and_what_another_one_writes_stays(tmp_path):
    killed, living, other = (tmp_path / f"router-version.{name}" for name in ("a1b2c3d4", "e5f6g7h8", "bak"))
    for file in (killed, living, other):
        file.write_bytes(b"a part")
    for file in (killed, other):
        os.utime(file, (0, 0))
    write_cache(tmp_path / "router-version", ARTIFACT, number=12)
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["router-version", "router-version.bak", "router-version.e5f6g7h8"]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 20_000), length=st.none() | st.integers(0, 5000))
def test_a_damaged_cache_is_refused(tmp_path_factory, at, length):
    path = tmp_path_factory.mktemp("cache") / "router-version"
    write_cache(path, ARTIFACT, number=12)
    data = bytearray(path.read_bytes())
    header = data.index(b"\n")
    at = header + 1 + at % (len(data) - header - 1)
    data[at] ^= 4
    path.write_bytes(data[:length])
    with pytest.raises(DamagedArtifact):
        read_cache(path)
