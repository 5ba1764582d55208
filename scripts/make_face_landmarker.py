"""Makes `face_landmarker.task`, the face models for releases of MediaPipe that bundle none (0.10.30 and later).

MediaPipe 0.10.21 carries its face models in its wheel, under the Apache License 2.0. This script packs three of them
into one file of the kind that MediaPipe's Tasks API opens, so that the landmarks are those of 0.10.21:

- `face_detector.tflite`: the short-range detector, unchanged;
- `face_landmarks_detector.tflite`: the face mesh with attention. Its seven outputs (mesh, lips, eyes, irises, score)
  become the two that the Tasks API reads: the mesh with the lips, eyes and irises written over it, as the graph of
  0.10.21 does after the model, and the score. Two operations are added; no weight changes;
- `face_detector_full_range.tflite`: the full-range detector, unchanged, which `faces.py` opens for small faces.

    python scripts/make_face_landmarker.py [OUTPUT]

It needs mediapipe 0.10.21 (Python 3.12 or older) and writes the same bytes each time.
"""

import argparse
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

import flatbuffers
import mediapipe
import numpy as np
from mediapipe.tasks.metadata import schema_py_generated as schema

VERSION = "0.10.21"
TARGET = Path(__file__).parents[1] / "src" / "hf_emotion" / "processing" / "face_landmarker.task"
ALIGNMENT = 64  # bytes: the tensors in a file are then read in place

# The landmarks that each refined output holds (x, y), in its order; right mirrors left. From MediaPipe's
# tensors_to_face_landmarks_with_attention.pbtxt (Apache-2.0).
LIPS = [
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    *(76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408),
    *(62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407),
]
FIRST_EYE = [
    *(33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    *(130, 25, 110, 24, 23, 22, 26, 112, 243, 247, 30, 29, 27, 28, 56, 190),
    *(226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189),
    *(35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245),
    *(156, 70, 63, 105, 66, 107, 55, 193),
]
SECOND_EYE = [
    *(263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
    *(359, 255, 339, 254, 253, 252, 256, 341, 463, 467, 260, 259, 257, 258, 286, 414),
    *(446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413),
    *(265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465),
    *(383, 300, 293, 334, 296, 336, 285, 417),
]
FIRST_IRIS, SECOND_IRIS = [468, 469, 470, 471, 472], [473, 474, 475, 476, 477]
NOTICE = f"""Face models of MediaPipe {VERSION}, https://github.com/google/mediapipe
Copyright The MediaPipe Authors. Licensed under the Apache License, Version 2.0:
https://www.apache.org/licenses/LICENSE-2.0

Taken from the wheel mediapipe {VERSION}. face_detector.tflite (face_detection_short_range.tflite there) and
face_detector_full_range.tflite (face_detection_full_range_sparse.tflite) are unchanged.
face_landmarks_detector.tflite is face_landmark_with_attention.tflite, changed by hf_emotion: its mesh, lips, eyes and
irises are joined in one output; the weights are the same. The depth of an iris is that of a corner of its eye.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", type=Path, default=TARGET, help="the file to write (default: %(default)s)")
    output = parser.parse_args().output
    found = importlib.metadata.version("mediapipe")
    if found != VERSION:
        parser.error(f"mediapipe {found} is installed; {VERSION} is needed: later releases bundle no models")
    modules = Path(mediapipe.__file__).parent / "modules"
    data = task_file(
        {
            "NOTICE.txt": NOTICE.encode(),
            "face_detector.tflite": (modules / "face_detection/face_detection_short_range.tflite").read_bytes(),
            "face_landmarks_detector.tflite": joined_outputs(
                (modules / "face_landmark/face_landmark_with_attention.tflite").read_bytes()
            ),
            "face_detector_full_range.tflite": (
                modules / "face_detection/face_detection_full_range_sparse.tflite"
            ).read_bytes(),
        }
    )
    output.write_bytes(data)
    print(f"{output}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


def task_file(members: dict[str, bytes]) -> bytes:
    """A zip file without compression, each member's content at a multiple of `ALIGNMENT`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            start = content.tell() + 30 + len(name) + 4  # the local header, and that of its extra field
            padding = -start % ALIGNMENT
            info.extra = b"\x35\xd9" + padding.to_bytes(2, "little") + bytes(padding)  # the tag that zipalign uses
            archive.writestr(info, data)
    return content.getvalue()


def joined_outputs(data: bytes) -> bytes:
    """The attention mesh with two outputs instead of seven: (1, 1, 1, 478 * 3) landmarks, (1, 1, 1, 1) score."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    graph = model.subgraphs[0]
    *parts, score = list(graph.outputs)
    widths = [int(graph.tensors[i].shape[-1]) for i in parts]
    tables = [LIPS, FIRST_EYE, SECOND_EYE, FIRST_IRIS, SECOND_IRIS]
    if widths != [468 * 3, *(2 * len(table) for table in tables)]:
        raise SystemExit(f"the outputs of the face mesh have {widths} numbers, which is another model")
    # Where each coordinate of the 478 landmarks stands among all outputs, one after the other.
    source = np.empty((478, 3), np.int32)
    source[:468] = np.arange(468 * 3).reshape(468, 3)
    source[FIRST_IRIS, 2], source[SECOND_IRIS, 2] = source[33, 2], source[263, 2]
    start = 468 * 3
    for table in tables:
        source[table, 0] = start + 2 * np.arange(len(table))
        source[table, 1] = source[table, 0] + 1
        start += 2 * len(table)
    joined = add_tensor(model, "all_outputs", (1, 1, 1, start), schema.TensorType.FLOAT32)
    order = add_tensor(model, "refined_order", (source.size,), schema.TensorType.INT32, source.tobytes())
    refined = add_tensor(model, "refined_landmarks", (1, 1, 1, source.size), schema.TensorType.FLOAT32)
    concatenation, gather = schema.ConcatenationOptionsT(), schema.GatherOptionsT()
    concatenation.axis = gather.axis = 3
    add_operator(model, "CONCATENATION", parts, joined, "ConcatenationOptions", concatenation)
    add_operator(model, "GATHER", [joined, order], refined, "GatherOptions", gather)
    graph.outputs = np.array([refined, score], np.int32)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def add_tensor(model, name, shape, kind, data=None):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, np.array(shape, np.int32), kind, 0
    if data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def add_operator(model, name, inputs, output, options_name, options):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_name)
    operator.builtinOptions = options
    model.subgraphs[0].operators.append(operator)


def pack_aligned(self, builder):
    """A buffer at a multiple of 16 bytes, which the format demands and the generated code ignores."""
    vector = None
    if self.data is not None:
        data = bytes(self.data)
        builder.StartVector(1, len(data), 16)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        vector = builder.EndVector()
    schema.BufferStart(builder)
    if vector is not None:
        schema.BufferAddData(builder, vector)
    return schema.BufferEnd(builder)


schema.BufferT.Pack = pack_aligned

if __name__ == "__main__":
    main()
