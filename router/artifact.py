"""RouterVersion to and from bytes: safetensors and canonical JSON parts under a manifest that names their sha256.

Nothing is parsed before its hash is checked: a damaged FAISS or safetensors file often loads without complaint and then
answers otherwise. The same version always gives the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import safetensors.numpy

from router.fleet import Fleet, fleet_fingerprint, fleet_from_json, fleet_to_json
from router.version import Array, Centroids, RouterParameters, RouterVersion

FORMAT = "trimtab-router-1"
PARTS = ("centroids.safetensors", "fleet.json", "parameters.json", "splitter.safetensors", "training.json")
_TOLERANCE = 1e-3


class DamagedArtifact(ValueError):
    """A stored router version is damaged and was not loaded; activate another one or publish it anew."""

    def __init__(self, part: str, problem: str) -> None:
        self.part, self.problem = part, problem
        super().__init__(f"{self.__doc__} Part {part}: {problem}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A packed version: the manifest, the bytes of each part by name, and the sha256 of the manifest."""

    manifest: Mapping[str, Any]
    parts: Mapping[str, bytes]
    fingerprint: str


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, no blanks and no NaN, UTF-8: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """sha256 of the canonical manifest, hexadecimal: the name of a version by its content."""
    return hashlib.sha256(canonical_json(manifest)).hexdigest()


def pack(version: RouterVersion, *, parent: str = "") -> Artifact:
    """Pack a version; ``number`` and ``fingerprint`` are no part of the content.

    Args:
        version: what is packed. It is checked as it will be at load, so that nothing broken is ever published.
        parent: fingerprint of the version that it was made from.

    Raises:
        DamagedArtifact: the version's own shapes or numbers are wrong.
    """
    centroids = version.centroids
    _check(version)
    vectors = {"vectors": centroids.vectors, "owners": centroids.owners, "mass": centroids.mass}
    if centroids.values is not None:
        vectors["values"] = centroids.values
    parts = {
        "centroids.safetensors": _tensors(vectors),
        "fleet.json": fleet_to_json(version.fleet).encode(),
        "parameters.json": canonical_json(asdict(version.parameters)),
        "splitter.safetensors": _tensors(version.splitter),
        "training.json": canonical_json(dict(version.training)),
    }
    manifest = {
        "format": FORMAT,
        "encoder": version.encoder,
        "fleet": fleet_fingerprint(version.fleet),
        "parent": parent,
        "parts": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in parts.items()
        },
    }
    return Artifact(manifest=manifest, parts=parts, fingerprint=fingerprint_of(manifest))


def unpack(
    manifest: Mapping[str, Any], parts: Mapping[str, bytes], *, fingerprint: str | None = None, number: int = 0
) -> RouterVersion:
    """Check every part against the manifest, then parse and validate.

    Args:
        manifest: as ``pack`` made it.
        parts: bytes by name.
        fingerprint: what the manifest's fingerprint must be, where it is known from elsewhere.
        number: the number under which the version is registered.

    Raises:
        DamagedArtifact: naming the first part that is wrong.
    """
    verify(manifest, parts, fingerprint=fingerprint)
    fleet = _parse("fleet.json", parts, fleet_from_json)
    if fleet_fingerprint(fleet) != manifest.get("fleet"):
        raise DamagedArtifact("fleet.json", "the manifest names another fleet")
    version = RouterVersion(
        fleet=fleet,
        parameters=_parse("parameters.json", parts, _parameters),
        centroids=_parse("centroids.safetensors", parts, _centroids),
        splitter=_parse("splitter.safetensors", parts, safetensors.numpy.load),
        encoder=manifest["encoder"],
        number=number,
        fingerprint=fingerprint_of(manifest),
        training=_parse("training.json", parts, json.loads),
    )
    _check(version)
    return version


def verify(manifest: Mapping[str, Any], parts: Mapping[str, bytes], *, fingerprint: str | None = None) -> None:
    """Check format, fingerprint, names, sizes and hashes; nothing is parsed.

    Raises:
        DamagedArtifact: naming the first part that is wrong.
    """
    if manifest.get("format") != FORMAT:
        raise DamagedArtifact("manifest", f"the format is not {FORMAT}")
    if fingerprint is not None and fingerprint_of(manifest) != fingerprint:
        raise DamagedArtifact("manifest", "its sha256 is not the version's fingerprint")
    listed = manifest.get("parts")
    if not isinstance(listed, Mapping) or set(listed) != set(PARTS) or not isinstance(manifest.get("encoder"), str):
        raise DamagedArtifact("manifest", "it does not list the parts of a router version")
    for name in PARTS:
        data, entry = parts.get(name), listed[name]
        if not isinstance(entry, Mapping):
            raise DamagedArtifact("manifest", f"it does not describe {name}")
        if data is None:
            raise DamagedArtifact(name, "it is missing")
        if len(data) != entry.get("bytes"):
            raise DamagedArtifact(name, f"it has {len(data)} bytes, not what the manifest says")
        if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
            raise DamagedArtifact(name, "its sha256 is not that of the manifest")
    if set(parts) != set(PARTS):
        raise DamagedArtifact(sorted(set(parts) - set(PARTS))[0], "the manifest does not know it")


def _tensors(arrays: Mapping[str, Array]) -> bytes:
    data: bytes = safetensors.numpy.save(
        {name: np.ascontiguousarray(arrays[name], dtype="<f4") for name in sorted(arrays)}
    )
    return data


def _parse(name: str, parts: Mapping[str, bytes], read: Any) -> Any:
    try:
        return read(parts[name])
    except (ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise DamagedArtifact(name, f"it cannot be read ({type(error).__name__})") from None


def _centroids(data: bytes) -> Centroids:
    return Centroids(**safetensors.numpy.load(data))


def _parameters(data: bytes) -> RouterParameters:
    return RouterParameters(**{key: _tuples(value) for key, value in json.loads(data).items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _check(version: RouterVersion) -> None:
    """What the scoring relies on: shapes, finite numbers, unit vectors, rows that sum to one, routes of the fleet."""
    _check_parameters(version.parameters, fleet=version.fleet)
    _check_centroids(version.centroids, R=len(version.parameters.routes))
    for name, array in version.splitter.items():
        if not np.isfinite(array).all():
            raise DamagedArtifact("splitter.safetensors", f"{name} has numbers that are not finite")


def _check_parameters(parameters: RouterParameters, *, fleet: Fleet) -> None:
    def refuse(problem: str) -> None:
        raise DamagedArtifact("parameters.json", problem)

    R, bins = len(parameters.routes), len(parameters.length_bins) + 1
    if sorted(parameters.routes) != sorted(fleet.names) or fleet.fallback not in fleet.names:
        refuse("its routes are not those of the fleet")
    if len(parameters.success) != R:
        refuse("success does not have one number a route")
    for name in ("cost", "latency_ms"):
        table = getattr(parameters, name)
        if len(table) != R or any(len(row) != bins for row in table):
            refuse(f"{name} does not have one number a route and length bin")
    if list(parameters.length_bins) != sorted(set(parameters.length_bins)):
        refuse("length_bins do not increase")
    for field in fields(parameters):
        if field.name != "routes" and not np.isfinite(np.array(getattr(parameters, field.name), dtype=float)).all():
            refuse(f"{field.name} is not finite")
    if parameters.neighbours < 1 or parameters.beta <= 0:
        refuse("neighbours and beta must be positive")


def _check_centroids(centroids: Centroids, *, R: int) -> None:
    def refuse(problem: str) -> None:
        raise DamagedArtifact("centroids.safetensors", problem)

    V, Q, mass, values = centroids.vectors, centroids.owners, centroids.mass, centroids.values
    if V.ndim != 2 or Q.shape != (len(V), R) or mass.shape != (len(V),):
        refuse("vectors, owners and mass do not have the shapes (M, D), (M, R) and (M,)")
    if values is not None and values.shape != Q.shape:
        refuse("values do not have the shape of owners")
    for array in (V, Q, mass, *(() if values is None else (values,))):
        if not np.isfinite(array).all():
            refuse("some numbers are not finite")
    if not np.allclose(np.linalg.norm(V.astype(np.float64), axis=1), 1.0, atol=_TOLERANCE):
        refuse("some vectors do not have length one")
    if (Q < 0).any() or not np.allclose(Q.sum(axis=1), 1.0, atol=_TOLERANCE):
        refuse("some rows of owners do not sum to one")
    if (mass < 0).any():
        refuse("some masses are negative")
