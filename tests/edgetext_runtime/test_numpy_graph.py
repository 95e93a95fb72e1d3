"""What the numpy backend reads, and what it refuses: a file is understood or a BundleError, never a crash."""

import random
import struct

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from onnx import TensorProto, helper, numpy_helper

from edgetext_runtime import BundleError, SamplingParams
from edgetext_runtime.numpy_session import NumpySession
from edgetext_runtime.onnx_reader import read_graph

VOCAB = 30
PARAMS = SamplingParams(top_k=5, top_p=0.9)


def made(kind):
    model, state = (tiny.lstm_model if kind == "lstm" else tiny.attention_model)(VOCAB)
    return model, tiny.manifest(VOCAB, state)


@pytest.fixture(scope="module", params=["lstm", "attention"])
def model_and_manifest(request):
    return made(request.param)


def edited(model, change):
    proto = onnx.load_from_string(model)
    change(proto.graph)
    return proto.SerializeToString()


def find(graph, operator):
    return next(node for node in graph.node if node.op_type == operator)


def weight(graph, name):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def test_reads_what_onnx_reads(model_and_manifest):
    model, _ = model_and_manifest
    expected, found = onnx.load_from_string(model).graph, read_graph(model)
    assert [node.operator for node in found.nodes] == [node.op_type for node in expected.node]
    for ours, theirs in zip(found.nodes, expected.node, strict=True):
        assert (ours.inputs, ours.outputs) == (tuple(theirs.input), tuple(theirs.output))
        attributes = {a.name: helper.get_attribute_value(a) for a in theirs.attribute}
        assert ours.attributes == {
            name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()
        }
    assert list(found.constants) == [tensor.name for tensor in expected.initializer]
    for tensor in expected.initializer:
        array = numpy_helper.to_array(tensor)
        np.testing.assert_array_equal(found.constants[tensor.name], array, strict=True)
        assert not array.size or not found.constants[tensor.name].flags.writeable
    assert [value.name for value in found.inputs] == [value.name for value in expected.input]
    assert [value.name for value in found.outputs] == [value.name for value in expected.output]


def test_negative_numbers_and_packed_lists():
    node = helper.make_node("Transpose", ["a"], ["b"], perm=[-1, 2**62], axis=-5, epsilon=0.5)
    graph = helper.make_graph([node], "g", [], [], [])
    found = read_graph(helper.make_model(graph).SerializeToString()).nodes[0]
    assert found.attributes == {"perm": (-1, 2**62), "axis": -5, "epsilon": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.node.append(helper.make_node("Identity", ["logits"], ["x"])), "Identity"),
        (lambda g: g.node.append(helper.make_node("Loop", ["top_k"], ["x"], name="evil")), "Loop 'evil'"),
        (
            lambda g: g.node.append(helper.make_node("MatMul", ["x", "head"], ["y"], domain="mine")),
            "of the domain 'mine'",
        ),
        (lambda g: find(g, "TopK").attribute.append(helper.make_attribute("largest", 0)), "TopK"),
        (lambda g: setattr(find(g, "Less"), "op_type", "LessOrEqual"), "LessOrEqual"),
        (lambda g: find(g, "MatMul").input.reverse(), "MatMul '' does not fit"),
        (lambda g: find(g, "Mul").input.append("c"), "Mul"),
        (lambda g: g.node.append(find(g, "Softmax")), "does what another node has done"),
        (lambda g: g.node.append(find(g, "MatMul")), "exists already"),
        (lambda g: g.node.reverse(), "which nothing has written"),
        (lambda g: g.node.remove(find(g, "GatherElements")), "'next_token'"),
        (lambda g: g.initializer.append(weight(g, "head")), "two weights named 'head'"),
        (
            lambda g: weight(g, "head").CopyFrom(
                numpy_helper.from_array(np.ones((3, 4), np.float32), "head")
            ),
            "MatMul",
        ),
        (
            lambda g: weight(g, "head").CopyFrom(numpy_helper.from_array(np.ones((16, 30)), "head")),
            "element type 11",
        ),
        (lambda g: weight(g, "head").dims.append(2**40), "its shape"),
        (lambda g: weight(g, "head").dims.append(-1), "its shape"),
        (lambda g: g.sparse_initializer.append(sparse_tensor()), "sparse"),
    ],
)
def test_what_edgetext_does_not_write_is_refused_by_name(change, message):
    model, manifest = made("lstm")
    with pytest.raises(BundleError, match=message):
        NumpySession(edited(model, change), manifest)


def sparse_tensor():
    return onnx.SparseTensorProto(values=numpy_helper.from_array(np.ones(1, np.float32), "s"), dims=[4])


def test_a_graph_that_only_echoes_its_state_is_refused():
    model, state = tiny.echo_model(VOCAB)
    with pytest.raises(BundleError, match="pip install onnxruntime"):
        NumpySession(model, tiny.manifest(VOCAB, state))


def test_a_graph_of_another_manifest_is_refused():
    model, _ = made("lstm")
    with pytest.raises(BundleError, match="not those of the manifest"):
        NumpySession(model, made("attention")[1])


def test_swapped_states_are_refused():
    model, manifest = made("lstm")

    def swap(graph):
        a, b = (
            node for node in graph.node if node.op_type == "Squeeze" and node.output[0].startswith("present")
        )
        a.output[0], b.output[0] = b.output[0], a.output[0]

    with pytest.raises(BundleError, match=r"'present\.h\.0' is not what becomes of 'past\.h\.0'"):
        NumpySession(edited(model, swap), manifest)


def test_weights_in_another_file_are_refused():
    def outside(graph):
        tensor = weight(graph, "head")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    model, manifest = made("lstm")
    with pytest.raises(BundleError, match="another file"):
        NumpySession(edited(model, outside), manifest)


def field(number, content):
    """A protobuf field with a length, which may be as wrong as wanted."""
    size, length = len(content), b""
    while size >= 128:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ONNX model"),
        (b"not protobuf", "not an ONNX model"),
        (b"\xff" * 40, "truncated, or not"),
        (b"\x3a\xff\xff\xff\xff\x0f", "truncated: 4,294,967,295 bytes"),
        (field(7, b"") * 2, "one graph"),
        (field(7, b"\x0a\x00" * 150_000), "100,000 fields"),
        (field(7, field(1, field(5, field(8, b"\x01" * 150_000)))), "100,000 fields"),
        (field(7, field(1, field(4, b"x" * 5000))), "5,000 bytes"),
        (field(7, field(1, field(4, b"\xff"))), "utf-8"),
        (field(7, field(5, b"\x08\x01" * 100 + b"\x10\x01" + field(9, struct.pack("<f", 1)))), "model.onnx"),
    ],
)
def test_files_that_are_no_models(data, message):
    with pytest.raises(BundleError, match=message):
        read_graph(data)


def test_shared_weights_cannot_fill_the_memory():
    """Thousands of products with one weight: each would be a copy, so they are counted first."""
    model, manifest = made("lstm")

    def many(graph):
        products = [helper.make_node("MatMul", ["hidden", "wide"], [f"m{i}"]) for i in range(5000)]
        place = list(graph.node).index(find(graph, "MatMul"))
        for node in products:
            graph.node.insert(place, node)
        wide = np.ones((16, 20_000), np.float32)
        graph.initializer.append(numpy_helper.from_array(wide, "wide"))

    with pytest.raises(BundleError, match=r"more often than|hold more than"):
        NumpySession(edited(model, many), manifest)


def survives(model, manifest):
    """Whether a model is taken, and then runs; a BundleError is the one other outcome."""
    try:
        session = NumpySession(model, manifest)
    except BundleError:
        return False
    state = session.new_state()
    prompt, draws = np.array([[0, 3, 5]]), np.zeros(1, np.float32)
    session.run(prompt, state, sampling=PARAMS, uniform=draws, want_logits=True)
    assert all(0 <= session.step(token, state, PARAMS, 0.3) < VOCAB for token in range(3))
    return True


def test_damaged_bytes(model_and_manifest):
    model, manifest = model_and_manifest
    chance = random.Random(0)
    outcomes = set()
    for _ in range(600):
        data = bytearray(model)
        for _ in range(chance.choice([1, 1, 3])):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        outcomes.add(survives(bytes(data), manifest))
    assert outcomes == {True, False}


def test_graphs_that_make_no_sense(model_and_manifest):
    """Changes that keep the file valid: operands exchanged, attributes and shapes changed, nodes moved."""
    model, manifest = model_and_manifest
    chance = random.Random(1)
    refused = 0
    for _ in range(400):
        refused += not survives(edited(model, lambda graph: disturb(graph, chance)), manifest)
    assert refused > 200


def disturb(graph, chance):
    node = chance.choice(list(graph.node))
    names = [name for other in graph.node for name in [*other.input, *other.output]]
    match chance.randrange(6):
        case 0 if node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(names)
        case 1 if node.attribute:
            chance.choice(list(node.attribute)).i = chance.choice([-1, 0, 1, 2, 2**62, -(2**63)])
        case 2:
            tensor = chance.choice(list(graph.initializer))
            array = numpy_helper.to_array(tensor)
            changed = chance.choice(
                [array.reshape(-1), array[:0] if array.ndim else array, array.T, array[None]]
            )
            dtype = chance.choice([array.dtype, np.int8, np.uint8, np.float16, np.int64])
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(dtype), tensor.name))
        case 3:
            graph.node.remove(node)
        case 4:
            node.op_type = chance.choice([other.op_type for other in graph.node])
        case _ if node.input:
            node.input.pop()
