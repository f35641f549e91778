"""What a job is answered with: its text's embedding, by ONNX Runtime."""

import os

import numpy

MOST_TOKENS = 256


def load():
    """Before a worker's first job; web servers need none of this."""
    global session, tokenizer
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    # Each job has a thread of its own, which leaves nobody waiting for another.
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["ONNX"], options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(os.environ["MODEL"] + "/tokenizer.json")
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.no_padding()


def answer(text):
    ids = numpy.array([tokenizer.encode(text).ids], dtype=numpy.int32)
    embedding = session.run(None, {"ids": ids, "types": numpy.zeros_like(ids)})[0][0]
    return embedding / numpy.linalg.norm(embedding)
