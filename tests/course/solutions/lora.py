"""Apply a LoRA."""

import json
import struct
import sys

import numpy as np

TYPES = {"F32": "<f4", "F16": "<f2"}
source, output = sys.argv[1:]


def read(path):
    data = open(path, "rb").read()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    data = data[8 + length :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], TYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


out = read(f"{source}/model.safetensors")
adapter = read(f"{source}/adapter_model.safetensors")
config = json.load(open(f"{source}/adapter_config.json"))
scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
for name, a in adapter.items():
    module = name.removeprefix("base_model.model.")
    if module.endswith(".lora_A.weight"):
        b = adapter[name.replace("lora_A", "lora_B")]
        key = module.replace(".lora_A", "")
        w = out[key]
        out[key] = (w.astype(np.float32) + np.float32(scale) * (b @ a)).astype(w.dtype)
    elif not module.endswith(".lora_B.weight"):
        out[module] = a.astype(out[module].dtype)
header, body = {}, b""
for name, array in out.items():
    data = array.tobytes()
    code = "F32" if array.dtype == np.float32 else "F16"
    header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
    body += data
text = json.dumps(header).encode()
open(output, "wb").write(struct.pack("<Q", len(text)) + text + body)
