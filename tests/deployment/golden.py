"""Writes the golden files: `python -m tests.deployment.golden`.

Only for a new case, or after a change of the names in checkpoints that the changelog calls breaking. A test that
fails for another reason has found that files of users would no longer load, or would load and compute something else.
"""

import re

import torch
from safetensors.torch import save_file
from tests.deployment.matrix import build, inputs_for
from tests.deployment.test_copies import GOLDEN, KEPT, outputs

if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in KEPT:
        model = build(case).eval()
        x, context = inputs_for(model, 2, 3)
        tensors = dict(model.state_dict()) | {"example.input": x, "example.context": context}
        for index, tensor in enumerate(outputs(model, x, context)):
            tensors[f"example.output.{index}"] = tensor
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, GOLDEN / f"{re.sub('[ ,]+', '-', case)}.safetensors")
        print(case, torch.__version__)
