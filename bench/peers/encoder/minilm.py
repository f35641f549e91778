"""all-MiniLM-L6-v2 as a graph of ONNX Runtime, as its own optimizer for transformers would write it: fused attention, skip layer norm,
bias with GELU."""

import tempfile

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

LAYERS, HEADS, EPSILON = 6, 12, 1e-12


def graph(directory):
    """The model in this directory, in f32."""
    tensors = load_file(f"{directory}/model.safetensors")
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(numpy.ascontiguousarray(value), name))
        return name

    def tensor(name):
        return constant(name, tensors[name])

    def weights(names):
        """As Linear has them, turned round, side by side; and their biases."""
        matrix = numpy.concatenate([tensors[f"{name}.weight"] for name in names]).T
        bias = numpy.concatenate([tensors[f"{name}.bias"] for name in names])
        return constant(f"{names[0]}.matrix", matrix), constant(f"{names[0]}.vector", bias)

    def node(kind, inputs, output, domain="com.microsoft", **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def skip_norm(value, skip, name, bias, output):
        inputs = [value, skip, tensor(f"{name}.weight"), tensor(f"{name}.bias"), bias]
        return node("SkipLayerNormalization", inputs, output, epsilon=EPSILON)

    table = "embeddings."
    embedded = ["word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"]
    embedded = [tensor(table + name) for name in [*embedded, "LayerNorm.weight", "LayerNorm.bias"]]
    nodes.append(helper.make_node("EmbedLayerNormalization", ["ids", "types", *embedded], ["hidden", "lengths"],
                                  domain="com.microsoft", epsilon=EPSILON))
    hidden = "hidden"
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}."
        part = layer + "attention.self."
        matrix, bias = weights([part + "query", part + "key", part + "value"])
        context = node("Attention", [hidden, matrix, bias], layer + "context", num_heads=HEADS)
        matrix, bias = weights([layer + "attention.output.dense"])
        attended = node("MatMul", [context, matrix], layer + "attended", domain="")
        hidden = skip_norm(attended, hidden, layer + "attention.output.LayerNorm", bias, layer + "middle")
        matrix, bias = weights([layer + "intermediate.dense"])
        between = node("MatMul", [hidden, matrix], layer + "up", domain="")
        between = node("BiasGelu", [between, bias], layer + "between")
        matrix, bias = weights([layer + "output.dense"])
        down = node("MatMul", [between, matrix], layer + "down", domain="")
        hidden = skip_norm(down, hidden, layer + "output.LayerNorm", bias, layer + "hidden")
    node("ReduceMean", [hidden, constant("tokens", numpy.array([1]))], "mean", domain="", keepdims=0)
    value = helper.make_tensor_value_info
    inputs = [value(name, TensorProto.INT32, ["batch", "length"]) for name in ("ids", "types")]
    outputs = [value("mean", TensorProto.FLOAT, ["batch", 384])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_graph(nodes, "encoder", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def quantised(model):
    """The model as `onnxruntime.quantization.quantize_dynamic` makes it, as bytes: weights of 8 bits for each output, activations of
    8 bits by what a batch has, attention in the quantised operator."""
    # A web server need not wait for it.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as directory:
        whole, narrow = f"{directory}/f32.onnx", f"{directory}/int8.onnx"
        onnx.save(model, whole)
        quantize_dynamic(whole, narrow, per_channel=True, weight_type=QuantType.QInt8,
                         extra_options={"DefaultTensorType": TensorProto.FLOAT})
        with open(narrow, "rb") as file:
            return file.read()
