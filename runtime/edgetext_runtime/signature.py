"""What the step graph must look like from outside: its inputs and outputs, their types and shapes."""

from typing import Any

from .manifest import Manifest, damaged

_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int64": "tensor(int64)"}


_Shape = tuple[int | str, ...]
_Spec = dict[str, tuple[str, _Shape]]
_INPUTS: _Spec = {
    "tokens": ("int64", ("batch", "time")),
    "positions": ("int64", ("n",)),
    "temperature": ("float32", (1,)),
    "top_k": ("int64", (1,)),
    "top_p": ("float32", (1,)),
    "min_p": ("float32", (1,)),
    "uniform": ("float32", ("batch",)),
}
_CACHE_INPUTS: _Spec = {"past_length": ("int64", (1,))}


def check_signature(found_inputs: list[Any], found_outputs: list[Any], manifest: Manifest) -> None:
    """Compare the inputs and outputs of a loaded graph with those its manifest implies.

    Args:
        found_inputs: each with name, type and shape, as ``onnxruntime.InferenceSession`` has them.
        found_outputs: likewise.
        manifest: what the graph should be.

    Raises:
        BundleError: naming the input or output that is missing, unexpected, or of another type or shape.
    """
    inputs = _INPUTS | (_CACHE_INPUTS if manifest.has_cache else {})
    outputs: _Spec = {
        "next_token": ("int64", ("batch", 1)),
        "logits": ("float32", ("batch", "n", manifest.vocab_size)),
    }
    past: _Spec = {entry.input: (entry.dtype, entry.shape) for entry in manifest.state}
    present: _Spec = {entry.output: (entry.dtype, entry.shape) for entry in manifest.state if entry.output}
    _compare("input", inputs, past, found_inputs, manifest.context_length)
    _compare("output", outputs, present, found_outputs, manifest.context_length)


def _compare(side: str, fixed: _Spec, state: _Spec, found: list[Any], context: int | None) -> None:
    if clash := sorted(set(fixed) & set(state)):
        raise damaged(f"manifest.json: state takes the name of another {side}, {clash[0]!r}")
    expected = fixed | state
    if odd := sorted({value.name for value in found} ^ set(expected)):
        raise damaged(f"model.onnx: its {side}s are not those of the manifest ({', '.join(odd)})")
    for value in found:
        dtype, shape = expected[value.name]
        if value.type != _TYPES[dtype] or not _fits(value.shape, shape, context):
            raise damaged(
                f"model.onnx: {side} {value.name!r} is {value.type} {value.shape}, "
                f"the manifest says {_TYPES[dtype]} {list(shape)}"
            )


def _fits(found: list[Any], expected: _Shape, context: int | None) -> bool:
    """Whether a graph's shape agrees: the same rank, and the same size wherever both give one."""
    sizes = [context if axis == "context" else axis for axis in expected]
    return len(found) == len(sizes) and all(
        f == e or not (isinstance(f, int) and isinstance(e, int)) for f, e in zip(found, sizes, strict=True)
    )
